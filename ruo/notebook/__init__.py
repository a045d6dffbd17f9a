"""What the notebooks need: servers and data made ready, runs, sweeps over parameters, and reports.

The top floor: it may import every other folder.
"""
