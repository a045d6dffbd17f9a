"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a new client process. Its clock starts before the reading, stops at the last prediction, and leaves
imports out. All servers run throughout, warm; those that are not measured are idle. Every prediction is compared with
that of the model in one process.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ruo.compare.jobs import Job, JobMeasurement
from ruo.compare.results import SystemsCompared, read_systems
from ruo.compare.systems import BOUND, PAPER, SYSTEMS, Systems
from ruo.experiment.carry_out import carry_out
from ruo.experiment.plan import Plan, Trial, all_combinations
from ruo.machine import busy_cpu_s, session_cpu_s
from ruo.provenance import Provenance, fingerprint, machine

__all__ = ["ALL_SIZES", "compare_systems", "plan_systems"]

ALL_SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, None)


def plan_systems(
    sizes: Sequence[int | None],
    runs: int,
    seed: int = 0,
    *,
    paper_once: bool = False,
    systems: Sequence[str] = SYSTEMS,
) -> Plan:
    """Blocks with every system once at each size, and the bound once; with `paper_once` the paper's once in all."""
    sent = [name for name in systems if name != BOUND]
    combinations = [{"system": BOUND, "chunk_size": None}, *all_combinations({"system": sent, "chunk_size": sizes})]
    return Plan(combinations, runs, warmup=0, seed=seed, once={"system": PAPER} if paper_once else None)


def compare_systems(
    systems: Systems,
    sizes: Sequence[int | None],
    runs: int,
    results_dir: Path,
    *,
    seed: int = 0,
    paper_once: bool = False,
    patience_s: float = 10.0,
    log: Callable[[str], object] | None = None,
) -> SystemsCompared:
    """Run every system once at each size (rows per request; None: all) in each of `runs` randomised blocks.

    The same call resumes an interrupted comparison in `results_dir`. `patience_s` and `log` are those of `carry_out`,
    which also says what is raised; ScoringError is raised where the model cannot score the test set in one process.
    """
    plan = plan_systems(sizes, runs, seed, paper_once=paper_once, systems=(*SYSTEMS, *systems.peers))
    files = {"data": systems.testset, "model": systems.model}
    facts = {what: {"name": path.name, "sha256": fingerprint(path)} for what, path in files.items()}
    about = {"workers": systems.workers, "peers": systems.peers}
    provenance = Provenance({"plan": plan.facts(), **facts, "systems": about, "machine": machine()})
    measurement = _SystemsMeasurement(systems)
    carry_out(plan, measurement, provenance, results_dir, patience_s=patience_s, progress=False, log=log)
    return read_systems(results_dir)


class _SystemsMeasurement(JobMeasurement):
    """Runs the jobs of the systems, and measures the CPU seconds of client and servers."""

    def __init__(self, systems: Systems) -> None:
        def job(trial: Trial) -> Job:
            return partial(systems.run, trial.levels["system"], trial.levels["chunk_size"])

        super().__init__(job, bound=partial(systems.run, BOUND, None))
        self._systems = systems

    def prepare(self, trial: Trial) -> None:
        self._systems.prepare(trial.levels["system"])

    def measure(self, trial: Trial) -> dict[str, Any]:
        working, idle = self._systems.sessions(trial.levels["system"])
        before, began = _cpu_seconds(working, idle), time.monotonic()
        measured = super().measure(trial)
        after, seconds = _cpu_seconds(working, idle), time.monotonic() - began
        used: dict[str, float | None] = {name: after[name] - before[name] for name in after}
        others = used.pop("others_cpu_s", None)
        used["others_cpus"] = None if others is None else round(max(0.0, others) / seconds, 2)
        rows = measured["rows_wanted"]
        size = min(trial.levels["chunk_size"] or rows, rows)
        return {**measured, "rows_per_request": size, "server_cpu_s": None, "idle_servers_cpu_s": None, **used}


def _cpu_seconds(working: Sequence[int], idle: Sequence[int]) -> dict[str, float]:
    """CPU seconds until now of clients, of servers (by their sessions) and of all others; only Linux counts the latter."""
    clocks = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    clients, own = (clock.ru_utime + clock.ru_stime for clock in clocks)
    seconds = {"client_cpu_s": clients}
    total = busy_cpu_s()
    if total is not None:
        seconds["server_cpu_s"] = sum(session_cpu_s(session) or 0.0 for session in working)
        seconds["idle_servers_cpu_s"] = sum(session_cpu_s(session) or 0.0 for session in idle)
        seconds["others_cpu_s"] = total - own - sum(seconds.values())
    return seconds
