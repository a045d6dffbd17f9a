"""Who takes a connection, and that nobody waits for a client, on real servers."""

import contextlib
import inspect
import logging
import re
import socket
import ssl
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from gunicorn import util
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.http.body import LengthReader
from gunicorn.workers.gthread import TConn, ThreadWorker

from server.slots import WorkerSlots
from server.worker import LeastLoadedWorker
from tests.server.asking import INFER, LIVE, RAW, ask, head, predictions, read_answer
from tests.server.serving import free_port, gunicorn, serve

READY = LIVE.replace(b"live", b"ready")
ROWS = np.random.default_rng(1).normal(size=(100, 8)).astype("f4").tobytes()


@pytest.fixture(scope="module")
def slow(models):
    """A real server of a slow model with four workers."""
    with serve(models["slow"], workers=4, KERAS_BACKEND="tensorflow") as server:
        yield server


def test_a_connection_goes_to_an_idle_worker(slow):
    """Of four clients with a connection for each request, none waits for another's; without the choice, half of them do."""
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(slow.url + INFER, bytes(32) * 1200, RAW), range(48)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.headers["Ruo-Worker"] for answer in answers}) == 4
    times = [dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["Server-Timing"])) for answer in answers]
    # a few may, since a worker that takes no connection for a tenth of a second loses its turn
    assert sum(float(of["queue"]) > float(of["predict"]) / 4 for of in times) <= 4


def test_no_request_waits_while_a_worker_is_idle(slow):
    """Four requests that come at the same moment go to four workers; by chance, they would once in ten times."""
    workers = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            answers = pool.map(lambda _: ask(slow.url + INFER, bytes(32) * 8000, RAW), range(4))
            workers.append(len({answer.headers["Ruo-Worker"] for answer in answers}))
    # where other processes take the CPU, a worker may lose its turn, as above
    assert sorted(workers)[1:] == [4] * 4


