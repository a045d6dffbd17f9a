"""MLServer and PyTriton on this machine, with a Keras model that TensorFlow compiles, until a block ends."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.environments import make_environment
from ruo.errors import DeploymentError

__all__ = [
    "PEERS", "free_ports", "mlserver", "mlserver_programs", "peer_variables", "pytriton", "pytriton_programs", "running",
]  # fmt: skip

_HERE = Path(__file__).parent
_READY_S = 180.0
_KERAS = (
    "keras", "polars", "tensorflow-cpu; platform_machine == 'x86_64'", "tensorflow; platform_machine != 'x86_64'",
)  # fmt: skip
# Triton's server carries a Python of its own that takes its standard library from the system's, so that comes first.
_PYTHONS = ("/usr/bin/python3", "python3.12", "python3.11", "python3.10", sys.executable)


def mlserver_programs() -> Path:
    """The folder of MLServer's programs. Raises MissingPackageError."""
    # newer versions of uvloop break its workers
    return make_environment("mlserver", "mlserver", "uvloop<0.22", *_KERAS, works=("mlserver", "--help")) / "bin"


def pytriton_programs() -> Path:
    """The folder of the Python that has PyTriton. Raises MissingPackageError."""
    works = ("python", "-c", "import pytriton.triton")
    return make_environment("pytriton", "nvidia-pytriton", *_KERAS, works=works, pythons=_PYTHONS) / "bin"


@contextmanager
def mlserver(model: Path, workers: int) -> Iterator[list[str]]:
    """Serve the model by so many processes; yields the command that is one job of its client, but for the job's arguments."""
    programs, (http, grpc, metrics) = mlserver_programs(), free_ports(3)
    server = {
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics,
        "parallel_workers": workers, "grpc_max_message_length": 2**31 - 1,
    }  # fmt: skip
    runtime = {
        "name": "model", "implementation": "mlserver_keras.Keras", "parameters": {"uri": str(model.resolve())},
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="ruo-mlserver-") as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(runtime))
        shutil.copy(_HERE / "mlserver_keras.py", folder)
        ready = f"http://127.0.0.1:{http}/v2/models/model/ready"
        with running([str(programs / "mlserver"), "start", str(folder)], ready, folder):
            yield _client(programs, "mlserver", grpc)


@contextmanager
def pytriton(model: Path, workers: int) -> Iterator[list[str]]:
    """Serve the model by so many threads of one process; yields what `mlserver` does."""
    programs, ports = pytriton_programs(), free_ports(3)
    command = [str(programs / "python"), str(_HERE / "pytriton_keras.py"), str(model.resolve()), str(workers)]
    ready = f"http://127.0.0.1:{ports[0]}/v2/models/model/ready"
    with running([*command, *map(str, ports)], ready, _HERE):
        yield _client(programs, "pytriton", ports[0])


PEERS = {"MLServer": mlserver, "PyTriton": pytriton}


@contextmanager
def running(command: list[str], ready: str, cwd: Path) -> Iterator[None]:
    """Run a server until the block ends; it begins when the address `ready` answers. Raises DeploymentError."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**peer_variables(), "PYTHONPATH": str(cwd)},
        )  # fmt: skip
        try:
            until = time.monotonic() + _READY_S
            while not _answers(ready):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    words = log.read().decode(errors="replace").strip()[-1000:]
                    raise DeploymentError(f"{Path(command[0]).name} did not come up. Its log ends: {words}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """So many ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def peer_variables() -> dict[str, str]:
    """The environment variables of this process, without those that would have another Python find ruo's packages."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS", "VIRTUAL_ENV"))
    }


def _client(programs: Path, kind: str, port: int) -> list[str]:
    return [str(programs / "python"), str(_HERE / "client.py"), kind, f"127.0.0.1:{port}"]


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5):  # noqa: S310  this machine's
            return True
    except (urllib.error.URLError, OSError):
        return False
