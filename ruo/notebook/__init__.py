"""What notebooks need: tables, servers and folders made ready, and runs, sweeps and reports of whole notebooks.

It may import every other folder; papermill and nbconvert are imported when a notebook is run.
"""

from ruo.notebook.grid import run_grid
from ruo.notebook.prepare import Workbench, prepare, prepare_files, prepare_replicas, prepare_tables
from ruo.notebook.report import bind
from ruo.notebook.run import run_notebook

__all__ = [
    "Workbench",
    "bind",
    "prepare",
    "prepare_files",
    "prepare_replicas",
    "prepare_tables",
    "run_grid",
    "run_notebook",
]