def test_the_stages_of_a_request_do_not_overlap(slow):
    """Those of one that waited for others neither: together, they take no longer than the request."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(slow.url + INFER, bytes(32) * 8000, RAW), range(12)))
    times = [re.findall(r";dur=(-?[\d.]+)", answer.headers["Server-Timing"]) for answer in answers]
    assert max(float(queue) / float(predict) for _, queue, predict, _ in times) > 0.5
    assert all(sum(map(float, of)) <= 1000 * answer.seconds for of, answer in zip(times, answers, strict=True))


class Listening:
    """A server with one worker, and how to reach it: over TCP, a Unix socket or TLS."""

    def __init__(self, running, address, context):
        self.process, self._address, self._context = running._process.process, address, context
        # a refused body of this size is read to its end; over TLS Gunicorn itself reads the rest of a few bytes
        self.refused_bytes = 10_000 if context else 2 << 20
        self.is_tls = context is not None

    def connect(self):
        connection = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        try:
            connection.settimeout(20)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(self._address)
            return self._context.wrap_socket(connection, server_hostname="localhost") if self._context else connection
        except OSError:
            connection.close()
            raise

    def ask(self, request):
        """The status, the body and the seconds of one request on a connection of its own."""
        began = time.monotonic()
        with self.connect() as connection, connection.makefile("rb") as stream:
            connection.sendall(request)
            return (*read_answer(stream), time.monotonic() - began)

    def is_ready(self):
        with contextlib.suppress(OSError):
            return self.ask(READY)[0] == 200

    def workers(self):
        return [child.pid for child in psutil.Process(self.process.pid).children()]


@pytest.fixture(scope="module", params=["TCP", "Unix", "TLS"])
def listening(request, certificates, models, tmp_path_factory):
    """A real server of a small model with one worker, behind each kind of socket."""
    address, options, context = ("127.0.0.1", free_port()), [], None
    if request.param == "Unix":
        address = str(tmp_path_factory.mktemp("socket") / "ruo.sock")
    if request.param == "TLS":
        options = ["--certfile", str(certificates["me.pem"]), "--keyfile", str(certificates["me.key"])]
        context = ssl.create_default_context(cafile=certificates["ca.pem"])
    bind = f"unix:{address}" if request.param == "Unix" else f"127.0.0.1:{address[1]}"
    with gunicorn(models["mlp"], *options, bind=bind, BODY_TIMEOUT="3", MAX_WAITING="8") as running:
        server = Listening(running, address, context)
        running._process.wait_until(server.is_ready, 60)
        yield server


def question(body=ROWS, extra=""):
    return head(len(body), extra) + body


def in_chunks(body, extra=""):
    pieces = [body[start : start + 8] for start in range(0, len(body), 8)]
    chunked = head(0, extra).replace(b"Content-Length: 0\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n")
    return chunked + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def test_it_answers_over_every_kind_of_socket(listening, rows, expected):
    """Predictions are those of the model, also of a body in chunks, and the worker is the same one afterwards."""
    before = listening.workers()
    for request in (question(rows.tobytes()), in_chunks(rows.tobytes())) * 3:
        status, body, _ = listening.ask(request)
        assert status == 200
        np.testing.assert_allclose(predictions(body), expected["mlp"], atol=1e-5)
    assert listening.ask(LIVE)[0] == 200
    assert listening.workers() == before


@pytest.mark.parametrize("pause", [0.05, 1.5])
@pytest.mark.parametrize("pack", [question, in_chunks])
def test_a_request_may_come_in_pieces(listening, pause, pack):
    """Its rest may come late or byte by byte; meanwhile others are answered, and the answer is that of the whole."""
    _, whole, _ = listening.ask(question())
    with listening.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(pack(ROWS)[:200])
        time.sleep(pause)
        assert listening.ask(question())[0] == 200
        for byte in pack(ROWS)[200:250]:
            connection.sendall(bytes([byte]))
        connection.sendall(pack(ROWS)[250:])
        status, answer = read_answer(stream)
    assert status == 200
    np.testing.assert_array_equal(predictions(answer), predictions(whole))


def test_a_body_that_is_packed_on_its_way_is_refused(listening):
    """Taken as it comes, it would be other rows."""
    status, body, _ = listening.ask(in_chunks(ROWS).replace(b"chunked", b"gzip, chunked"))
    assert (status, b"Content-Encoding" in body) == (501, True)


def test_a_client_may_ask_before_it_sends_its_body(listening):
    """`Expect: 100-continue` is told to go on."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(head(len(ROWS), "Expect: 100-continue\r\n"))
        assert stream.readline().startswith(b"HTTP/1.1 100")
        assert stream.readline() == b"\r\n"
        connection.sendall(ROWS)
        assert read_answer(stream)[0] == 200


def test_requests_share_a_connection(listening):
    """One after the other, and where the client sends all of them, probes among them, before it reads."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(question())
            assert read_answer(stream)[0] == 200
        connection.sendall(3 * question() + LIVE + question() + LIVE + 3 * question())
        assert [read_answer(stream)[0] for _ in range(9)] == [200] * 9


def test_clients_that_go_in_the_middle_of_a_request_are_forgotten(listening):
    """More than there are places for: their connections end or are reset, which is no failure of the server's."""
    for length, sent in [(3200, 100)] * 20 + [(10 << 20, 5 << 20)] * 4:
        with listening.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", sent == 100, 0))
            connection.sendall(head(length) + bytes(sent))
            time.sleep(0.005)
    time.sleep(0.2)
    assert listening.ask(question())[0] == 200
    assert b'status="500"' not in listening.ask(LIVE.replace(b"/v2/health/live", b"/metrics"))[1]


