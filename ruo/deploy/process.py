"""A server as a process: its start, its log, waiting until it is ready, and its end."""

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
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ruo.errors import DeploymentError

_LOOK_S = 0.05
# A proxy of the environment must not be asked for an address of this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class ServerProcess:
    """A server process and its log; error messages call it `name`."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its process group and session."""
        return self.process.pid

    def log_text(self) -> str:
        """What the server has written so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, is_done: Callable[[], bool], timeout_s: float) -> None:
        """Return as soon as `is_done()`; raises DeploymentError if the process ends or the time runs out before."""
        deadline = time.monotonic() + timeout_s
        while not is_done():
            if self.process.poll() is not None:
                raise self.error(f"ended with status {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.error(f"was not ready after {timeout_s:g} s")
            time.sleep(_LOOK_S)

    def error(self, problem: str) -> DeploymentError:
        """The error for a problem of the server, with the last errors in its log, or else the last lines."""
        lines = [line for line in self.log_text().splitlines() if line.strip()]
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
                start_new_session=True,  # a notebook's stop button does not reach another process group
            )
        try:
            yield ServerProcess(name, process, log)
        finally:
            if grace_s:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(grace_s)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def fetch(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, timeout_s: float = 5.0
) -> tuple[int, bytes] | None:
    """The status and body of a response from a server on this machine; None if it does not answer."""
    request = urllib.request.Request(url, body, dict(headers or {}))  # noqa: S310  our own servers
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code, answer.read()
    except (OSError, HTTPException):
        return None
