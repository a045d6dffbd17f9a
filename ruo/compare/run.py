"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a fresh client process; its clock runs from before the reading until the last prediction, and leaves
imports out. All servers run throughout, warm, and those that are not measured are idle. Every answer is compared with
that of the model in one process.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ruo.compare.jobs import Job, JobMeasurement
from ruo.compare.results import SystemsCompared, read_systems
from ruo.compare.systems import BOUND, PAPER, SYSTEMS, V2, Systems
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
    """Run every system again and again, in randomised blocks, and keep what each run took.

    Parameters
    ----------
    systems : Systems
        The systems, with their servers running.
    sizes : sequence of int or None
        Rows per request; None is the whole set in one.
    runs : int
        The number of blocks, which hold every system once at each size.
    results_dir : path
        The folder for the runs; the same call resumes an interrupted comparison there.
    seed : int
        Sets the order of the runs.
    paper_once : bool
        Whether the paper's system, which is slow, runs once per size instead of in each block.
    patience_s : float
        How long to wait before a run, in seconds, while the machine is busy with something else.
    log : callable, optional
        Called with a line of text after each run.

    Raises
    ------
    ScoringError
        The model cannot score the test set in one process.
    ExperimentError
        `results_dir` holds runs of another plan, other data, another model or another machine.
    """
    plan = plan_systems(sizes, runs, seed, paper_once=paper_once, systems=systems.names)
    files = {"data": systems.testset, "model": systems.model}
    facts = {what: {"name": path.name, "sha256": fingerprint(path)} for what, path in files.items()}
    provenance = Provenance({"plan": plan.facts(), **facts, "systems": systems.facts(), "machine": machine()})
    measurement = _SystemsMeasurement(systems)
    carry_out(plan, measurement, provenance, results_dir, patience_s=patience_s, progress=False, log=log)
    return read_systems(results_dir)


class _SystemsMeasurement(JobMeasurement):
    """One job of one system, with the CPU seconds of client and servers."""

    def __init__(self, systems: Systems) -> None:
        super().__init__(partial(systems.run, BOUND, None))
        self._systems = systems

    def begin(self, resumed: bool) -> None:
        super().begin(resumed)
        with tempfile.TemporaryDirectory(prefix="ruo-job-") as folder:  # the other server was warmed by requests, too
            self._systems.run(V2, 10_000, Path(folder) / "answers.npy")

    def prepare(self, trial: Trial) -> None:
        self._systems.prepare(trial.levels["system"])

    def job(self, trial: Trial) -> Job:
        return partial(self._systems.run, trial.levels["system"], trial.levels["chunk_size"])

    def measure(self, trial: Trial) -> dict[str, Any]:
        with _cpu_used(*self._systems.sessions(trial.levels["system"])) as cpu:
            measured = super().measure(trial)
        rows = measured["rows_wanted"]
        return {**measured, "rows_per_request": min(trial.levels["chunk_size"] or rows, rows), **cpu}


@contextmanager
def _cpu_used(working: Sequence[int], idle: Sequence[int]) -> Iterator[dict[str, float | None]]:
    """CPU seconds of the client, its server and the idle servers in the block, and the CPUs that others used."""
    cpu: dict[str, float | None] = {}
    before, began = _cpu_clocks(working, idle), time.monotonic()
    yield cpu
    after, seconds = _cpu_clocks(working, idle), time.monotonic() - began
    client, own, server, resting, total = (
        None if new is None or old is None else new - old for new, old in zip(after, before, strict=True)
    )
    others = None
    if total is not None:
        others = round(max(0.0, total - sum(filter(None, (client, own, server, resting)))) / seconds, 2)
    cpu |= {"client_cpu_s": client, "server_cpu_s": server, "idle_servers_cpu_s": resting, "others_cpus": others}


def _cpu_clocks(working: Sequence[int], idle: Sequence[int]) -> list[float | None]:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    used: list[float | None] = [clock.ru_utime + clock.ru_stime for clock in usage]
    for sessions in (working, idle):
        times = [session_cpu_s(session) for session in sessions]
        used.append(None if None in times else sum(filter(None, times)))
    return [*used, busy_cpu_s()]
