"""Experiments: plans in randomised blocks, runs on disk, and what they show."""

from ruo.errors import needs

with needs("notebooks"):
    from ruo.experiment.compare_runs import RunsCompared, compare_runs
    from ruo.experiment.costs import Costs, flops_per_row, measure_costs, measure_network, slow_network, table_of_costs
    from ruo.experiment.results import Sweep, read_sweep
    from ruo.experiment.scaling import answer_on_scaling, balance, pays, speed_ups
    from ruo.experiment.sweep import sweep

__all__ = [
    "Costs",
    "RunsCompared",
    "Sweep",
    "answer_on_scaling",
    "balance",
    "compare_runs",
    "flops_per_row",
    "measure_costs",
    "measure_network",
    "pays",
    "read_sweep",
    "slow_network",
    "speed_ups",
    "sweep",
    "table_of_costs",
]
