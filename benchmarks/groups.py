"""The jobs that are measured, in groups that share their servers."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import psutil

from benchmarks.peers.servers import PEERS, peer_variables
from ruo.compare.jobs import Job, job_environment, python_job, run_command
from ruo.compare.systems import paper_server
from ruo.deploy import LocalServer, local_server
from ruo.errors import RuoError
from ruo.learn.demo import make_testset
from ruo.machine import cpu_limit

_TIMEOUT_S = 900.0
_SIZES = (100, 1_000, 5_000, 10_000, 50_000, 100_000)
_OPENVINO_SIZES = (5_000, 10_000, 50_000)
_SCALING_SIZES = (1_000, 5_000, 20_000)
_SCALING_ROWS = 200_000
_LONG_ROWS = 5_000_000
_BACKENDS = ("tensorflow", "openvino")
_SCORE_BY_BLOCKS = """
import json, sys
from ruo import iter_scores
from ruo.machine import peak_rss_mb
rows = sum(len(block.predictions) for block in iter_scores(*sys.argv[1:]))
print(json.dumps({"rows": rows, "mb": peak_rss_mb()}))
"""


@dataclass(frozen=True)
class Files:
    """The test set, and the light and the heavy model."""

    testset: Path
    mlp: Path
    cnn: Path

    @property
    def cpus(self) -> int:
        """The number of whole CPUs that may be used."""
        return max(1, int(cpu_limit()))


@dataclass(frozen=True)
class Group:
    """Jobs by name, measured in the same blocks.

    `bound` is the job in one process that gives the right predictions; without it they are not checked. The job `once`
    runs in one block only. `warmup` blocks come first. `left_out` names the servers that cannot be installed here.
    """

    jobs: Mapping[str, Job]
    bound: Job | None = None
    once: str | None = None
    warmup: int = 0
    left_out: list[str] = field(default_factory=list)


@contextmanager
def mlp(files: Files) -> Iterator[Group]:
    """The light model: the system of 2023, ruo at every request size, a bare socket, and no network at all."""
    testset, model = files.testset, files.mlp
    with paper_server(model, testset) as paper, _served(model) as ours, _served(model, "openvino") as openvino:
        jobs = {f"bound {backend} mlp": _bound(testset, model, backend) for backend in _BACKENDS}
        jobs["bound tensorflow mlp labels"] = _bound(testset, model, "tensorflow", reads_labels=True)
        jobs |= {f"bare socket {backend} mlp": _bare_socket(testset, model, backend) for backend in _BACKENDS}
        jobs |= {f"tensorflow mlp {rows}": _ruo(ours.url, testset, rows) for rows in _SIZES}
        jobs |= {f"openvino mlp {rows}": _ruo(openvino.url, testset, rows) for rows in _OPENVINO_SIZES}
        jobs["tensorflow mlp whole"] = _ruo(ours.url, testset, 0)
        jobs["paper mlp 10000"] = _paper_client(testset, paper.url)
        jobs["paper client mlp 10000"] = _paper_client(testset, f"{ours.url}/test")
        yield Group(jobs, jobs["bound tensorflow mlp"])


@contextmanager
def cnn(files: Files) -> Iterator[Group]:
    """The heavy model on all CPUs, beside the same job in one process."""
    bound = _bound(files.testset, files.cnn, "tensorflow", 2_000)
    with _served(files.cnn) as ours:
        yield Group(
            {"bound tensorflow cnn": bound, "tensorflow cnn 10000": _ruo(ours.url, files.testset, 10_000)}, bound
        )


@contextmanager
def scaling(files: Files) -> Iterator[Group]:
    """The heavy model with one worker on one CPU, and with one worker on each CPU."""
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.csv"
        pl.read_csv(files.testset, n_rows=_SCALING_ROWS).write_csv(part)
        with local_server(files.cnn, 1, cores=1) as one, local_server(files.cnn, files.cpus, cores=1) as several:
            jobs = {f"one worker cnn {rows}": _ruo(one.url, part, rows) for rows in _SCALING_SIZES}
            jobs |= {f"{files.cpus} workers cnn {rows}": _ruo(several.url, part, rows) for rows in _SCALING_SIZES}
            yield Group(jobs, _bound(part, files.cnn, "tensorflow", 2_000))


@contextmanager
def peers(files: Files) -> Iterator[Group]:
    """The light model in other servers, each with its own client, beside ruo; what cannot be installed is left out."""
    with ExitStack() as stack:
        jobs = {"peers ruo": _ruo(stack.enter_context(_served(files.mlp)).url, files.testset, 10_000)}
        left_out = []
        for name, serve in PEERS.items():
            try:
                command = stack.enter_context(serve(files.mlp, files.cpus))
            except RuoError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)  # noqa: T201
                left_out.append(name)
            else:
                jobs[f"peers {name}"] = partial(_peer, command, files.testset)
        bound = _bound(files.testset, files.mlp, "tensorflow")
        yield Group(jobs, bound, warmup=1, left_out=left_out)  # a server's first requests are slower


@contextmanager
def memory(files: Files) -> Iterator[Group]:
    """Memory of the server for the whole set in one request, and of the client for a table ten times as long."""
    with _served(files.mlp) as server, tempfile.TemporaryDirectory() as folder:
        long = Path(folder) / "long.csv"

        def server_memory(answers: Path) -> dict[str, Any]:
            with _growth_of(server) as growth:
                measured = _ruo(server.url, files.testset, 0)(answers)
            return {**measured, "mb": growth[0]}

        def client_memory(_: Path) -> dict[str, Any]:
            make_testset(long, _LONG_ROWS)
            command = [sys.executable, "-c", _SCORE_BY_BLOCKS, str(long), server.url]
            return run_command(command, _TIMEOUT_S, job_environment())

        jobs = {"server memory": server_memory, "client memory": client_memory}
        yield Group(jobs, once="client memory", warmup=1)


@contextmanager
def start(files: Files) -> Iterator[Group]:
    """How long imports take, and how long a server needs until it is ready."""
    jobs: dict[str, Job] = {name: partial(_import, name) for name in ("import ruo", "from ruo import score_csv")}
    jobs |= {f"ready {backend}": partial(_start, files.mlp, backend) for backend in _BACKENDS}
    yield Group(jobs)


GROUPS: dict[str, Callable[[Files], AbstractContextManager[Group]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "scaling": scaling,
    "peers": peers,
    "memory": memory,
    "start": start,
}


def _job(*arguments: str, **variables: str) -> Job:
    return python_job(*arguments, timeout_s=_TIMEOUT_S, **variables)


def _ruo(url: str, testset: Path, rows: int) -> Job:
    return _job("ruo.compare.score", "client", str(testset), url, "--chunk-size", str(rows))


def _paper_client(testset: Path, url: str) -> Job:
    return _job("ruo.compare.paper.client", str(testset), url, "--chunk-size", "10000")


def _bound(testset: Path, model: Path, backend: str, rows_per_call: int = 50_000, *, reads_labels: bool = False) -> Job:
    options = ["--rows-per-call", str(rows_per_call), *(["--labels"] if reads_labels else [])]
    return _job("ruo.compare.score", "bound", str(testset), str(model), *options, KERAS_BACKEND=backend)


def _bare_socket(testset: Path, model: Path, backend: str) -> Job:
    return _job("benchmarks.bare_socket", str(testset), str(model), KERAS_BACKEND=backend)


def _peer(command: list[str], testset: Path, answers: Path) -> dict[str, Any]:
    return run_command([*command, str(testset), "10000", str(answers)], _TIMEOUT_S, peer_variables())


def _import(statement: str, _: Path) -> dict[str, Any]:
    timed = f"began = time.perf_counter(); {statement}; total_s = time.perf_counter() - began"
    program = f"import json, time; {timed}; print(json.dumps({{'total_s': total_s}}))"
    return run_command([sys.executable, "-c", program], _TIMEOUT_S, job_environment())


def _start(model: Path, backend: str, _: Path) -> dict[str, Any]:
    began = time.perf_counter()
    with _served(model, backend):
        return {"total_s": time.perf_counter() - began}


def _served(model: Path, backend: str = "tensorflow") -> AbstractContextManager[LocalServer]:
    """A server with one worker per CPU, which takes the demo's test set as one request."""
    return local_server(model, settings={"KERAS_BACKEND": backend, "MAX_REQUEST_MB": 1024})


@contextmanager
def _growth_of(server: LocalServer) -> Iterator[list[float]]:
    """Measure how many megabytes the server's processes together grow at most during the block."""
    master = psutil.Process(server.pid)
    processes, growth, done = [master, *master.children(recursive=True)], [0.0], threading.Event()

    def megabytes() -> float:  # shared pages count once per process
        return float(sum(process.memory_info().rss for process in processes)) / 1e6

    idle = megabytes()

    def watch() -> None:
        while not done.wait(0.02):
            growth[0] = max(growth[0], megabytes() - idle)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield growth
    finally:
        done.set()
        watching.join()
