"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a new client process, and its predictions are compared with those of the model in one process. All
servers run throughout, warm; those that are not measured are idle.
"""

import importlib.util
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import psutil

from ruo.compare.jobs import Job, JobMeasurement, job_environment, python_job, run_job
from ruo.compare.results import BOUND, PAPER, PAPER_CLIENT, SYSTEMS, V2, SystemsCompared, read_systems
from ruo.compare.score import scan
from ruo.deploy.local import ServerProcess, fetch, local_server, server_process
from ruo.errors import ArgumentError, MissingPackageError
from ruo.experiment.carry_out import Plan, Trial, all_combinations, carry_out
from ruo.experiment.validity import is_enough
from ruo.machine import busy_cpu_s, session_cpu_s
from ruo.provenance import Provenance, fingerprint, machine

ALL_SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, None)

_WORKERS = 4  # as many as it had
# Keras is imported once, before the workers are forked: four times as fast, and outside of what is measured.
_START = "import keras; from gunicorn.app.wsgiapp import run; run()"


class Systems(JobMeasurement):
    """All systems for one test set (a CSV file) and one model; `peers` are the names and addresses of other servers.

    Raises MissingPackageError where grequests is missing, ArgumentError for a test set that is no CSV.
    """

    def __init__(
        self, testset: Path, model: Path, workers: int | None = None, peers: Mapping[str, str] | None = None
    ) -> None:
        if importlib.util.find_spec("grequests") is None:
            raise MissingPackageError("The paper's client needs grequests; run: pip install 'ruo[paper]'")
        if ".csv" not in testset.suffixes:
            raise ArgumentError(f"{testset} is no .csv file, and the system of 2023 reads nothing else; pass one.")
        self.testset = testset.resolve()
        self.model = model.resolve()
        self.workers = workers
        self.peers = dict(peers or {})
        super().__init__(lambda trial: self._job(**trial.levels), self._job(BOUND))

    @contextmanager
    def servers(self) -> Iterator[None]:
        """Run the servers, warm, until the block ends."""
        # unless a limit is set, it takes the whole set as one JSON request, as the paper's does
        limit = os.environ.get("MAX_REQUEST_MB", max(256, 2 * self.testset.stat().st_size // 2**20))
        with (
            # the first, since it says why a model cannot be served
            local_server(self.model, self.workers, settings={"MAX_REQUEST_MB": limit}) as self._ruo,
            paper_server(self.model, self.testset) as self._paper,
        ):
            run_job(self._job(V2, 10_000))  # warm it by requests, as the other server is
            yield

    def prepare(self, trial: Trial) -> None:
        """Bring the system's server into the state in which it is measured."""
        if trial.levels["system"] == PAPER:
            self._paper.warm()

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Run the job, check its predictions, and measure the CPU seconds of client and servers."""
        before, began = self._cpu_seconds(trial.levels["system"]), time.monotonic()
        measured = super().measure(trial)
        seconds, now = time.monotonic() - began, self._cpu_seconds(trial.levels["system"])
        used = {name: now[name] - before[name] for name in now}
        used["others_cpus"] = round(max(0.0, used.pop("others_cpu_s")) / seconds, 2)
        rows = measured["rows_wanted"]
        return {**measured, "rows_per_request": min(trial.levels["chunk_size"] or rows, rows), **used}

    def _cpu_seconds(self, system: str) -> dict[str, float]:
        """CPU seconds until now: of clients, of the system's server, of the idle servers, and of all others."""
        times = os.times()
        clients = times.children_user + times.children_system
        ours, papers = session_cpu_s(self._ruo.pid), session_cpu_s(self._paper.pid)
        server = {PAPER: papers, BOUND: 0.0, **dict.fromkeys(self.peers, 0.0)}.get(system, ours)
        others = busy_cpu_s() - times.user - times.system - clients - ours - papers
        servers = {"server_cpu_s": server, "idle_servers_cpu_s": ours + papers - server}
        return {"client_cpu_s": clients, **servers, "others_cpu_s": others}

    def _job(self, system: str, chunk_size: int | None = None) -> Job:
        testset, size = str(self.testset), ["--chunk-size", str(chunk_size or 0)]
        if system == BOUND:
            return python_job("ruo.compare.score", "bound", testset, str(self.model))
        if system == PAPER:
            return python_job("ruo.compare.paper.client", testset, self._paper.url, *size)
        if system == PAPER_CLIENT:
            return python_job("ruo.compare.paper.client", testset, f"{self._ruo.url}/test", *size)
        if system not in self.peers:
            size += ["--wire", system.rpartition(" ")[2]]
        return python_job("ruo.compare.score", "client", testset, self.peers.get(system, self._ruo.url), *size)


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
    patience_s: float = 0.0,  # for waiting until the machine is quiet, and as many for further blocks
    log: Callable[[str], object] | None = None,
) -> SystemsCompared:
    """Run every system at each size (rows per request; None: all) in `runs` randomised blocks, as `carry_out` does."""
    rows = scan(systems.testset)[0].select(pl.len()).collect().item()
    # all sizes from the whole table on are one: None
    sizes = list(dict.fromkeys(size if size and size < rows else None for size in sizes))
    plan = plan_systems(sizes, runs, seed, paper_once=paper_once, systems=(*SYSTEMS, *systems.peers))
    files = {"data": systems.testset, "model": systems.model}
    facts = {what: {"name": path.name, "sha256": fingerprint(path)} for what, path in files.items()}
    about = {"workers": systems.workers, "peers": systems.peers}
    provenance = Provenance({"plan": plan.facts(), **facts, "systems": about, "machine": machine()})
    with systems.servers():
        enough = partial(is_enough, blocks=runs)
        carry_out(plan, systems, provenance, results_dir, patience_s=patience_s, enough=enough, progress=False, log=log)
    return read_systems(results_dir)


