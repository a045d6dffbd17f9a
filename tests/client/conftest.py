"""What the client's tests share: scripts of servers that fail now and then, and tables."""

import asyncio
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import Scores, score_csv
from ruo.deploy.local import LocalServer
from ruo.learn.demo import Demo
from ruo.wire import WIRES, InferResponse
from tests.conftest import METADATA, ROWS, Reply, Script, ScriptedServer, row_sums

Scoring = Callable[..., Scores]
Speak = Callable[[socket.socket, int], None]
Scripted = Callable[[Script], ScriptedServer]


@asynccontextmanager
async def loop_lags() -> AsyncIterator[list[float]]:
    """The delays of the running loop in seconds during an `async with` block: times on it err by as much."""
    loop, lags = asyncio.get_running_loop(), [0.0]

    async def watch() -> None:
        while True:
            due = loop.time() + 0.02
            await asyncio.sleep(0.02)
            lags.append(loop.time() - due)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield lags
        watching.cancel()


def always(reply: Reply) -> Script:
    """Give the same answer to every request."""
    return lambda number, body, headers: reply


def sometimes(reply: Reply, *numbers: int) -> Script:
    """Give this answer to the requests with these numbers, the right one to all others."""
    return lambda number, body, headers: reply if number in numbers else row_sums(body, headers)


def late(seconds: Callable[[int], float]) -> Script:
    """Give the right answers, so late as each request's number says."""
    return lambda number, body, headers: replace(row_sums(body, headers), wait_s=seconds(number))


def saying(said: dict[str, str], body: bytes, headers: dict[str, str], version: str = "1") -> Reply:
    """The right answer, with more headers."""
    answer = row_sums(body, headers, version)
    return replace(answer, headers=answer.headers | said)


def too_large_if(is_so: Callable[[np.ndarray], bool]) -> Script:
    """Give the right answers, and 413 to requests whose rows are so."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        rows = WIRES["v2"].decode_request(headers, body).inputs["x"]
        return Reply(413, b'{"error": "too large"}') if is_so(rows) else row_sums(body, headers)

    return script


def sums(inputs: dict[str, np.ndarray], width: int = 1) -> np.ndarray:
    """The sums of the rows of the only input, `width` times."""
    (rows,) = inputs.values()
    return rows.sum(axis=1, keepdims=True, dtype=np.float32).repeat(width, axis=1)


def computed(body: bytes, headers: dict[str, str], wire: str = "v2", compute: Any = sums, output: str = "y") -> Reply:
    """The answer on this wire of a model that computes its output from its inputs."""
    request = WIRES[wire].decode_request(headers, body)
    response = InferResponse({output: compute(request.inputs)}, "model", "1", request.id)
    encoded = WIRES[wire].encode_response(response, request)
    return Reply(200, b"".join(map(bytes, encoded.buffers)), encoded.headers)


def describe(server: ScriptedServer, **changes: Any) -> None:
    """Let a server describe its model as it does, except for the changes."""
    page = json.dumps({**METADATA, **changes}).encode()
    server.pages |= dict.fromkeys(["/v2/models/model", "/v2/models/model/versions/1"], page)


def statuses(*versions: str, **more: Any) -> bytes:
    """TensorFlow Serving's answer to GET /v1/models/model."""
    loading = {"version": "99", "state": "LOADING"}
    states = [{"version": version, "state": "AVAILABLE"} for version in versions]
    return json.dumps({"model_version_status": [loading, *states], **more}).encode()


def python(program: str) -> str:
    """Return what a program prints, warnings too."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
    assert run.returncode == 0, run.stdout
    return run.stdout


def signalled(program: str, number: int, wait_s: float) -> str:
    """Return what a program prints after its first line, if it gets a signal so long after that line."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(wait_s)
        process.send_signal(number)
        return process.communicate(timeout=10)[0]


def interrupted(path: Path, url: str, chunk_size: int | None, wait_s: float) -> str:
    """Return which threads are left where Ctrl-C comes so long after a run began."""
    program = f"""
        import threading
        from ruo import score_csv
        print("begin", flush=True)
        try:
            score_csv({str(path)!r}, {url!r}, chunk_size={chunk_size!r})
        except KeyboardInterrupt:
            print([thread.name for thread in threading.enumerate()])
    """
    return signalled(program, signal.SIGINT, wait_s)


