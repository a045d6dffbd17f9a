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

# glibc's malloc (mallopt(3)) keeps buffers of tens of megabytes for reuse, instead of returning them to the system.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
}


class LocalServer:
    """A Gunicorn server on this machine; `pid` is that of Gunicorn's master, and the session id of all processes."""

    def __init__(self, model: Path, workers: int, process: ServerProcess, port: int) -> None:
        self.model = model
        self.workers = workers
        self.url = f"http://127.0.0.1:{port}"
        self.pid = process.pid
        self.log = process.log
        self._process = process

    @property
    def urls(self) -> list[str]:
        """The addresses for requests: one, since the workers share a port."""
        return [self.url]

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

    The server trusts the model (RUO_TRUST_MODEL=1): a format that can contain code runs that code, so serve only
    models whose origin you know.

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

    Yields
    ------
    LocalServer
        The server, with every worker ready.

    Raises
    ------
    DeploymentError
        There is no model at the path, or the server cannot load it, or not in time.

    Examples
    --------
    >>> with local_server("mlp.keras", settings={"KERAS_BACKEND": "openvino"}) as server:
    ...     scores = score_csv("testset.csv", server.url)
    """
    path = Path(model).resolve()
    if not path.exists():
        raise DeploymentError(f"There is no model at {model}; make one with: python -m ruo demo --out data")
    count = workers or max(1, int(cpu_limit()))
    lifeline, kept = os.pipe()  # the server stops when this process ends, which closes the other end
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            home = _home()
            environment = {
                **_MALLOC,
                **os.environ,
                "MODEL_PATH": str(path),
                "RUO_TRUST_MODEL": "1",
                "RUO_LIFELINE_FD": str(lifeline),
                "WEB_CONCURRENCY": str(count),
                **({} if cores is None else {"WORKER_CORES": str(cores)}),
                "PYTHONPATH": os.pathsep.join([home, os.environ.get("PYTHONPATH", "")]),
                **{name: str(value) for name, value in (settings or {}).items()},
            }
            command = [sys.executable, "-m", "gunicorn", "-c", f"{home}/server/gunicorn.conf.py"]
            command += ["--bind", f"fd://{listener.fileno()}", "server:app"]
            fds = (listener.fileno(), lifeline)
            with server_process("The server", command, environment, pass_fds=fds) as process:
                listener.close()  # the server has a copy; this one would keep the port open after its end
                server = LocalServer(path, count, process, port)
                server.wait_until_ready(timeout_s)
                yield server
    finally:
        os.close(kept)
        os.close(lifeline)


def _home() -> str:
    """The folder that holds the package `server`."""
    spec = importlib.util.find_spec("server")
    if spec is None or spec.origin is None:
        raise DeploymentError("The server is not installed; run: pip install 'ruo[server]'")
    return str(Path(spec.origin).parent.parent)
