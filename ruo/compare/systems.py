"""The systems that are compared: their servers, and their jobs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ruo.compare.jobs import run_job
from ruo.compare.paper_server import paper_server
from ruo.deploy.local import local_server
from ruo.errors import MissingPackageError

__all__ = ["BOUND", "PAPER", "PAPER_CLIENT", "SYSTEMS", "V2", "Systems"]

PAPER = "paper's system"
BOUND = "no network at all"
PAPER_CLIENT = "paper's client, ruo's server"
_WIRES = {f"ruo, wire {wire}": wire for wire in ("v2", "v2-json", "v1", "paper")}
V2 = next(iter(_WIRES))
SYSTEMS = (PAPER, *_WIRES, PAPER_CLIENT, BOUND)


class Systems:
    """All systems for one test set (a CSV file) and one model; their servers run as long as the `with` block does.

    `workers` is the number of processes of ruo's server, by default one per CPU. `peers` are other servers with the same
    model: their names, and the addresses at which ruo's client reaches them. Raises MissingPackageError where the packages
    of the paper's client are not installed.
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

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._paper = stack.enter_context(paper_server(self.model, self.testset))
            self._ruo = stack.enter_context(local_server(self.model, self.workers, settings=self._settings()))
            run_job(self._arguments(V2, 10_000))  # warm it by requests, as the other server is
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def sessions(self, system: str) -> tuple[list[int], list[int]]:
        """The process sessions of the servers that work for this system, and of those that are idle meanwhile."""
        ours, papers = self._ruo.pid, self._paper.pid
        if system == BOUND or system in self.peers:
            return [], [ours, papers]
        return ([papers], [ours]) if system == PAPER else ([ours], [papers])

    def prepare(self, system: str) -> None:
        """Bring the system's server into the state in which it is measured."""
        if system == PAPER:
            self._paper.warm()

    def run(self, system: str, chunk_size: int | None, answers: Path) -> dict[str, Any]:
        """Do one job in a new process: what it printed, or the `error`; its predictions are in the file `answers`."""
        return run_job([*self._arguments(system, chunk_size), "--answers", str(answers)])

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
