"""The jobs that are measured, in groups that share their servers. Nothing starts before a job is measured."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import psutil

from benchmarks.bare_socket import CPUS
from benchmarks.peers.servers import kserve, mlserver, peer_variables, pytriton
from ruo import __version__
from ruo.compare.jobs import Job, job_environment, python_job, run_command
from ruo.compare.systems import paper_server
from ruo.deploy import LocalServer, local_server
from ruo.errors import MissingPackageError

_TIMEOUT_S = 900.0
_job = partial(python_job, timeout_s=_TIMEOUT_S)
_SIZES = (100, 1_000, 5_000, 10_000, 50_000, 100_000)
_OPENVINO_SIZES = (5_000, 10_000, 50_000)
_SCALING_SIZES = (1_000, 5_000, 20_000)
_PEER_SIZES = (100, 1_000, 10_000)
_SCALING_ROWS = 200_000
_GROWTH = ((1, "iter_scores"), (10, "iter_scores"), (40, "iter_scores"), (10, "score_to_file"), (40, "score_to_file"))
_BACKENDS = ("TensorFlow", "OpenVINO")
_IMAGES = {"server": "", "server-openvino": "-openvino", "client": "", "measure": ""}  # and the end of its tag
# What a newcomer does, without what pip has kept from earlier; $0 is the repository, and $1 an empty folder.
_FIRST_PREDICTION = """
cd "$1" && git clone --quiet "$0" . && PIP_NO_CACHE_DIR=1 make demo ROWS=10000 && .venv/bin/python -c '
import json, ruo
with ruo.local_server("data/mlp.keras") as server:
    print(json.dumps({"rows": len(ruo.score_csv("data/testset.csv", server.url).predictions)}))'
