"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a new client process. Its clock starts before the reading, stops at the last prediction, and leaves
imports out. All servers run throughout, warm; those that are not measured are idle. Every prediction is compared with
that of the model in one process.
"""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ruo.compare.jobs import Job, JobMeasurement, run_job
from ruo.compare.paper_server import paper_server
from ruo.compare.results import BOUND, PAPER, PAPER_CLIENT, SYSTEMS, V2, SystemsCompared, read_systems
from ruo.deploy.local import local_server
from ruo.errors import MissingPackageError
from ruo.experiment.carry_out import carry_out
from ruo.experiment.plan import Plan, Trial, all_combinations
from ruo.machine import busy_cpu_s, session_cpu_s
from ruo.provenance import Provenance, fingerprint, machine

ALL_SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, None)


class Systems(JobMeasurement):
    """All systems for one test set (a CSV file) and one model; their servers run as long as the `with` block does.

    `workers` is the number of processes of ruo's server, by default one per CPU. `peers` are other servers of the same
    model: their names, and their addresses for ruo's client. Raises MissingPackageError where grequests is missing.
    """

    def __init__(
        self, testset: Path, model: Path, workers: int | None = None, peers: Mapping[str, str] | None = None
    ) -> None:
        if importlib.util.find_spec("grequests") is None:
            raise MissingPackageError("The paper's client needs grequests; run: pip install 'ruo[paper]'")
        self.testset = testset.resolve()
        self.model = model.resolve()
        self.workers = workers
        self.peers = dict(peers or {})
        super().__init__(lambda trial: self._job(**trial.levels), bound=self._job(BOUND, None))

    def __enter__(self) -> Self:
        settings: dict[str, object] = {}
        if "MAX_REQUEST_MB" not in os.environ:  # let it take the whole set as one JSON request, as the paper's does
            settings["MAX_REQUEST_MB"] = max(256, 2 * self.testset.stat().st_size // 2**20)
        with ExitStack() as stack:
            self._paper = stack.enter_context(paper_server(self.model, self.testset))
            self._ruo = stack.enter_context(local_server(self.model, self.workers, settings=settings))
            run_job(self._arguments(V2, 10_000))  # warm it by requests, as the other server is
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def prepare(self, trial: Trial) -> None:
        """Bring the system's server into the state in which it is measured."""
        if trial.levels["system"] == PAPER:
            self._paper.warm()

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Run the job, check its predictions, and measure the CPU seconds of client and servers."""
        before, began = self._cpu_seconds(trial.levels["system"]), time.monotonic()
        measured = super().measure(trial)
        seconds = time.monotonic() - began
        used = {name: now - before[name] for name, now in self._cpu_seconds(trial.levels["system"]).items()}
        if "others_cpu_s" in used:
            used["others_cpus"] = round(max(0.0, used.pop("others_cpu_s")) / seconds, 2)
        rows = measured["rows_wanted"]
        return {**measured, "rows_per_request": min(trial.levels["chunk_size"] or rows, rows), **used}

    def _cpu_seconds(self, system: str) -> dict[str, float]:
        """CPU seconds until now: of clients, and on Linux of the system's server, the idle servers and all others."""
        clocks = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
        clients, own = (clock.ru_utime + clock.ru_stime for clock in clocks)
        total, ours, papers = busy_cpu_s(), session_cpu_s(self._ruo.pid), session_cpu_s(self._paper.pid)
        if total is None or ours is None or papers is None:
            return {"client_cpu_s": clients}
        server = {PAPER: papers, BOUND: 0.0, **dict.fromkeys(self.peers, 0.0)}.get(system, ours)
        servers = {"server_cpu_s": server, "idle_servers_cpu_s": ours + papers - server}
        return {"client_cpu_s": clients, **servers, "others_cpu_s": total - own - clients - ours - papers}

    def _job(self, system: str, chunk_size: int | None) -> Job:
        return lambda answers: run_job([*self._arguments(system, chunk_size), "--answers", str(answers)])

    def _arguments(self, system: str, chunk_size: int | None) -> list[str]:
        testset, size = str(self.testset), ["--chunk-size", str(chunk_size or 0)]
        if system == BOUND:
            return ["ruo.compare.in_process", testset, str(self.model)]
        if system == PAPER:
            return ["ruo.compare.paper.client", testset, self._paper.url, *size]
        if system == PAPER_CLIENT:
            return ["ruo.compare.paper.client", testset, f"{self._ruo.url}/test", *size]
        if system in self.peers:
            return ["ruo.compare.score_job", testset, self.peers[system], *size]
        return ["ruo.compare.score_job", testset, self._ruo.url, *size, "--wire", system.rpartition(" ")[2]]


def plan_systems(
    sizes: Sequence[int | None], runs: int, seed: int = 0, *, paper_once: bool = False, systems: Sequence[str] = SYSTEMS
) -> Plan:
    """Blocks with every system once at each size, and the bound once; `paper_once`: the paper's in only one of them."""
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
    """Run every system at each size (rows per request; None: all) in `runs` randomised blocks, as `carry_out` does."""
    plan = plan_systems(sizes, runs, seed, paper_once=paper_once, systems=(*SYSTEMS, *systems.peers))
    files = {"data": systems.testset, "model": systems.model}
    facts = {what: {"name": path.name, "sha256": fingerprint(path)} for what, path in files.items()}
    about = {"workers": systems.workers, "peers": systems.peers}
    provenance = Provenance({"plan": plan.facts(), **facts, "systems": about, "machine": machine()})
    carry_out(plan, systems, provenance, results_dir, patience_s=patience_s, progress=False, log=log)
    return read_systems(results_dir)
