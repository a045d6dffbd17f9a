"""The systems that are compared: their servers, their jobs, and how a job is measured."""

from __future__ import annotations

import importlib.util
import os
import resource
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ruo.compare.jobs import Job, JobMeasurement, run_job
from ruo.compare.paper_server import paper_server
from ruo.deploy.local import local_server
from ruo.errors import MissingPackageError
from ruo.experiment.carry_out import Trial
from ruo.machine import busy_cpu_s, session_cpu_s

__all__ = ["BOUND", "PAPER", "PAPER_CLIENT", "SYSTEMS", "V2", "Systems"]

PAPER = "paper's system"
BOUND = "no network at all"
PAPER_CLIENT = "paper's client, ruo's server"
_WIRES = {f"ruo, wire {wire}": wire for wire in ("v2", "v2-json", "v1", "paper")}
V2 = next(iter(_WIRES))
SYSTEMS = (PAPER, *_WIRES, PAPER_CLIENT, BOUND)


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
        with ExitStack() as stack:
            self._paper = stack.enter_context(paper_server(self.model, self.testset))
            self._ruo = stack.enter_context(local_server(self.model, self.workers, settings=self._settings()))
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
        after, seconds = self._cpu_seconds(trial.levels["system"]), time.monotonic() - began
        used: dict[str, float | None] = {name: after[name] - before[name] for name in after}
        others = used.pop("others_cpu_s", None)
        used["others_cpus"] = None if others is None else round(max(0.0, others) / seconds, 2)
        rows = measured["rows_wanted"]
        size = min(trial.levels["chunk_size"] or rows, rows)
        return {**measured, "rows_per_request": size, "server_cpu_s": None, "idle_servers_cpu_s": None, **used}

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
        return ["ruo.compare.score_job", testset, self._ruo.url, *size, "--wire", _WIRES[system]]

    def _settings(self) -> dict[str, object]:
        """Let ruo's server take the whole set as one JSON request, as the paper's does, unless a limit is set."""
        if "MAX_REQUEST_MB" in os.environ:
            return {}
        return {"MAX_REQUEST_MB": max(256, 2 * self.testset.stat().st_size // 2**20)}
