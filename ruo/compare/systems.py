"""The systems that `ruo.compare.run` compares: their servers, and one job of each in a client process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import polars as pl

from ruo.deploy.local import local_server
from ruo.errors import DeploymentError, ScoringError

__all__ = [
    "BOUND",
    "PAPER",
    "PAPER_CLIENT",
    "PAPER_WORKERS",
    "SYSTEMS",
    "V2",
    "WIRES",
    "PaperServer",
    "Systems",
    "paper_body",
    "paper_server",
    "run_command",
    "run_job",
    "time_in_process",
]

PAPER = "paper's system"
BOUND = "no network at all"
PAPER_CLIENT = "paper's client, ruo's server"
WIRES = {f"ruo, wire {wire}": wire for wire in ("v2", "v2-json", "v1", "paper")}
V2 = next(iter(WIRES))
SYSTEMS = (PAPER, *WIRES, PAPER_CLIENT, BOUND)

PAPER_WORKERS = 4
_WARM_ROWS = 10_000
_READY_S = 180.0
# Keras is imported once, before the workers are forked: that is four times as fast, and outside of what is measured.
_PAPER = "import keras; from gunicorn.app.wsgiapp import run; run()"


class PaperServer:
    """The server of 2023 on this machine, with the workers that it had. `url` is its one endpoint."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}/test"
        self.pid = process.pid
        self._process = process
        self._log = log

    def warm(self, body: bytes) -> None:
        """Send requests until every worker has loaded its model: it does so at its first, and starts anew when killed."""
        deadline = time.monotonic() + _READY_S
        with ThreadPoolExecutor(PAPER_WORKERS) as pool:
            while not self._is_warm():
                if self._process.poll() is not None:
                    raise DeploymentError(f"The paper's server ended. {self._last_words()}")
                if time.monotonic() > deadline:
                    raise DeploymentError(f"The paper's server was not ready in {_READY_S:g} s. {self._last_words()}")
                # a worker that loads takes no second request, so each of these finds another one
                list(pool.map(self._post, [body] * PAPER_WORKERS))

    def stop(self) -> None:
        """End the server, workers included; there is nothing that it would have to finish."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _post(self, body: bytes) -> None:
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})  # noqa: S310  our own
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as error:
            raise DeploymentError(f"The paper's server cannot score: {error}. {self._last_words()}") from error
        except OSError:
            time.sleep(0.2)  # it does not listen yet

    def _is_warm(self) -> bool:
        log = self._log.read_text(errors="replace")
        booted = {int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", log)}
        loaded = {int(pid) for pid in re.findall(r"\[(\d+)\] \[INFO\] Model loaded", log)}
        return len({pid for pid in booted & loaded if _is_there(pid)}) == PAPER_WORKERS

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return "Its log says: " + " | ".join(lines[-3:]) if lines else "Its log is empty."


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def paper_server(model: Path) -> Iterator[PaperServer]:
    """Start the server of 2023 on a free port, until the block ends; `warm` it before it is measured."""
    with tempfile.TemporaryDirectory(prefix="ruo-paper-") as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        log = Path(folder) / "server.log"
        command = [
            sys.executable, "-c", _PAPER, "--workers", str(PAPER_WORKERS), "--bind", f"fd://{listener.fileno()}",
            "--log-level", "debug", "--no-control-socket", "--preload", "ruo.compare.paper.server:app",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env={**_environment(), "MODEL_PATH": str(model)}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, pass_fds=(listener.fileno(),), start_new_session=True,
            )  # fmt: skip
        server = PaperServer(process, listener.getsockname()[1], log)
        listener.close()
        try:
            yield server
        finally:
            server.stop()


class Systems:
    """All systems for one test set and one model; their servers run as long as the `with` block does.

    `peers` are other servers that hold the same model, by name: addresses such as http://host/v2/models/NAME. They are
    asked by ruo's client.
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
            raise DeploymentError("The paper's client needs grequests; run: pip install 'ruo[paper]'")
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
            with _large_requests_allowed(self.testset):
                self._ruo = stack.enter_context(local_server(self.model, self._workers))
            self._warm_body = paper_body(self.testset)
            self._paper.warm(self._warm_body)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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


def time_in_process(testset: Path, model: Path, runs: int = 1, timeout_s: float = 600.0) -> list[float]:
    """Seconds of the same job with no network at all, each in a new process: what no client and server can be faster than.

    Raises ScoringError where the model cannot score the table in one process.
    """
    found = [run_job(["ruo.compare.in_process", str(testset), str(model)], timeout_s) for _ in range(runs)]
    wrong = next((str(each["error"]) for each in found if "error" in each), None)
    if wrong:
        raise ScoringError(f"The model cannot score {testset.name} in one process: {wrong}")
    return [float(each["total_s"]) for each in found]


def run_job(arguments: list[str], timeout_s: float, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a job in a new process printed as its last line, or `error`: `python -m` with the arguments."""
    return run_command([sys.executable, "-m", *arguments], timeout_s, {**_environment(), **(environment or {})})


def run_command(command: list[str], timeout_s: float, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a command printed as its last line, or `error`."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {timeout_s:g} s"}
    try:
        return dict(json.loads(done.stdout.strip().rpartition("\n")[2]))
    except ValueError:
        words = done.stderr.strip().rpartition("\n")[2]
        return {"error": f"the process ended with status {done.returncode}: {words[:300]}"}


def paper_body(testset: Path) -> bytes:
    """The first rows of a test set as the paper's client sends them."""
    rows = pl.read_csv(testset, n_rows=_WARM_ROWS)
    features = [name for name in rows.columns if "Label_" not in name]
    return json.dumps(json.dumps(rows.select(features).to_numpy().tolist())).encode()


def _environment() -> dict[str, str]:
    home = str(Path(__file__).parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


@contextmanager
def _large_requests_allowed(testset: Path) -> Iterator[None]:
    """Let ruo's server take the whole set as one request of JSON, as the paper's does, unless somebody set a limit."""
    name = "MAX_REQUEST_MB"
    if name in os.environ:
        yield
        return
    os.environ[name] = str(max(256, 2 * testset.stat().st_size // 2**20))
    try:
        yield
    finally:
        del os.environ[name]
