"""Who takes a connection, on a real server with four workers."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

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


@pytest.fixture(scope="module")
def quick(serve, models):
    """A real server of a small model with one worker."""
    with serve(models["mlp"], workers=1) as server:
        yield server


@pytest.mark.soak
@pytest.mark.alone
def test_small_requests_need_no_thread(quick, ask):
    """Answering them starts none, a large one does; this comes first, while the server has not answered any yet.

    On a busy machine no request is quick, and threads answer all of them.
    """
    [worker] = psutil.Process(quick.pid).children()
    before = worker.num_threads()
    for rows in (1, 100, 1000):
        assert ask(quick.url + INFER, bytes(32) * rows, RAW).status == 200
    assert worker.num_threads() == before
    assert ask(quick.url + INFER, bytes(32) * 40_000, RAW).status == 200
    assert worker.num_threads() > before


def connect(server):
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def head(length):
    named = f"Host: a\r\nInference-Header-Content-Length: 0\r\nContent-Length: {length}\r\n\r\n"
    return f"POST {INFER} HTTP/1.1\r\n{named}".encode()


def read_answer(stream):
    """The status and the body of the next answer."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, value = line.decode().split(":", 1)
        length = int(value) if name.lower() == "content-length" else length
    return status, stream.read(length)


@pytest.mark.parametrize("pause", [0.05, 1.5])
def test_a_small_request_may_come_in_pieces(quick, ask, pause):
    """Its rest may come at once or late; meanwhile others are answered, and the answer is that of the whole."""
    body = bytes(range(32)) * 200
    whole = ask(quick.url + INFER, body, RAW)
    with connect(quick) as connection, connection.makefile("rb") as stream:
        connection.sendall(head(len(body)) + body[:100])
        time.sleep(pause)
        assert ask(quick.url + INFER, body, RAW).status == 200
        connection.sendall(body[100:])
        status, answer = read_answer(stream)
    assert status == whole.status == 200
    assert answer.rpartition(b"}")[2] == whole.body.rpartition(b"}")[2]


def test_small_requests_share_a_connection(quick):
    """One after the other, and also where the client sends all of them before it reads."""
    body = bytes(32)
    with connect(quick) as connection, connection.makefile("rb") as stream:
        for _ in range(3):
            connection.sendall(head(len(body)) + body)
            assert read_answer(stream)[0] == 200
        connection.sendall(3 * (head(len(body)) + body))
        assert [read_answer(stream)[0] for _ in range(3)] == [200, 200, 200]


def test_a_client_that_goes_in_the_middle_of_a_small_request_is_forgotten(quick, ask):
    """Its connection ends, and the next request finds the server as before."""
    for _ in range(20):
        with connect(quick) as connection:
            connection.sendall(head(3200) + bytes(100))
    assert ask(quick.url + INFER, bytes(3200), RAW).status == 200


def test_an_answer_longer_than_the_question_holds_nobody_up(quick, ask):
    """Clients that ask for long answers and do not read them keep nobody from being answered."""
    body = bytes(32) * 30_000
    asked = head(len(body)) + body
    with ThreadPoolExecutor(6) as pool:
        idle = [connect(quick) for _ in range(6)]
        for connection in idle:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        list(pool.map(lambda connection: connection.sendall(asked), idle))
        began = time.monotonic()
        assert ask(quick.url + INFER, bytes(3200), RAW).status == 200
        assert ask(quick.url + "/v2/health/ready").status == 200
        assert time.monotonic() - began < 5
        for connection in idle:
            connection.close()