class PaperServer(NamedTuple):
    """The server of 2023. `url` is its only endpoint, `pid` the id of its process session."""

    url: str
    pid: int
    warm: Callable[[], object]  # returns when every worker has loaded its model: at its first request, and after a kill


@contextmanager
def paper_server(model: Path, testset: Path) -> Iterator[PaperServer]:
    """Run the server of 2023 on a free port, warm, until the block ends; the rows that warm it are of the test set."""
    rows = pl.read_csv(testset, n_rows=10_000)
    features = rows.select([name for name in rows.columns if "Label_" not in name])
    body = json.dumps(json.dumps(features.to_numpy().tolist())).encode()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url, fd = f"http://127.0.0.1:{listener.getsockname()[1]}/test", listener.fileno()
        options = ["--workers", str(_WORKERS), "--bind", f"fd://{fd}", "--log-level", "debug", "--no-control-socket"]
        command = [sys.executable, "-c", _START, *options, "--preload", "ruo.compare.paper.server:app"]
        environment = {**job_environment(), "MODEL_PATH": str(model)}
        # no grace: it has nothing to finish
        with server_process("The paper's server", command, environment, grace_s=0, pass_fds=[fd]) as process:
            listener.close()
            warm = partial(process.wait_until, partial(_is_warm, process, url, body), 180)
            warm()
            yield PaperServer(url, process.process.pid, warm)


def _is_warm(process: ServerProcess, url: str, body: bytes) -> bool:
    """Whether every worker has loaded its model; if not, each gets a request."""
    loaded = set(re.findall(r"\[(\d+)\] \[INFO\] Model loaded", process.log.read_text(errors="replace")))
    if sum(map(psutil.pid_exists, map(int, loaded))) == _WORKERS:
        return True
    # a worker that loads its model takes no second request, so each of these reaches another worker
    with ThreadPoolExecutor(_WORKERS) as pool:
        json_type = {"Content-Type": "application/json"}
        answers = [*pool.map(lambda _: fetch(url, body, json_type, timeout_s=60), range(_WORKERS))]
    statuses = [status for status, _ in answers]
    if max(statuses) >= 400:
        raise process.error(f"cannot score (status {max(statuses)})")
    if 0 in statuses:
        time.sleep(0.2)  # it does not listen yet
    return False
