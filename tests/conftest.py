"""What the tests share: a small demo, a real server for it, what the model says in-process, and a server that fails."""

import fcntl
import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ruo.deploy.local import LocalServer, local_server
from ruo.learn.demo import Demo, make_demo
from ruo.machine import cpu_limit
from ruo.wire import WIRES, InferResponse

ROWS = 2_500

# Fixtures and folders whose tests start a server, Keras or other processes; `make check` leaves them out. A test or module
# that starts one by itself, or takes seconds, marks itself: pytest.mark.slow.
SLOW_FIXTURES = {"demo", "keras"}
SLOW_FOLDERS = {"benchmarks", "compare", "deploy", "figures", "k8s", "model"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start something as slow."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if SLOW_FIXTURES & set(fixtures) or item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `pytest -n auto`: one more than there are CPUs, since tests wait for servers."""
    return min(round(cpu_limit()) + 1, 16)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo with a test set of 2,500 rows and the dense model, made once for all processes that share a run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "demo"
    with (folder.parent / "demo.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "accuracy.json").exists():
            made = make_demo(folder, ROWS, models=("mlp",))
            (folder / "accuracy.json").write_text(json.dumps(made.accuracy))
    accuracy = json.loads((folder / "accuracy.json").read_text())
    return Demo(folder / "testset.csv", {"mlp": folder / "mlp.keras"}, accuracy)


@pytest.fixture(scope="session")
def server(demo: Demo) -> Iterator[LocalServer]:
    """A running server with two workers that holds the demo's dense model; OpenVINO computes, which starts sooner."""
    with local_server(demo.models["mlp"], workers=2, settings={"KERAS_BACKEND": "openvino"}) as running:
        yield running


@pytest.fixture(scope="session")
def features(demo: Demo) -> np.ndarray:
    """The demo's features, (rows, 64) float32, read without ruo."""
    return pl.read_csv(demo.testset).select(pl.exclude("^Label_.*$")).to_numpy().astype(np.float32)


@pytest.fixture(scope="session")
def labels(demo: Demo) -> np.ndarray:
    """The demo's class indices, read without ruo."""
    return pl.read_csv(demo.testset).select("^Label_.*$").to_numpy().argmax(axis=1)


@pytest.fixture(scope="session")
def expected(demo: Demo, features: np.ndarray) -> np.ndarray:
    """What the model says of every row, computed in this process."""
    import keras

    return keras.saving.load_model(demo.models["mlp"]).predict(features, batch_size=1000, verbose=0)


@dataclass
class Reply:
    """What a scripted server answers: `cut_after` breaks the connection after so many bytes of the body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    cut_after: int | None = None


METADATA = {
    "name": "model",
    "versions": ["1"],
    "platform": "test",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
}


def row_sums(body: bytes, headers: dict[str, str], version: str = "1") -> Reply:
    """The right answer of a model that adds up each row."""
    request = WIRES["v2"].decode_request(headers, body)
    sums = request.inputs["x"].sum(axis=1, keepdims=True)
    encoded = WIRES["v2"].encode_response(InferResponse({"y": sums}, "model", version), request)
    return Reply(200, b"".join(bytes(buffer) for buffer in encoded.buffers), encoded.headers)


class ScriptedServer:
    """A real HTTP server whose answers to infer requests a test writes; it speaks of one model, which adds up a row.

    `pages` is what it says of itself, by path (or how it refuses to), and `asked` the paths of these questions; `requests`
    and `paths` are what came to be inferred.
    """

    def __init__(self, script: Callable[[int, bytes, dict[str, str]], Reply]) -> None:
        self.requests: list[bytes] = []
        self.paths: list[str] = []
        self.asked: list[str] = []
        self.most_at_once = 0
        self.pages: dict[str, bytes | Reply] = {
            "/v2": b'{"name": "test", "version": "1", "extensions": ["binary_tensor_data"]}',
            "/v2/models/model": json.dumps(METADATA).encode(),
            "/v2/models/model/versions/1": json.dumps(METADATA).encode(),
            "/v2/repository/index": b'[{"name": "model"}]',
        }
        self._script = script
        self._lock = threading.Lock()
        self._now = 0
        self._stop = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                outer._send(self, outer._page(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path in outer.pages:
                    return outer._send(self, outer._page(self.path))
                outer.paths.append(self.path)
                return outer._infer(self, body)

            def log_message(self, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

            def handle_error(self, *args: object) -> None:
                pass  # a client that hangs up is part of the tests

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def encrypt(self, certificate: Path, key: Path) -> None:
        """Speak https from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True)

    def close(self) -> None:
        self._stop.set()
        self._http.shutdown()
        self._http.server_close()

    def _infer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        reply = self._script(number, body, dict(handler.headers))
        self._stop.wait(reply.wait_s)
        with self._lock:
            self._now -= 1  # before the answer, since its reader may ask again before this thread goes on
        self._send(handler, reply)

    def _page(self, path: str) -> Reply:
        page = self.pages.get(path, Reply(404, b'{"error": "no such page"}'))
        return page if isinstance(page, Reply) else Reply(body=page)

    def _send(self, handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        handler.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(reply.body if reply.cut_after is None else reply.body[: reply.cut_after])
        handler.close_connection = True


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An authority of the test's own, and a certificate for localhost that it signed, made by openssl."""
    folder = tmp_path_factory.mktemp("certificates")
    if shutil.which("openssl") is None:
        pytest.fail("The TLS tests need openssl; on Debian and Ubuntu: apt-get install openssl")
    extensions = folder / "extensions"
    extensions.write_text("subjectAltName = DNS:localhost\nauthorityKeyIdentifier = keyid\n")
    make = ["req", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    ca = ["-keyout", "ca.key", "-out", "ca.pem", "-x509", "-subj", "/CN=test authority"]
    ca += ["-addext", "keyUsage = critical, keyCertSign"]  # since Python 3.13
    sign = ["x509", "-req", "-in", "me.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    for arguments in (
        [*make, *ca],
        [*make, "-keyout", "me.key", "-out", "me.csr", "-subj", "/CN=localhost"],
        [*sign, "-out", "me.pem", "-extfile", "extensions"],
    ):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return {name: folder / name for name in ("ca.pem", "me.pem", "me.key")}


Script = Callable[[int, bytes, dict[str, str]], Reply]


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], ScriptedServer]]:
    """Make a server that answers as the test's script says."""
    servers: list[ScriptedServer] = []

    def make(script: Script) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def small_csv(tmp_path: Path) -> Path:
    """Ten rows of three features and no labels; row i holds i, i + 0.5 and 1."""
    path = tmp_path / "small.csv"
    path.write_text("a,b,c\n" + "".join(f"{i},{i}.5,1\n" for i in range(10)))
    return path


@pytest.fixture
def small_sums() -> np.ndarray:
    """What the scripted model says of `small_csv`."""
    return np.array([[2 * i + 1.5] for i in range(10)], np.float32)


@pytest.fixture
def answers() -> Script:
    """A script that always answers rightly."""
    return lambda number, body, headers: row_sums(body, headers)


@pytest.fixture(scope="session")
def reply() -> type[Reply]:
    """The class of a scripted answer."""
    return Reply


@pytest.fixture(scope="session")
def right_answer() -> Callable[..., Reply]:
    """The right answer to a request, for scripts that answer rightly now and then."""
    return row_sums
