"""A server process on this machine: its log, the wait until it is ready, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from ruo.errors import DeploymentError

__all__ = ["ServerProcess", "fetch", "server_process"]

_LOOK_S = 0.05
# A proxy of the environment must not be asked for an address of this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerProcess:
    """A server process and its log. `name` stands in the messages of errors."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.log = log
        self._process = process

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def wait_until(self, is_done: Callable[[], bool], timeout_s: float) -> None:
        """Return as soon as `is_done()`.

        Raises
        ------
        DeploymentError
            The process has ended, or `timeout_s` seconds have passed; the message has the end of the log.
        """
        deadline = time.monotonic() + timeout_s
        while not is_done():
            if self._process.poll() is not None:
                raise self.error(f"ended with status {self._process.returncode}")
            if time.monotonic() > deadline:
                raise self.error(f"was not ready after {timeout_s:g} s")
            time.sleep(_LOOK_S)

    def error(self, problem: str) -> DeploymentError:
        """The error that the server has a problem, with the last lines of the log that speak of errors, or any."""
        lines = [line for line in self.log_text().splitlines() if line.strip()]
        errors = [line for line in lines if "[ERROR]" in line or "Error" in line]
        log = f"Its log says: {' | '.join((errors or lines)[-3:])}" if lines else "Its log is empty."
        return DeploymentError(f"{self.name} {problem}. {log}")

    def wait(self, timeout_s: float) -> int:
        """The status with which the process ends by itself; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def stop(self, grace_s: float) -> None:
        """End the server within `grace_s` seconds, and kill what is left of its process group then."""
        if grace_s:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace_s)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


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
    """Run a server until the block ends.

    It gets a process group of its own, so that a notebook's stop button does not reach it.
    """
    with tempfile.TemporaryDirectory(prefix="ruo-server-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        server = ServerProcess(name, process, log)
        try:
            yield server
        finally:
            server.stop(grace_s)


def fetch(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0
) -> tuple[int, bytes] | None:
    """The status and the body of the answer of a server on this machine; None where it does not answer."""
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310  our own servers
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()
    except (OSError, HTTPException):
        return None
