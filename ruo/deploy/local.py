"""A server on this machine, for as long as a block of code needs it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruo.deploy.process import ServerProcess, fetch, server_process
from ruo.errors import DeploymentError
from ruo.machine import cpu_limit

__all__ = ["LocalServer", "local_server"]

# glibc's malloc (mallopt(3)): buffers of tens of megabytes are kept and used again, not given back and faulted in anew.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


class LocalServer:
    """A Gunicorn server on this machine.

    Attributes
    ----------
    url : str
        Its address.
    model : pathlib.Path
        The model that it serves.
    workers : int
        The number of its worker processes.
    pid : int
        The process id of Gunicorn's master, which is also the id of the session of all its processes.
    log : pathlib.Path
        The file with what it has written.
    """

    def __init__(self, model: Path, workers: int, process: ServerProcess, port: int) -> None:
        self.model = model
        self.workers = workers
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self.log = process.log
        self._process = process

    @property
    def urls(self) -> list[str]:
        """The addresses to send to: one, since the workers share a port."""
        return [self.url]

    def scale(self, workers: int, timeout_s: float = 120.0) -> None:
        """Run `workers` processes and return when all are ready.

        Raises
        ------
        DeploymentError
            A process could not load the model, or that took longer than `timeout_s` seconds.
        """
        if workers < 1:
            raise DeploymentError(f"workers={workers} must be at least 1.")
        # Gunicorn's signals for one worker more and one less; two of a kind at once would count as one
        change = signal.SIGTTIN if workers > self.workers else signal.SIGTTOU
        while self.workers != workers:
            self._process.signal(change)
            self.workers += 1 if change == signal.SIGTTIN else -1
            self._process.wait_until(lambda: self._ready_workers() == self.workers, timeout_s)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when every worker has loaded and warmed its model; raises DeploymentError as `scale` does."""
        self._process.wait_until(lambda: self._ready_workers() >= self.workers, timeout_s)

    def __repr__(self) -> str:
        return f"LocalServer({self.url}, {self.model.name}, {self.workers} workers)"

    def _ready_workers(self) -> int:
        answer = fetch(f"{self.url}/v2/health/ready")
        health: dict[str, Any] = json.loads(answer[1]) if answer else {}
        if "being loaded" not in health.get("error", "being loaded"):
            raise DeploymentError(health["error"])
        return int(health.get("workers", 0))


@contextmanager
def local_server(
    model: str | os.PathLike[str],
    workers: int | None = None,
    cores: int | None = None,
    timeout_s: float = 120.0,
    settings: Mapping[str, object] | None = None,
) -> Iterator[LocalServer]:
    """Serve a model on a free port of this machine until the block ends.

    The server trusts the model (it sets RUO_TRUST_MODEL=1): a file of a format that can hold code runs that code, so
    name only models whose origin you know.

    Parameters
    ----------
    model : path
        A Keras model, or a folder of published versions.
    workers : int, optional
        The number of worker processes; by default one for each CPU that may be used.
    cores : int, optional
        Keep each worker to so many CPUs of its own, as a replica on a machine of that size.
    timeout_s : float
        How long the server may take to be ready, in seconds.
    settings : mapping of str to object, optional
        Environment variables for this server alone, such as ``{"MAX_REQUEST_MB": 1024}``; they come before the
        variables of this process.

    Yields
    ------
    LocalServer
        The server, with every worker ready.

    Raises
    ------
    DeploymentError
        There is no model at the path, the server cannot load it, or it is not ready in time.

    Examples
    --------
    >>> with local_server("mlp.keras", settings={"KERAS_BACKEND": "openvino"}) as server:
    ...     scores = score_csv("testset.csv", server.url)
    """
    path = Path(model).resolve()
    if not path.exists():
        raise DeploymentError(f"There is no model at {model}; make one with: python -m ruo demo --out data")
    count = workers or max(1, int(cpu_limit()))
    lifeline, kept = os.pipe()  # the server stops when this process, which keeps the other end open, is gone
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            environment = {
                **_environment(path, count, cores),
                "RUO_LIFELINE_FD": str(lifeline),
                **{name: str(value) for name, value in (settings or {}).items()},
            }
            fds = (listener.fileno(), lifeline)
            with server_process("The server", _command(fds[0]), environment, pass_fds=fds) as process:
                listener.close()  # the server has a copy; this one would keep the port open after the server's end
                server = LocalServer(path, count, process, port)
                server.wait_until_ready(timeout_s)
                yield server
    finally:
        os.close(kept)
        os.close(lifeline)


def _environment(model: Path, workers: int, cores: int | None) -> dict[str, str]:
    return {
        **_MALLOC,
        **os.environ,
        "MODEL_PATH": str(model),
        "RUO_TRUST_MODEL": "1",
        "WEB_CONCURRENCY": str(workers),
        **({} if cores is None else {"WORKER_CORES": str(cores)}),
        "PYTHONPATH": os.pathsep.join([str(_home()), os.environ.get("PYTHONPATH", "")]),
    }


def _command(listener: int) -> list[str]:
    settings = str(_home() / "server" / "gunicorn.conf.py")
    return [sys.executable, "-m", "gunicorn", "-c", settings, "--bind", f"fd://{listener}", "server:app"]


def _home() -> Path:
    spec = importlib.util.find_spec("server")
    if spec is None or spec.origin is None:
        raise DeploymentError("The server is not installed; run: pip install 'ruo[server]'")
    return Path(spec.origin).parent.parent
