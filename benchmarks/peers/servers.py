"""KServe, MLServer and PyTriton on this machine, each in its own environment, since their pins clash with one another."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import packages_distributions, version
from pathlib import Path

from ruo.deploy.local import fetch, server_process
from ruo.errors import MissingPackageError

_HERE = Path(__file__).parent
_HOME = _HERE.parents[1]  # where `benchmarks` and `ruo` lie side by side
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ruo"
_READY_S = 180.0
# Triton's server carries a Python of its own that takes its standard library from the system's, so that comes first.
_PYTHONS = ("/usr/bin/python3", "python3.12", "python3.11", sys.executable)
# What is installed, pinned, and the command that shows that it works. Newer versions of uvloop break MLServer's workers.
_PROGRAMS = {
    "kserve": (["kserve==0.21.0"], ("python", "-c", "import kserve, tensorflow")),
    "mlserver": (["mlserver==1.7.1", "uvloop==0.21.0"], ("mlserver", "--help")),
    "pytriton": (["nvidia-pytriton==0.7.0"], ("python", "-c", "import pytriton.triton")),
}


def programs_of(name: str) -> Path:
    """The folder of a server's programs, with what ruo's model needs, in this environment's versions of it."""
    packages, works = _PROGRAMS[name]
    own = ["keras", "polars", "orjson", packages_distributions()["tensorflow"][0]]  # TensorFlow has several names
    pins = [f"{package}=={version(package)}" for package in own]
    return make_environment(f"{name}-keras", *packages, *pins, works=works, pythons=_PYTHONS) / "bin"


def make_environment(
    name: str, *packages: str, works: tuple[str, ...] = ("python", "-V"), pythons: tuple[str, ...] = (sys.executable,)
) -> Path:
    """Make an environment with the packages by the first of `pythons` with which the command `works` runs.

    Returns its folder in the user's cache, where it stays, since making it takes a minute. Raises MissingPackageError.
    """
    folder, wanted, reasons = _CACHE / name, " ".join(packages), []
    done = folder / "packages"
    if done.exists() and done.read_text() == wanted:
        return folder
    for python in filter(None, map(shutil.which, pythons)):
        for command in (
            [python, "-m", "venv", "--clear", str(folder)],
            [str(folder / "bin" / "pip"), "install", "-q", "--disable-pip-version-check", "--prefer-binary", *packages],
            [str(folder / "bin" / works[0]), *works[1:]],
        ):
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                reasons.append(f"{' '.join(command)}: {ended.stderr.strip()[-300:]}")
                break
        else:
            done.write_text(wanted)
            return folder
    raise MissingPackageError(f"{name} cannot be installed: {'; '.join(reasons)}")


@contextmanager
def kserve(client: str, model: Path, workers: int) -> Iterator[list[str]]:
    """Serve the model with KServe: by gRPC in one process, by REST in `workers`.

    Yields the command of its client, kserve_grpc or kserve_rest, without the job's arguments.
    """
    programs, ports, count = programs_of("kserve"), free_ports(2), 1 if client == "kserve_grpc" else workers
    command = [programs / "python", "-m", "benchmarks.peers.kserve_keras", model.resolve(), count, *ports]
    with running(command, f"http://127.0.0.1:{ports[0]}/v2/models/model/ready", _HERE):
        yield _client(programs, client, ports[client == "kserve_grpc"])


@contextmanager
def mlserver(model: Path, workers: int) -> Iterator[list[str]]:
    """Serve the model with `workers` processes of MLServer; yields what `kserve` does."""
    programs, (http, grpc, metrics) = programs_of("mlserver"), free_ports(3)
    ports = {"http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    server = {"host": "127.0.0.1", **ports, "parallel_workers": workers, "grpc_max_message_length": 2**31 - 1}
    where = {"uri": str(model.resolve())}
    runtime = {"name": "model", "implementation": "benchmarks.peers.mlserver_keras.Keras", "parameters": where}
    with tempfile.TemporaryDirectory(prefix="ruo-mlserver-") as name:
        folder = Path(name)
        (folder / "settings.json").write_text(json.dumps(server))
        (folder / "model-settings.json").write_text(json.dumps(runtime))
        command = [programs / "mlserver", "start", folder]
        with running(command, f"http://127.0.0.1:{http}/v2/models/model/ready", folder):
            yield _client(programs, "mlserver", grpc)


@contextmanager
def pytriton(model: Path, workers: int) -> Iterator[list[str]]:
    """Serve the model with `workers` threads of one process of PyTriton; yields what `kserve` does."""
    programs, ports = programs_of("pytriton"), free_ports(3)
    command = [programs / "python", "-m", "benchmarks.peers.pytriton_keras", model.resolve(), workers, *ports]
    with running(command, f"http://127.0.0.1:{ports[0]}/v2/models/model/ready", _HERE):
        yield _client(programs, "pytriton", ports[0])


@contextmanager
def running(command: Sequence[object], ready: str, cwd: Path) -> Iterator[None]:
    """Run a server until the block ends, which begins when the address `ready` answers. Raises DeploymentError."""
    environment = {**peer_variables(), "PYTHONPATH": f"{cwd}{os.pathsep}{_HOME}"}
    words = list(map(str, command))
    with server_process(Path(words[0]).name, words, environment, cwd=cwd) as process:
        process.wait_until(lambda: fetch(ready)[0] == 200, _READY_S)
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
    ours = ("PYTHON", "KERAS", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def _client(programs: Path, kind: str, port: int) -> list[str]:
    return [str(programs / "python"), str(_HERE / "client.py"), kind, f"127.0.0.1:{port}"]