"""


@dataclass(frozen=True)
class Files:
    """The test set, the light and the heavy model, and a folder for what groups prepare from them."""

    testset: Path
    mlp: Path
    cnn: Path
    scratch: Path


class Task(NamedTuple):
    """A job, called with what it needs, by the name in its group ("": nothing), and with the file for predictions."""

    run: Callable[[Any, Path], dict[str, Any]]
    need: str = ""


@dataclass(frozen=True)
class Group:
    """Jobs by name, measured in the same blocks, and what they need: servers, for as long as the group is measured.

    `bound` is the job in one process that gives the right predictions; without it they are not checked. What takes
    minutes is done `once`. A need that cannot be had on this machine is left out with its jobs.
    """

    jobs: Mapping[str, Task]
    needs: Mapping[str, Callable[[], AbstractContextManager[Any]]] = field(default_factory=dict)
    bound: Job | None = None
    prepare: Callable[[], object] = lambda: None
    once: bool = False


def mlp(files: Files) -> Group:
    """The light model: the system of 2023, ruo at every request size, a bare socket, and no network at all."""
    testset, model = files.testset, files.mlp
    bounds = {f"bound {backend} mlp": _bound(testset, model, backend) for backend in _BACKENDS}
    table = partial(_job, "benchmarks.tables", "bound", str(testset), str(model))
    alone = bounds | {"bound TensorFlow mlp labels": table(KERAS_BACKEND="tensorflow")}
    bare = partial(table, "--bare-socket", "--rows", "10000")
    alone |= {f"bare socket {backend} mlp": bare(KERAS_BACKEND=backend.lower()) for backend in _BACKENDS}
    jobs = {name: _alone(job) for name, job in alone.items()}
    for backend, sizes in (("TensorFlow", _SIZES), ("OpenVINO", _OPENVINO_SIZES)):
        jobs |= {f"{backend} mlp {rows}": _ruo(testset, rows, backend) for rows in sizes}
    jobs["TensorFlow mlp whole"] = _ruo(testset, 0, "TensorFlow")
    paper = ["ruo.compare.paper.client", "--chunk-size", "10000", str(testset)]
    jobs |= {"paper mlp 10000": _on("paper", *paper), "paper client mlp 10000": _on("TensorFlow", *paper, path="/test")}
    needs: dict[str, Any] = {backend: partial(_served, model, backend) for backend in _BACKENDS}
    return Group(jobs, {"paper": partial(paper_server, model, testset), **needs}, bounds["bound TensorFlow mlp"])


def cnn(files: Files) -> Group:
    """The heavy model on all CPUs, beside the same job in one process."""
    bound = _bound(files.testset, files.cnn, "TensorFlow", 2_000)
    jobs = {"bound TensorFlow cnn": _alone(bound), "TensorFlow cnn 10000": _ruo(files.testset, 10_000)}
    return Group(jobs, {"ruo": partial(_served, files.cnn)}, bound)


def scaling(files: Files) -> Group:
    """The heavy model with one worker on one CPU, and with one worker on each CPU."""
    part, several = files.scratch / "part.csv", f"{CPUS} workers"
    jobs = {f"{who} cnn {rows}": _ruo(part, rows, who) for who in ("one worker", several) for rows in _SCALING_SIZES}
    needs = {who: partial(local_server, files.cnn, n, cores=1) for who, n in (("one worker", 1), (several, CPUS))}
    bound = _bound(part, files.cnn, "TensorFlow", 2_000)
    return Group(jobs, needs, bound, lambda: pl.scan_csv(files.testset, n_rows=_SCALING_ROWS).sink_csv(part))


def peers(files: Files) -> Group:
    """The light model in other servers, each with its own client, beside ruo."""
    kserves = {"KServe gRPC": partial(kserve, "kserve_grpc"), "KServe REST": partial(kserve, "kserve_rest")}
    servers: dict[str, Any] = {**kserves, "MLServer": mlserver, "PyTriton": pytriton}
    needs = {name: partial(serve, files.mlp, CPUS) for name, serve in servers.items()}
    jobs = {f"peers ruo {rows}": _ruo(files.testset, rows) for rows in _PEER_SIZES}
    jobs |= {f"peers {name} {rows}": _peer(files.testset, rows, name) for name in needs for rows in _PEER_SIZES}
    bound = _bound(files.testset, files.mlp, "TensorFlow")
    return Group(jobs, {"ruo": partial(_served, files.mlp), **needs}, bound)


def sources(files: Files) -> Group:
    """The light model and the table as CSV, Parquet and DataFrame, beside the same job in one process."""
    csv, parquet = files.testset, files.scratch / "table.parquet"
    arguments = {"CSV": [str(csv)], "Parquet": [str(parquet)], "DataFrame": [str(csv), "--in-memory"]}
    bounds = {name: _job("benchmarks.tables", "bound", *table, str(files.mlp)) for name, table in arguments.items()}
    jobs = {f"bound {name}": _alone(job) for name, job in bounds.items()}
    jobs |= {f"source {name}": _on("ruo", "benchmarks.tables", "client", *table) for name, table in arguments.items()}
    needs = {"ruo": partial(_served, files.mlp)}
    return Group(jobs, needs, _bound(csv, files.mlp, "TensorFlow"), lambda: pl.scan_csv(csv).sink_parquet(parquet))


def growth(files: Files) -> Group:
    """The light model and the test set many times over: time and memory. And the server's memory for one large request."""
    jobs = {"server memory": _watched(_ruo(files.testset, 0))}
    for times, by in _GROWTH:
        options = ["--times", str(times), "--by", by, str(files.testset)]
        jobs[f"growth {times} {by}"] = _watched(_on("ruo", "benchmarks.tables", "client", *options))
    return Group(jobs, {"ruo": partial(_served, files.mlp)}, _bound(files.testset, files.mlp, "TensorFlow"))


def start(files: Files) -> Group:
    """How long imports take, and how long a server needs until it is ready."""
    jobs = {name: _alone(partial(_import, name)) for name in ("import ruo", "from ruo import score_csv")}
    jobs |= {f"ready {backend}": _alone(partial(_start, files.mlp, backend)) for backend in _BACKENDS}
    return Group(jobs)


