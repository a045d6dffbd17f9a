"""A server on this machine, for as long as a block of code needs it."""

import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, TextIO, TypeVar

from ruo.arguments import typed
from ruo.errors import ArgumentError, DeploymentError, MissingPackageError
from ruo.machine import cpu_limit

T = TypeVar("T")

# HTTP and no more: a proxy of the environment must not be asked for an address of this machine, and no status is an error.
_OPENER = urllib.request.OpenerDirector()
_OPENER.add_handler(urllib.request.HTTPHandler())
_HOME = Path(__file__).resolve().parents[2]  # where `ruo` and `server` lie side by side, installed or not
# Both would look for modules in the working directory first, which may hold another `server`; here it is the last.
_GUNICORN = "import os, sys; sys.path.append(os.getcwd()); from gunicorn.app.wsgiapp import run; run()"
_LOG_BYTES = 1 << 20
BACKLOG = 2048  # as Gunicorn's own
# glibc's malloc (mallopt(3)) keeps buffers of tens of megabytes for reuse, instead of returning them to the system.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}
# What is an argument is no setting beside it, which could name another model.
_ARGUMENTS = {"MODEL_PATH": "model", "WEB_CONCURRENCY": "workers", "WORKER_CORES": "cores"}
# A line for each request takes time, and nobody reads it here.
_QUIET = {"LOG_LEVEL": "warning", "TF_CPP_MIN_LOG_LEVEL": "3"}


@dataclass(frozen=True)
class ServerProcess:
    """A server process, which leads its process group and session, and its log; error messages call it `name`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_until(self, find: Callable[[], T | None], timeout_s: float) -> T:
        """What `find` returns, once that is true; raises DeploymentError if the process ends or the time runs out before."""
        deadline = time.monotonic() + timeout_s
        while not (found := find()):
            if self.process.poll() is not None:
                raise self.error(f"ended with status {self.process.returncode}")
            if not time.monotonic() < deadline:  # as with NaN
                raise self.error(f"was not ready after {timeout_s:g} s")
            time.sleep(0.05)
        return found

    def error(self, problem: str) -> DeploymentError:
        """The error for a problem of the server, with the last errors in its log, or else the last lines."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "[ERROR]" in line or "Error" in line]
        log = f"Its log says: {' | '.join((errors or lines)[-3:])}" if lines else "Its log is empty."
        return DeploymentError(f"{self.name} {problem}. {log}")


@contextmanager
def server_process(
    name: str,
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    grace_s: float = 30.0,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> Iterator[ServerProcess]:
    """Run a server until the block ends; what has not ended `grace_s` seconds later is killed."""
    folder, maker = Path(tempfile.mkdtemp(prefix="ruo-server-")), os.getpid()
    # at the end of Python, where the block is never left
    remove = weakref.finalize(server_process, shutil.rmtree, folder, ignore_errors=True)
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            start_new_session=True,  # a notebook's stop button does not reach another process group
        )
    try:
        yield ServerProcess(name, process, log)
    finally:
        if os.getpid() != maker:  # a child that was forked in the block leaves it: the server is not its own
            remove.detach()
        else:
            if grace_s:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(grace_s)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            remove()


def url_host(address: str) -> str:
    """An IP address as URLs have it."""
    return f"[{address}]" if ":" in address else address


def fetch(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0
) -> tuple[int, bytes]:
    """The status and body of a response from a server on this machine; 0 and nothing if it does not answer."""
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310  our own servers
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except (OSError, HTTPException):
        return 0, b""