class Names:
    """A fake name server: `addresses` are those of ruo-headless.test; one that fails where there are none."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "ruo-headless.test" and not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = self.addresses if host == "ruo-headless.test" else [host]
        return [entry for address in addresses for entry in self._real(address, port, *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The name ruo-headless.test."""
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names)
    monkeypatch.setattr("ruo.client.servers._LOOK_UP_S", 0.1)
    return names


class BareServer:
    """Gives these answers on each connection, or runs `script(connection, number)` for it, and then closes it."""

    def __init__(self, *script: bytes | Speak, host: str = "127.0.0.1") -> None:
        self.connections = 0
        self.requests: list[bytes] = []  # those that got one of the answers
        self._script: Any = script[0] if callable(script[0]) else self._answer
        self._answers: Any = script
        self._tls: ssl.SSLContext | None = None
        self._listener = socket.create_server((host, 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://{host}:{self.port}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def encrypt(self, certificates: dict[str, Path]) -> None:
        """Speak https from now on."""
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificates["me.pem"], certificates["me.key"])

    def close(self) -> None:
        with suppress(OSError):  # it may be closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()
        self._thread.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        self._open.append(connection)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is sent last is not held back
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                self._script(connection, number)

    def _answer(self, connection: socket.socket, number: int) -> None:
        for answer in self._answers:
            if not (request := read_request(connection)):
                return
            self.requests.append(request)
            connection.sendall(answer)


def read_request(connection: socket.socket) -> bytes:
    """Read a whole request; empty where the client has closed the connection."""
    data, length = b"", 0
    while (not length or len(data) < length) and (piece := connection.recv(1 << 20)):
        data += piece
        if not length and (end := data.find(b"\r\n\r\n")) >= 0:
            stated = re.search(rb"Content-Length: (\d+)", data[:end])
            length = end + 4 + (int(stated[1]) if stated else 0)
    return data


@pytest.fixture
def serving() -> Iterator[Callable[..., BareServer]]:
    """Start a server that gives answers or runs a script."""
    with ExitStack() as stack:
        yield lambda *script, **where: stack.enter_context(closing(BareServer(*script, **where)))


@pytest.fixture
def right_scores(small_csv: Path, small_sums: np.ndarray) -> Scoring:
    """Score `small_csv`, every row of which comes back right."""

    def scoring(url: str, **options: Any) -> Scores:
        scores = score_csv(small_csv, url, **options)
        np.testing.assert_array_equal(scores.predictions, small_sums)
        return scores

    return scoring


@pytest.fixture
def demo_scores(demo: Demo, server: LocalServer, expected: np.ndarray) -> Scoring:
    """Score the demo's table, or its first `rows` in another form, every row of which comes back as in this process."""

    def scoring(source: Any = demo.testset, rows: int = ROWS, url: Any = server.url, **options: Any) -> Scores:
        scores = score_csv(source, url, **options)
        np.testing.assert_allclose(scores.predictions, expected[:rows], atol=1e-5)
        return scores

    return scoring


@pytest.fixture
def well(scripted: Scripted, answers: Script) -> ScriptedServer:
    """A server that answers rightly."""
    return scripted(answers)


@pytest.fixture
def long_csv(tmp_path: Path) -> Path:
    """20,000 rows whose sums are 6."""
    path = tmp_path / "long.csv"
    path.write_text("a,b,c\n" + "1,2,3\n" * 20_000)
    return path


@pytest.fixture
def labelled_csv(tmp_path: Path) -> Path:
    """Ten rows whose sums are 2, 3, ..., 11, and whose labels are 1, 0, 1, 0, ..."""
    path = tmp_path / "labelled.csv"
    path.write_text("a,b,c,Label_0,Label_1\n" + "".join(f"{i},1,1,{i % 2},{1 - i % 2}\n" for i in range(10)))
    return path


@pytest.fixture
def gone() -> Iterator[str]:
    """An address where nothing listens, which nobody else gets by chance."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a test may start a server there
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
