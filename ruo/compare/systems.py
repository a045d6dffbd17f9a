"""The systems that are compared: their servers, and one job of each in a client process of its own."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from ruo.compare.jobs import run_job
from ruo.compare.paper_server import paper_body, paper_server
from ruo.deploy.local import local_server
from ruo.errors import MissingPackageError

__all__ = ["BOUND", "PAPER", "PAPER_CLIENT", "SYSTEMS", "V2", "WIRES", "Systems"]

PAPER = "paper's system"
BOUND = "no network at all"
PAPER_CLIENT = "paper's client, ruo's server"
WIRES = {f"ruo, wire {wire}": wire for wire in ("v2", "v2-json", "v1", "paper")}
V2 = next(iter(WIRES))
SYSTEMS = (PAPER, *WIRES, PAPER_CLIENT, BOUND)


class Systems:
    """All systems for one test set and one model; their servers run as long as the `with` block does.

    Parameters
    ----------
    testset, model : pathlib.Path
        The CSV file and the model.
    workers : int, optional
        The number of processes of ruo's server; by default one for each CPU.
    timeout_s : float
        How long a job may take, in seconds.
    peers : mapping, optional
        Other servers that hold the same model, by name: addresses such as http://host/v2/models/NAME, which ruo's
        client asks.

    Raises
    ------
    MissingPackageError
        The packages of the paper's client are not installed.
    """

    def __init__(
        self,
        testset: Path,
        model: Path,
        workers: int | None = None,
        timeout_s: float = 600.0,
        peers: Mapping[str, str] | None = None,
    ) -> None:
        if importlib.util.find_spec("grequests") is None:
            raise MissingPackageError("The paper's client needs grequests; run: pip install 'ruo[paper]'")
        self.testset = testset.resolve()
        self.model = model.resolve()
        self.peers = dict(peers or {})
        self._workers = workers
        self._timeout_s = timeout_s

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all systems."""
        return (*SYSTEMS, *self.peers)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._paper = stack.enter_context(paper_server(self.model))
            self._ruo = stack.enter_context(local_server(self.model, self._workers, settings=self._settings()))
            self._warm_body = paper_body(self.testset)
            self._paper.warm(self._warm_body)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def facts(self) -> dict[str, Any]:
        """What is compared, for the provenance."""
        return {"workers": self._workers, "peers": self.peers}

    def sessions(self, system: str) -> tuple[list[int], list[int]]:
        """The process sessions of the servers that do this system's work, and of those that are idle meanwhile."""
        ours, papers = self._ruo.pid, self._paper.pid
        if system == BOUND or system in self.peers:
            return [], [ours, papers]
        return ([papers], [ours]) if system == PAPER else ([ours], [papers])

    def prepare(self, system: str) -> None:
        """Bring the system's server into the state that it is measured in."""
        if system == PAPER:
            self._paper.warm(self._warm_body)

    def run(self, system: str, chunk_size: int | None, answers: Path) -> dict[str, Any]:
        """One job, in a new process: what it printed, or `error`; its predictions are in the file `answers`."""
        return run_job([*self._arguments(system, chunk_size), "--answers", str(answers)], self._timeout_s)

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
        return ["ruo.compare.score_job", testset, self._ruo.url, *size, "--wire", WIRES[system]]

    def _settings(self) -> dict[str, object]:
        """Ruo's server takes the whole set as one request of JSON, as the paper's does, unless a limit is set."""
        if "MAX_REQUEST_MB" in os.environ:
            return {}
        return {"MAX_REQUEST_MB": max(256, 2 * self.testset.stat().st_size // 2**20)}
