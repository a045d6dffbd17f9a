"""A server that no client can make useless, whatever it sends or does not send: real servers and real sockets."""

import contextlib
import json
import re
import resource
import select
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.server.asking import INFER, LIVE, PACK, RAW, ask, clients_without_a_pause, head, read_answer, wait_for
from tests.server.serving import serve

pytestmark = pytest.mark.slow

MB = 1 << 20


@pytest.fixture(scope="module")
def server(models):
    """A real server with one worker, and 64 MB for the bodies of all requests; its memory is what it holds."""
    # what is freed is given back at once
    malloc = {"MALLOC_TRIM_THRESHOLD_": 0, "MALLOC_TOP_PAD_": 0, "MALLOC_MMAP_THRESHOLD_": 1 << 17}
    with serve(models["mlp"], MAX_WAITING_MB=64, MAX_WAITING=8, **malloc) as running:
        running.worker = worker_of(running)
        yield running


@pytest.fixture
def connect(server):
    """Open many connections to that server; all are closed at the end of the test."""
    with contextlib.ExitStack() as stack:

        def open_many(count, to=server):
            host, port = to.url.removeprefix("http://").split(":")
            made = [stack.enter_context(socket.socket()) for _ in range(count)]
            for connection in made:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                connection.settimeout(20)
                connection.connect((host, int(port)))
            return made

        yield open_many
    wait_for(lambda: ask(server.url + INFER, bytes(32), RAW).status == 200)  # there is room again


def worker_of(running):
    (worker,) = [process.pid for process in psutil.Process(running.pid).children()]
    return worker


def peak_mb(pid):
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


@contextlib.contextmanager
def memory_within(server, most_mb):
    """The worker's resident memory grows by no more than that."""
    Path(f"/proc/{server.worker}/clear_refs").write_text("5")  # the peak starts anew
    before = peak_mb(server.worker)
    yield
    assert peak_mb(server.worker) - before < most_mb


CROWDS = {
    "half a head": (100, LIVE[:40]),
    "no body": (100, head(100)),
    "answers that are not read": (50, head(32 * 100_000) + bytes(32 * 100_000)),
    "probes whose answers are not read": (50, LIVE * 20_000),
    "documents that are not read": (50, LIVE.replace(b"/v2/health/live", b"/openapi.json") * 1_000),
    "nothing": (1100, b""),
    "one request, and then nothing": (1100, LIVE),
    "no body, from more than there is room for": (1100, head(100)),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_probes_are_answered_within_a_second(server, connect, crowd):
    """Whatever many other clients do or leave undone, a probe has its answer within a second."""
    count, sent = CROWDS[crowd]
    for connection in connect(count):
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection.send(sent)
    if sent == LIVE:
        connection.settimeout(20)
        connection.recv(12)
    for path in ("/v2/health/live", "/v2/health/ready") * 2:
        answer = ask(server.url + path)
        assert (answer.status, answer.seconds < 1) == (200, True), answer.seconds
    assert worker_of(server) == server.worker


def test_the_oldest_idle_connection_makes_room(server, connect):
    """With more idle connections than there is room for, new ones are served and the ones idle longest are closed."""
    idle = connect(1100)
    for connection in idle[-20:]:
        connection.sendall(LIVE)
        assert connection.recv(12) == b"HTTP/1.1 200"
    poll = select.poll()
    for connection in idle[:-20]:
        poll.register(connection, select.POLLRDHUP)
    ended = {descriptor for descriptor, _ in poll.poll(0)}
    closed = [index for index, connection in enumerate(idle[:-20]) if connection.fileno() in ended]
    assert closed == list(range(len(closed)))
    assert 50 <= len(closed) < 500


LONG = [0] * 20_000 + ["x" * 10_000]
TENSOR = {"name": "x", "shape": [len(LONG)], "datatype": "FP32", "data": LONG}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/test", LONG),
        ("/v1/models/model:predict", {"instances": LONG}),
        (INFER, {"inputs": [TENSOR]}),
        (INFER, {"inputs": [{**TENSOR, "shape": [2**63 - 1] * 50_000, "data": []}]}),
    ],
    ids=["the paper's wire", "V1", "V2", "more dimensions than there can be"],
)
def test_json_that_is_no_rows_is_refused_at_once_and_takes_no_memory(server, path, body):
    """One long string among numbers, or a shape whose size nobody should compute, within a few megabytes."""
    with memory_within(server, 30):
        answer = ask(server.url + path, json.dumps(body).encode())
    assert (answer.status, answer.seconds < 1) == (400, True)


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("coding", ["identity", *PACK])
def test_waiting_bodies_are_counted_as_they_are_unpacked(server, coding, is_chunked):
    """Of eight times 48 MB where 64 MB may wait, one is read; the others get 503, and memory is the limit and one body."""
    body = PACK.get(coding, bytes)(bytes(48 * MB - 4))  # not whole rows, so that it is refused once it is unpacked
    at_once, answers = threading.Barrier(8), []

    def request(_):
        at_once.wait()
        sent = (body[start : start + MB] for start in range(0, len(body), MB)) if is_chunked else body
        return ask(server.url + INFER, sent, {**RAW, "Content-Encoding": coding}, timeout=120)

    with memory_within(server, 64 + 48 + 20), ThreadPoolExecutor(8) as pool:
        while not any(answer.status == 503 for answer in answers):  # eight that are unpacked one by one all fit
            answers += pool.map(request, range(8))
    busy = [answer for answer in answers if answer.status == 503]
    assert {answer.status for answer in answers} == {400, 503}
    assert all(answer.headers["Retry-After"] == "1" and "busy" in answer.json()["error"] for answer in busy)
    assert ask(server.url + INFER, bytes(32), RAW).status == 200