def test_a_body_that_does_not_come_holds_nobody_up(listening):
    """Of a given length or in chunks, its client is given up after BODY_TIMEOUT and told so; meanwhile others are answered."""
    with listening.connect() as one, listening.connect() as other:
        one.sendall(question()[:-100])
        other.sendall(in_chunks(ROWS)[:-100])
        assert listening.ask(question())[2] < 1
        began = time.monotonic()
        for connection in (one, other):
            expected = [ssl.SSLError, IndexError] if listening.is_tls else []
            with contextlib.suppress(*expected), connection.makefile("rb") as stream:
                status, body = read_answer(stream)
                assert (status, b"in time" in body) == (408, True)
            assert 1.5 < time.monotonic() - began < 6


def test_a_connection_serves_on_after_a_refusal(listening):
    """A refused body is read to its end, however large; its client gets to see why, and then its next answer or the end."""
    with listening.connect() as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(question(bytes(listening.refused_bytes), "Content-Encoding: br\r\n"))
            assert read_answer(stream)[0] == 415
            connection.sendall(question())
            assert read_answer(stream)[0] == 200
        connection.sendall(question(bytes(2 << 20), "Content-Encoding: br\r\nConnection: close\r\n"))
        status, body = read_answer(stream)
        assert (status, b"not known" in body) == (415, True)
        assert stream.read() == b""


CROWDS = {  # how many clients, and what each of them sends before it falls silent
    "nothing, over TLS a handshake": (60, b""),
    "half a head": (10, LIVE[:20]),
    "a probe that announces a body": (10, LIVE[:-2] + b"Content-Length: 100000\r\n\r\n"),
    "a probe that announces chunks": (10, LIVE[:-2] + b"transfer-encoding: chunked\r\n\r\n"),
    "a request, whose long answer it does not read": (6, question(ROWS * 300)),
    "its last request, after which it does not close": (20, question(extra="Connection: close\r\n")),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_a_crowd_holds_nobody_up(listening, crowd):
    """Whatever many clients leave undone, probes and requests are answered within a second."""
    count, sent = CROWDS[crowd]
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(6) as pool:
        clients = [stack.enter_context(listening.connect()) for _ in range(count)]
        list(pool.map(lambda connection: connection.sendall(sent), clients))
        time.sleep(0.3)
        answers = [listening.ask(request) for request in 5 * [LIVE, READY, question()]]
    assert {status for status, *_ in answers} == {200}
    assert max(seconds for *_, seconds in answers) < 1


@pytest.mark.soak
def test_half_a_head_is_given_up(listening):
    """A client that does not finish its headers is cut off after some seconds."""
    with listening.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost:")
        began = time.monotonic()
        assert connection.recv(100) == b""
        assert 5 < time.monotonic() - began < 15


def test_silent_clients_do_not_delay_the_end(listening):
    """A connection on which nothing was sent is closed soon after SIGTERM; the last test, since the server ends."""
    with listening.connect(), listening.connect(), listening.connect():
        time.sleep(0.2)
        listening.process.terminate()
        began = time.monotonic()
        assert listening.process.wait(30) == 0
        assert time.monotonic() - began < 6


def test_a_worker_retires_also_where_two_requests_are_its_last(monkeypatch):
    """Each may be counted before the other looks how many there have been."""
    monkeypatch.setattr(ThreadWorker, "handle_request", lambda *_: True)
    config = Config()
    config.set("max_requests", 5)
    worker = LeastLoadedWorker(1, 1, [], None, 30, config, logging.getLogger())
    worker.slots, worker.slot, worker.exchange_s = WorkerSlots(), 0, 1.0
    worker.slots.is_ready[0] = 1
    for worker.nr, is_last in ((3, False), (5, True)):
        worker.handle_request(None, None)
        assert worker.slots.is_retiring[0] == is_last
    worker.tmp.close()


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
    master = Arbiter(SimpleNamespace(cfg=Config()))
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
        assert (type(reader), reader.length, reader.unreader) == (LengthReader, 3, conn.parser.unreader)
        assert reader.unreader.buf.getvalue() == reader.unreader.take_buffered() == b"ab"
        reader.unreader.unread(b"ab")
        assert reader.read(2) == b"ab"
        conn.close()