def install(files: Files) -> Group:
    """The first prediction on a machine that has only make and Python, and the sizes of images, where they are built."""
    tags = {f"image {name}": f"ruo-{name.partition('-')[0]}:{__version__}{end}" for name, end in _IMAGES.items()}
    jobs = {name: Task(lambda size, _: size, name) for name in tags}
    jobs["first prediction"] = _alone(_first_prediction)
    return Group(jobs, {name: partial(_image, tag) for name, tag in tags.items()}, once=True)


GROUPS = {make.__name__: make for make in (mlp, cnn, scaling, peers, sources, growth, start, install)}


def _alone(job: Job) -> Task:
    return Task(lambda _, answers: job(answers))


def _bound(table: Path, model: Path, backend: str, rows: int = 50_000) -> Job:
    options = ["--rows-per-call", str(rows)]
    return _job("ruo.compare.score", "bound", str(table), str(model), *options, KERAS_BACKEND=backend.lower())


def _on(need: str, *arguments: str, path: str = "") -> Task:
    """A job whose last argument is the address of the server that it needs."""
    return Task(lambda server, answers: _job(*arguments, server.url + path)(answers), need)


def _ruo(table: Path, rows: int, need: str = "ruo") -> Task:
    return _on(need, "ruo.compare.score", "client", "--chunk-size", str(rows), str(table))


def _peer(table: Path, rows: int, need: str) -> Task:
    job = [str(table), str(rows)]
    return Task(lambda own, answers: run_command([*own, *job, str(answers)], _TIMEOUT_S, peer_variables()), need)


def _import(statement: str, _: Path) -> dict[str, Any]:
    timed = f"began = time.perf_counter(); {statement}; total_s = time.perf_counter() - began"
    program = f"import json, time; {timed}; print(json.dumps({{'total_s': total_s}}))"
    return run_command([sys.executable, "-c", program], _TIMEOUT_S, job_environment())


def _start(model: Path, backend: str, _: Path) -> dict[str, Any]:
    began = time.perf_counter()
    with _served(model, backend):
        return {"total_s": time.perf_counter() - began}


def _first_prediction(_: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # after the time-out pip may still write
        began = time.perf_counter()
        command = ["/bin/sh", "-c", _FIRST_PREDICTION, str(Path(__file__).parents[1]), folder]
        rows = run_command(command, _TIMEOUT_S, peer_variables())
        return {"total_s": time.perf_counter() - began, **rows}


@contextmanager
def _image(tag: str) -> Iterator[dict[str, Any]]:
    """The size of an image. Raises MissingPackageError where it is not built."""
    inspect = f"docker image inspect --format '{{\"mb\": {{{{.Size}}}}e-6}}' {tag}"
    size = run_command(["/bin/sh", "-c", inspect], _TIMEOUT_S, peer_variables())
    if "error" in size:
        raise MissingPackageError(f"{tag} is not here ({size['error']}); build it: make image")
    yield size


def _served(model: Path, backend: str = "TensorFlow") -> AbstractContextManager[LocalServer]:
    """A server with one worker per CPU, which takes the demo's test set as one request."""
    return local_server(model, settings={"KERAS_BACKEND": backend.lower(), "MAX_REQUEST_MB": 1024})


def _watched(task: Task) -> Task:
    """The task with the memory of its server's processes together, in megabytes: the most, and that above idle."""

    def run(server: LocalServer, answers: Path) -> dict[str, Any]:
        master = psutil.Process(server.pid)
        processes = [master, *master.children(recursive=True)]
        idle = most = _memory_mb(processes)
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(task.run, server, answers)
            while not job.done():
                most = max(most, _memory_mb(processes))
                time.sleep(0.02)
        return {**job.result(), "server_mb": most, "server_growth_mb": most - idle}

    return Task(run, task.need)


def _memory_mb(processes: Sequence[psutil.Process]) -> float:
    return float(sum(process.memory_info().rss for process in processes)) / 1e6  # shared pages count once per process
