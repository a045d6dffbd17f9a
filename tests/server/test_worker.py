"""Who takes a connection, and that nobody waits for a client, on real servers."""

import contextlib
import inspect
import logging
import socket
import ssl
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from gunicorn import util
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.workers.gthread import TConn, ThreadWorker

import server as package

INFER = "/v2/models/model/infer"
RAW = {"Inference-Header-Content-Length": "0"}


@pytest.fixture(scope="module")
def slow(serve, models):
    """A real server of a slow model with four workers."""
    with serve(models["slow"], workers=4, KERAS_BACKEND="tensorflow") as server:
        yield server


def test_work_spreads_evenly(slow, ask):
    """Four clients with a connection for each request keep four workers equally busy."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(slow.url + INFER, bytes(32) * 1200, RAW), range(48)))
    assert {answer.status for answer in answers} == {200}
    shares = Counter(answer.headers["Ruo-Worker"] for answer in answers)
    assert len(shares) == 4
    assert min(shares.values()) >= 8


def test_no_request_waits_while_a_worker_is_idle(slow, ask):
    """Four requests that come at the same moment go to four workers."""
    for _ in range(3):
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: ask(slow.url + INFER, bytes(32) * 8000, RAW), range(4)))
        assert len({answer.headers["Ruo-Worker"] for answer in answers}) == 4


def test_probes_answer_while_all_workers_compute(slow, ask):
    """With every worker computing and requests waiting, each probe and the metrics answer within a second."""
    with ThreadPoolExecutor(24) as pool:
        work = [pool.submit(ask, slow.url + INFER, bytes(32) * 8000, RAW) for _ in range(16)]
        paths = ["/v2/health/live", "/v2/health/ready", "/metrics", "/v2/models/model/ready"] * 5
        probes = list(pool.map(lambda path: ask(slow.url + path), paths))
        assert not all(each.done() for each in work)
    assert {probe.status for probe in probes} == {200}
    assert max(probe.seconds for probe in probes) < 1
    assert {each.result().status for each in work} == {200}


def test_a_client_that_closes_late_holds_nobody_up(serve, models, ask):
    """After its answer a connection waits for its client to close, and others are accepted meanwhile."""
    with serve(models["mlp"], workers=1) as server:
        host, port = server.url.removeprefix("http://").split(":")
        asked = b"POST /v2/models/model/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        asked += b"Inference-Header-Content-Length: 0\r\nContent-Length: 32\r\n\r\n" + bytes(32)
        open_ones = [socket.create_connection((host, int(port)), timeout=10) for _ in range(5)]
        for connection in open_ones:
            connection.sendall(asked)
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in open_ones)

        began = time.monotonic()
        assert all(ask(f"{server.url}/v2/models/model").status == 200 for _ in range(5))
        assert time.monotonic() - began < 1.5
        for connection in open_ones:
            connection.close()


# --- the way of a connection, over every kind of socket


class Listening:
    """A server with one worker, and how to reach it."""

    def __init__(self, process, open_socket):
        self.process, self._open_socket = process, open_socket

    def connect(self):
        return self._open_socket()

    def ask(self, request):
        """The status, the body and the seconds of one request on a connection of its own."""
        began = time.monotonic()
        with self.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(request)
            return (*read_answer(stream), time.monotonic() - began)

    def workers(self):
        return [child.pid for child in psutil.Process(self.process.pid).children()]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


@pytest.fixture(scope="module", params=["TCP", "Unix", "TLS"])
def listening(request, gunicorn, free_port, certificate, models, tmp_path_factory):
    """A real server of a small model with one worker, behind each kind of socket."""
    made, key = certificate
    port, path = free_port(), tmp_path_factory.mktemp("socket") / "ruo.sock"
    context = ssl.create_default_context(cafile=made)

    def over_tcp():
        return socket.create_connection(("127.0.0.1", port), timeout=20)

    def over_unix():
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        try:
            connection.connect(str(path))
        except OSError:
            connection.close()
            raise
        return connection

    def over_tls():
        connection = over_tcp()
        try:
            return context.wrap_socket(connection, server_hostname="localhost")
        except OSError:
            connection.close()
            raise

    options = {
        "TCP": ["-b", f"127.0.0.1:{port}"],
        "Unix": ["-b", f"unix:{path}"],
        "TLS": ["-b", f"127.0.0.1:{port}", "--certfile", str(made), "--keyfile", str(key)],
    }[request.param]
    open_socket = {"TCP": over_tcp, "Unix": over_unix, "TLS": over_tls}[request.param]
    settings = Path(package.__file__).with_name("gunicorn.conf.py")
    variables = {"MODEL_PATH": str(models["mlp"]), "WEB_CONCURRENCY": "1", "BODY_TIMEOUT": "3"}
    with gunicorn("-c", str(settings), *options, **variables) as running:
        server = Listening(running.process, open_socket)
        until = time.monotonic() + 60
        while True:
            assert time.monotonic() < until, running.log.read_text()
            with contextlib.suppress(OSError):
                if server.ask(READY)[0] == 200:
                    break
            time.sleep(0.05)
        server.refused_bytes = 10_000 if request.param == "TLS" else 2 << 20  # Gunicorn itself reads the rest of a few
        yield server


LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
READY = LIVE.replace(b"live", b"ready")
ROWS = np.random.default_rng(1).normal(size=(100, 8)).astype("f4").tobytes()


def head(length, extra=""):
    named = f"Host: a\r\nInference-Header-Content-Length: 0\r\nContent-Length: {length}\r\n{extra}\r\n"
    return f"POST {INFER} HTTP/1.1\r\n{named}".encode()


def question(body=ROWS, extra=""):
    return head(len(body), extra) + body


def read_answer(stream):
    """The status and the body of the next answer."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, value = line.decode().split(":", 1)
        length = int(value) if name.lower() == "content-length" else length
    return status, stream.read(length)


