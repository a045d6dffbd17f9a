"""Experiments: randomised runs, written to disk one by one, and what they say.

Measures through `ruo.client`; draws nothing.
"""

from ruo.experiment.compare_runs import compare_runs
from ruo.experiment.network import measure_network
from ruo.experiment.results import read_sweep
from ruo.experiment.scaling import balance, law, measure_costs, pays, speed_ups, verdict_on_scaling
from ruo.experiment.sweep import sweep

__all__ = [
    "balance",
    "compare_runs",
    "law",
    "measure_costs",
    "measure_network",
    "pays",
    "read_sweep",
    "speed_ups",
    "sweep",
    "verdict_on_scaling",
]
