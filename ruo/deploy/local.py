"""Where servers run: `local_server` starts one on this machine for as long as a block of code needs it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruo.errors import DeploymentError
from ruo.machine import cpu_limit

__all__ = ["LocalServer", "local_server"]

_STOP_S = 30.0


class LocalServer:
    """A Gunicorn server on this machine. `url` is its address, `workers` its number of processes."""

    def __init__(self, model: Path, workers: int, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.model = model
        self.workers = workers
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._process = process

    @property
    def urls(self) -> list[str]:
        """The addresses to send to; one here, since the workers share a port."""
        return [self.url]

    @property
    def pid(self) -> int:
        """The process id of Gunicorn's master."""
        return self._process.pid

    def scale(self, workers: int, timeout_s: float = 120.0) -> None:
        """Have so many worker processes, all ready; raises DeploymentError where that takes longer than `timeout_s`."""
        if workers < 1:
            raise DeploymentError(f"workers={workers} must be at least 1.")
        # Gunicorn's signals for one worker more and one less; two of a kind at once would count as one
        change = signal.SIGTTIN if workers > self.workers else signal.SIGTTOU
        while self.workers != workers:
            self._process.send_signal(change)
            self.workers += 1 if change == signal.SIGTTIN else -1
            self._wait(lambda: self._health().get("workers") == self.workers, timeout_s)

    def __repr__(self) -> str:
        return f"LocalServer({self.url}, {self.model.name}, {self.workers} workers)"

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until every worker has its model warm; raises DeploymentError with the end of the log."""
        self._wait(lambda: self._health().get("workers", 0) >= self.workers, timeout_s)

    def _wait(self, is_done: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_done():
            health = self._health()
            if "being loaded" not in health.get("error", "being loaded"):
                raise DeploymentError(health["error"])
            if self._process.poll() is not None:
                raise DeploymentError(f"The server ended with status {self._process.returncode}. {self._last_words()}")
            if time.monotonic() > deadline:
                raise DeploymentError(f"The server was not ready after {timeout_s:g} s. {self._last_words()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server; requests under way are finished first."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5) as answer:  # noqa: S310  our own
                return json.load(answer)  # type: ignore[no-any-return]
        except urllib.error.HTTPError as answer:
            return json.load(answer)  # type: ignore[no-any-return]
        except OSError:
            return {}

    def _last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        wrong = [line for line in lines if "[ERROR]" in line or "Error" in line]
        return "Its log says: " + " | ".join((wrong or lines)[-3:]) if lines else "Its log is empty."


@contextmanager
def local_server(
    model: str | os.PathLike[str], workers: int | None = None, cores: int | None = None, timeout_s: float = 120.0
) -> Iterator[LocalServer]:
    """Serve a model on a free port of this machine until the block ends: ``with local_server("mlp.keras") as server:``.

    `workers` is the number of processes; the default is one for each CPU that may be used. `cores` keeps each worker to
    so many CPUs of its own, as a replica on a machine of that size. Comes back when every worker is ready; raises DeploymentError where that takes longer than `timeout_s` seconds, or fails.
    """
    path = Path(model).resolve()
    if not path.exists():
        raise DeploymentError(f"There is no model at {model}; make one with: python -m ruo demo --out data")
    count = workers or max(1, int(cpu_limit()))
    with (
        tempfile.TemporaryDirectory(prefix="ruo-server-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        log = Path(folder) / "server.log"
        lifeline, ours = os.pipe()  # the server stops when this process, which holds `ours`, is gone
        try:
            with log.open("wb") as output:
                process = subprocess.Popen(
                    _command(listener.fileno()),
                    env={
                        **os.environ,
                        "MODEL_PATH": str(path),
                        "RUO_TRUST_MODEL": "1",  # who names a model in code trusts it
                        "WEB_CONCURRENCY": str(count),
                        **({} if cores is None else {"WORKER_CORES": str(cores)}),
                        "RUO_LIFELINE_FD": str(lifeline),
                        "PYTHONPATH": os.pathsep.join([str(_home()), os.environ.get("PYTHONPATH", "")]),
                    },
                    stdout=output,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    pass_fds=(listener.fileno(), lifeline),
                    start_new_session=True,  # the notebook's stop button must not reach the server
                )
            server = LocalServer(path, count, process, listener.getsockname()[1], log)
            listener.close()  # the server's copy stays; ours would keep the port open after its end
            os.close(lifeline)
            try:
                server.wait_until_ready(timeout_s)
                yield server
            finally:
                server.stop()
        finally:
            os.close(ours)


def _command(listener: int) -> list[str]:
    home = _home()
    return [
        sys.executable, "-m", "gunicorn", "-c", str(home / "server" / "gunicorn.conf.py"),
        "--bind", f"fd://{listener}", "server:app",
    ]  # fmt: skip


def _home() -> Path:
    spec = importlib.util.find_spec("server")
    if spec is None or spec.origin is None:
        raise DeploymentError("The server is not installed; run: pip install 'ruo[server]'")
    return Path(spec.origin).parent.parent