def predictions(body):
    return np.frombuffer(body[-len(ROWS) // 32 * 12 :], "f4").reshape(-1, 3)


def test_it_answers_over_every_kind_of_socket(listening, rows, expected):
    """Predictions are those of the model, and the worker is the same one afterwards."""
    before = listening.workers()
    for _ in range(5):
        status, body, _ = listening.ask(question(rows.tobytes()))
        assert status == 200
        np.testing.assert_allclose(predictions(body), expected["mlp"], atol=1e-5)
    assert listening.ask(LIVE)[0] == 200
    assert listening.workers() == before


@pytest.mark.parametrize("pause", [0.05, 1.5])
def test_a_request_may_come_in_pieces(listening, pause):
    """Its rest may come at once or late; meanwhile others are answered, and the answer is that of the whole."""
    _, whole, _ = listening.ask(question())
    with listening.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(question()[:200])
        time.sleep(pause)
        assert listening.ask(question())[0] == 200
        connection.sendall(question()[200:])
        status, answer = read_answer(stream)
    assert status == 200
    np.testing.assert_array_equal(predictions(answer), predictions(whole))


def test_requests_share_a_connection(listening):
    """One after the other, and also where the client sends all of them before it reads."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(question())
            assert read_answer(stream)[0] == 200
        connection.sendall(3 * question())
        assert [read_answer(stream)[0] for _ in range(3)] == [200, 200, 200]


def test_a_client_that_goes_in_the_middle_of_a_request_is_forgotten(listening):
    """Its connection ends, and the next request finds the server as before."""
    for _ in range(20):
        with listening.connect() as connection:
            connection.sendall(head(3200) + bytes(100))
    assert listening.ask(question())[0] == 200


def test_a_body_that_does_not_come_holds_nobody_up(listening):
    """Its client is given up after BODY_TIMEOUT; meanwhile others are answered."""
    with listening.connect() as connection:
        connection.sendall(head(3200) + bytes(100))
        assert listening.ask(question())[2] < 1
        began = time.monotonic()
        with contextlib.suppress(ssl.SSLError):
            assert connection.recv(100)[:12] in (b"HTTP/1.1 408", b"")
        assert time.monotonic() - began < 6


def test_an_answer_is_seen_although_the_body_was_refused(listening):
    """A client that is still sending when it is refused gets to see why, and the end of the connection."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(question(bytes(2 << 20), "Content-Encoding: br\r\nConnection: close\r\n"))
        status, body = read_answer(stream)
        assert (status, b"not known" in body) == (415, True)
        assert stream.read() == b""


def test_a_connection_serves_on_after_a_refusal(listening):
    """A refused body is read to its end, however large, so that the next request on its connection is answered."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(question(bytes(listening.refused_bytes), "Content-Encoding: br\r\n"))
            assert read_answer(stream)[0] == 415
            connection.sendall(question())
            assert read_answer(stream)[0] == 200


def test_clients_that_close_late_hold_nobody_up(listening):
    """After its last answer a connection waits for its client to close, and others are answered meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(listening.connect())
            connection.sendall(question(extra="Connection: close\r\n"))
            assert connection.recv(12) == b"HTTP/1.1 200"
        assert max(listening.ask(request)[2] for request in 5 * [LIVE, question()]) < 1


def test_answers_that_are_not_read_hold_nobody_up(listening):
    """Clients that ask for long answers and do not read them keep nobody from being answered."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        idle = [stack.enter_context(listening.connect()) for _ in range(6)]
        for connection in idle:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        list(pool.map(lambda connection: connection.sendall(question(ROWS * 300)), idle))
        time.sleep(0.3)
        assert max(listening.ask(request)[2] for request in 5 * [LIVE, READY, question()]) < 1


def test_probes_with_a_body_that_does_not_come_hold_no_probes_up(listening):
    """Twenty clients that announce a body with a GET and send none leave the probes their threads."""
    announced = [LIVE.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % line) for line in ANNOUNCED]
    with contextlib.ExitStack() as stack:
        for request in announced * 10:
            stack.enter_context(listening.connect()).sendall(request)
        time.sleep(0.2)
        assert max(listening.ask(LIVE)[2] for _ in range(10)) < 1


ANNOUNCED = [b"Content-Length: 100000", b"transfer-encoding: chunked"]


def test_silent_clients_hold_nobody_up(listening):
    """Many clients that connect, over TLS with a handshake, and send nothing keep nobody from being answered."""
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(listening.connect())
        assert max(listening.ask(request)[2] for request in 5 * [LIVE, question()]) < 1


def test_requests_behind_a_probe_are_answered(listening):
    """What a client sends together with a probe is not forgotten, even where TLS has decrypted it already."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(LIVE + question() + LIVE + 3 * question())
        assert [read_answer(stream)[0] for _ in range(6)] == [200] * 6


def test_silent_clients_do_not_delay_the_end(listening):
    """A connection on which nothing was sent is closed soon after SIGTERM; the last test, since the server ends."""
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(listening.connect())
        time.sleep(0.2)
        listening.process.terminate()
        began = time.monotonic()
        assert listening.process.wait(30) == 0
        assert time.monotonic() - began < 6


# --- what it takes of Gunicorn


class Application(BaseApplication):
    def load_config(self):
        pass


def test_gunicorn_has_what_the_server_takes_of_it():
    """Names that Gunicorn does not promise; the version range in server/requirements.txt is of those that have them."""
    worker = ThreadWorker(1, 1, [], None, 30, Config(), logging.getLogger())
    methods = ["accept", "enqueue_req", "finish_request", "handle", "handle_request", "load_wsgi"]
    methods += ["murder_keepalived", "murder_pending", "on_pending_socket_readable", "wait_for_and_dispatch_events"]
    assert all(callable(getattr(worker, name)) for name in methods)
    attributes = ["alive", "keepalived_conns", "method_queue", "nr_conns", "pending_conns", "poller", "tpool"]
    assert all(hasattr(worker, name) for name in [*attributes, "max_requests", "nr", "worker_connections"])
    assert list(inspect.signature(util.write_nonblock).parameters)[:2] == ["sock", "data"]
    assert "util.write_error(client, status_int, reason, mesg)" in inspect.getsource(ThreadWorker.handle_error)
    master = Arbiter(Application())
    assert all(callable(getattr(master, name)) for name in ["kill_worker", "manage_workers", "reload", "spawn_worker"])
    assert (master.WORKERS, master.num_workers) == ({}, 1)
    assert "oldest = min(w.age for w in self.WORKERS.values())" in inspect.getsource(Arbiter.reload)
    assert callable(worker.method_queue.defer)
    worker.tmp.close()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        conn = TConn(Config(), ours, None, None)
        assert (conn.sock, conn.initialized, conn.data_ready, conn.timeout) == (ours, False, False, None)
        conn.init()
        theirs.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab")
        reader = next(conn.parser).body.reader
        assert isinstance(reader, LengthReader)
        assert reader.length == 3
        assert reader.unreader is conn.parser.unreader
        assert conn.parser.unreader.buf.getvalue() == b"ab"
        assert reader.unreader.take_buffered() == b"ab"
        reader.unreader.unread(b"ab")
        assert reader.read(2) == b"ab"
        conn.close()
