"""Who takes a connection, on a real server with four workers."""

import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

INFER = "/v2/models/model/infer"
RAW = {"Inference-Header-Content-Length": "0"}


@pytest.fixture(scope="module")
def slow(serve, models):
    """A real server of a slow model with four workers."""
    with serve(models["slow"], workers=4) as server:
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
