"""MLServer and PyTriton on this machine, with a Keras model that TensorFlow compiles, until a block ends."""

import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.environments import make_environment
from ruo.deploy.local import fetch, server_process

_HERE = Path(__file__).parent
_READY_S = 180.0
_TENSORFLOW = ("tensorflow-cpu; platform_machine == 'x86_64'", "tensorflow; platform_machine != 'x86_64'")
_KERAS = ("keras", "polars", *_TENSORFLOW)
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
    """Serve the model with `workers` processes; yields the command of its client, without the job's arguments."""
    programs, (http, grpc, metrics) = mlserver_programs(), free_ports(3)
    server = {
        "host": "127.0.0.1",
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "parallel_workers": workers,
        "grpc_max_message_length": 2**31 - 1,
    }
    where = {"uri": str(model.resolve())}
    runtime = {"name": "model", "implementation": "mlserver_keras.Keras", "parameters": where}
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
    """Serve the model with `workers` threads of one process; yields what `mlserver` does."""
    programs, ports = pytriton_programs(), free_ports(3)
    command = [str(programs / "python"), str(_HERE / "pytriton_keras.py"), str(model.resolve()), str(workers)]
    ready = f"http://127.0.0.1:{ports[0]}/v2/models/model/ready"
    with running([*command, *map(str, ports)], ready, _HERE):
        yield _client(programs, "pytriton", ports[0])


PEERS = {"MLServer": mlserver, "PyTriton": pytriton}


@contextmanager
def running(command: list[str], ready: str, cwd: Path) -> Iterator[None]:
    """Run a server until the block ends, which begins when the address `ready` answers. Raises DeploymentError."""
    environment = {**peer_variables(), "PYTHONPATH": str(cwd)}

    def is_ready() -> bool:
        answer = fetch(ready)
        return answer is not None and answer[0] == 200

    with server_process(Path(command[0]).name, command, environment, cwd=cwd) as process:
        process.wait_until(is_ready, _READY_S)
        yield


def free_ports(count: int) -> list[int]:
    """`count` free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def peer_variables() -> dict[str, str]:
    """The environment variables of this process, without those that would lead another Python to ruo's packages."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KERAS", "VIRTUAL_ENV"))
    }


def _client(programs: Path, kind: str, port: int) -> list[str]:
    return [str(programs / "python"), str(_HERE / "client.py"), kind, f"127.0.0.1:{port}"]