def test_bodies_are_admitted_up_to_the_limit(server, connect):
    """While one of 40 MB comes, 20 MB more are taken and 30 are not, of the 64 MB that may wait."""
    first, second = connect(2)
    first.sendall(head(40 * MB))
    wait_for(lambda: b"in_flight 1.0" in ask(server.url + "/metrics").body)
    second.sendall(head(30 * MB))
    assert second.recv(12) == b"HTTP/1.1 503"
    assert ask(server.url + INFER, bytes(20 * MB), RAW).status == 200


def test_a_kept_connection_waits_for_a_head_that_comes_in_pieces(server, connect):
    """After a body was received as well."""
    (connection,) = connect(1)
    with connection.makefile("rb") as stream:
        for pause_s in (0, 0.2):
            for piece in (head(32)[:40], head(32)[40:] + bytes(32)):
                connection.sendall(piece)
                time.sleep(pause_s)
            assert read_answer(stream)[0] == 200


def test_without_a_free_descriptor_connections_wait(models, connect):
    """Where the system gives no descriptor, what is under way is answered, the rest waits, and the log says so once."""
    with serve(models["slow"], LOG_LEVEL="error") as short, ThreadPoolExecutor(8) as pool:
        worker = worker_of(short)
        ask(short.url + INFER, bytes(32), RAW)
        used = psutil.Process(worker).num_fds()
        before = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 4, before[1]))
        requests = [pool.submit(ask, short.url + INFER, bytes(32) * 4000, RAW) for _ in range(8)]
        time.sleep(0.3)
        connect(30, to=short)
        assert [request.result().status for request in requests] == [200] * 8
        assert ask(short.url + "/v2/health/live").status == 200
        resource.prlimit(worker, resource.RLIMIT_NOFILE, before)
        assert ask(short.url + INFER, bytes(32), RAW).status == 200
        assert worker_of(short) == worker
        assert short.log.read_text().count("No connection can be accepted for now") == 1


def test_no_request_fails_while_workers_are_replaced(models):
    """With one worker and without retries, at --max-requests and at SIGHUP, where the oldest worker is the first to go."""
    settings = {"GUNICORN_CMD_ARGS": "--max-requests 300", "MAX_WAITING": 8}
    with (
        serve(models["mlp"], **settings) as server,
        clients_without_a_pause(3, lambda: ask(server.url + INFER, bytes(32), RAW)) as answers,
    ):
        psutil.Process(worker_of(server)).wait(60)
        psutil.Process(server.pid).send_signal(signal.SIGHUP)
        min(psutil.Process(server.pid).children(), key=lambda process: process.pid).wait(60)
    assert {answer.status for answer in answers} == {200}
    assert 3 <= len({answer.headers["Ruo-Worker"] for answer in answers}) <= 8
