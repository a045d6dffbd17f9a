"""What notebooks need: tables, servers, folders, runs, sweeps and reports. It may import every other folder."""

from ruo.errors import needs

with needs("notebooks"):
    from ruo.notebook.prepare import prepare
    from ruo.notebook.run import run_notebook

__all__ = ["prepare", "run_notebook"]