class LocalServer:
    """A Gunicorn server on this machine; `pid` is that of Gunicorn's master, and the session id of all processes."""

    def __init__(self, model: Path, workers: int, process: ServerProcess, url: str) -> None:
        self.model = model
        self.workers = workers
        self.url = url
        self.urls = [url]  # one, since the workers share a port
        self.pid = process.process.pid
        self.log = process.log
        self._process = process

    @typed
    def scale(self, workers: int, timeout_s: float = 120.0) -> None:
        """Run `workers` processes and return when all are ready; raises DeploymentError if that fails."""
        if workers < 1:
            raise DeploymentError(f"workers={workers} must be at least 1.")
        # Gunicorn's signals for one more worker and one less; two pending signals of a kind count as one
        change = signal.SIGTTIN if workers > self.workers else signal.SIGTTOU
        while self.workers != workers:
            self._process.process.send_signal(change)
            self.workers += 1 if change == signal.SIGTTIN else -1
            self._process.wait_until(lambda: self._ready_workers() == self.workers, timeout_s)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when every worker has warmed up its model; raises DeploymentError if that fails."""
        self._process.wait_until(lambda: self._ready_workers() >= self.workers, timeout_s)

    def wait(self, output: TextIO) -> None:
        """Copy to `output` what the server logs from now on, until it ends, which is a DeploymentError."""
        with self.log.open(errors="replace") as log:
            log.seek(0, os.SEEK_END)

            def copy() -> bool:
                with suppress(OSError):  # a disk that is full or a terminal that is gone is no reason to end
                    output.write(log.read())
                    output.flush()
                if log.tell() > _LOG_BYTES:  # a server may run for months
                    os.truncate(self.log, 0)
                    log.seek(0)
                return False

            self._process.wait_until(copy, math.inf)

    def __repr__(self) -> str:
        return f"LocalServer({self.url}, {self.model.name}, {self.workers} workers)"

    def _ready_workers(self) -> int:
        status, body = fetch(f"{self.url}/v2/health/ready")
        health: dict[str, Any] = json.loads(body or b"{}")
        if status == 503 and "being loaded" not in health.get("error", "being loaded"):
            raise DeploymentError(health["error"])
        return int(health.get("workers", 0))


@typed
@contextmanager
def local_server(
    model: str | os.PathLike[str],
    workers: int | None = None,
    cores: int | None = None,
    timeout_s: float = 120.0,
    settings: Mapping[str, object] | None = None,
) -> Iterator[LocalServer]:
    """Serve a model on a free port of this machine, with every worker ready, until the block ends.

    DeploymentError says why a server cannot be had: there is no model, or it cannot be loaded, or not in time.

    The server trusts the model (RUO_TRUST_MODEL=1): a format that can contain code runs that code, so serve only
    models whose origin you know. It logs warnings and errors, unless LOG_LEVEL says otherwise.

    Parameters
    ----------
    model : path
        A Keras model, or a folder of published versions.
    workers : int, optional
        The number of worker processes; by default one for each usable CPU.
    cores : int, optional
        The number of CPUs that each worker has to itself, like a replica on a machine of that size.
    timeout_s : float
        How long the server may take to be ready, in seconds.
    settings : mapping of str to object, optional
        Environment variables for this server alone, such as ``{"MAX_REQUEST_MB": 1024}``; they override the
        variables of this process.

    Examples
    --------
    >>> with local_server("mlp.keras", settings={"KERAS_BACKEND": "openvino"}) as server:
    ...     scores = score_csv("testset.csv", server.url)
    """
    if workers is not None and workers < 1:
        raise ArgumentError(f"workers={workers} must be at least 1.")
    if not os.fspath(model):
        raise ArgumentError('The path of the model is empty; pass one, or "." for this folder.')
    for name, value in (settings or {}).items():
        if name in _ARGUMENTS:
            raise ArgumentError(f"settings: pass {_ARGUMENTS[name]}={value} in place of {name}.")
        if not name or "=" in name or "\0" in f"{name}{value}":
            raise ArgumentError(f"settings: no variable can be {name!r} with the value {value!r:.60}; correct them.")
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        given = {"RUO_TRUST_MODEL": 1, **(settings or {})}
        with serve_on(listener, Path(model), workers, cores, timeout_s, given) as server:
            yield server


@contextmanager
def serve_on(
    listener: socket.socket,
    model: Path,
    workers: int | None,
    cores: int | None,
    timeout_s: float,
    settings: Mapping[str, object],
) -> Iterator[LocalServer]:
    """`local_server` at a socket that listens, which it closes, since the server has a copy."""
    if not os.access(model, os.R_OK):
        raise DeploymentError(f"There is no model at {model}, or none to read; make one with: ruo demo --out data")
    if importlib.util.find_spec("gunicorn") is None or not (_HOME / "server").is_dir():
        raise MissingPackageError("The server is not installed; run: pip install 'ruo[server]'")
    count = workers or max(1, int(cpu_limit()))
    lifeline, kept = os.pipe()  # the server stops when this process ends, which closes the other end
    try:
        environment = {
            **_MALLOC,
            **_QUIET,
            **os.environ,
            "MODEL_PATH": str(model.absolute()),  # a link may be switched to the next model
            "RUO_LIFELINE_FD": str(lifeline),
            "WEB_CONCURRENCY": str(count),
            **({} if cores is None else {"WORKER_CORES": str(cores)}),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(_HOME), os.environ.get("PYTHONPATH")])),
            **{name: str(value) for name, value in settings.items()},
        }
        command = [sys.executable, "-P", "-c", _GUNICORN, "-c", str(_HOME / "server" / "gunicorn.conf.py")]
        command += ["--bind", f"fd://{listener.fileno()}", "server:app"]
        fds = (listener.fileno(), lifeline)
        host, port = listener.getsockname()[:2]
        reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  not bound to here
        with server_process("The server", command, environment, pass_fds=fds) as process:
            listener.close()  # this copy would keep the port open after the server's end
            server = LocalServer(model, count, process, f"http://{url_host(reached)}:{port}")
            server.wait_until_ready(timeout_s)
            yield server
    finally:
        os.close(kept)
        os.close(lifeline)
