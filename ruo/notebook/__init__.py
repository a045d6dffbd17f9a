"""What notebooks need: tables, servers and folders, and runs, sweeps and reports of whole notebooks.

It may import every other folder; papermill and nbconvert are imported when a notebook is run.
"""

from ruo.notebook.prepare import prepare, prepare_files, prepare_replicas, prepare_tables
from ruo.notebook.run import run_notebook

__all__ = ["prepare", "prepare_files", "prepare_replicas", "prepare_tables", "run_notebook"]
