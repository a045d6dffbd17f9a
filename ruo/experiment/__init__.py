"""Experiments: plans in randomised blocks, runs on disk, and what they show."""

from ruo.errors import needs

with needs("notebooks"):
    from ruo.experiment.compare_runs import RunsCompared, compare_runs
    from ruo.experiment.costs import Costs, flops_per_row, measure_costs, measure_network, slow_network
    from ruo.experiment.results import Sweep, read_sweep
    from ruo.experiment.scaling import balance, law, pays, speed_ups, verdict_on_scaling
    from ruo.experiment.sweep import sweep

__all__ = [
    "Costs",
    "RunsCompared",
    "Sweep",
    "balance",
    "compare_runs",
    "flops_per_row",
    "law",
    "measure_costs",
    "measure_network",
    "pays",
    "read_sweep",
    "slow_network",
    "speed_ups",
    "sweep",
    "verdict_on_scaling",
]
