"""Who is let in, how much, and for how long: on real sockets, where it matters."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from werkzeug.exceptions import ServiceUnavailable

from server.limits import Gate

INFER = "/v2/models/model/infer"
RAW = {"Inference-Header-Content-Length": "0"}
ROW = bytes(32)  # of the model "mlp", and of the model "slow"
LIMITS = {"MAX_REQUEST_MB": 1, "BODY_TIMEOUT": 1, "MAX_WAITING": 2, "REQUEST_TIMEOUT": 20}


@pytest.fixture(scope="module")
def narrow(serve, models):
    """A real server with one worker, a slow model and narrow limits."""
    with serve(models["slow"], workers=1, **LIMITS) as server:
        yield server


@pytest.fixture
def connect(narrow):
    """Open a connection to that server; it is closed at the end of the test."""
    opened = []

    def open_one():
        address = narrow.url.removeprefix("http://").split(":")
        opened.append(socket.create_connection((address[0], int(address[1])), timeout=30))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def head(length, extra=""):
    lines = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{extra}"
    return (lines + "Inference-Header-Content-Length: 0\r\nConnection: close\r\n\r\n").encode()


CHUNKED = head(0).replace(b"\r\nContent-Length: 0", b"\r\nTransfer-Encoding: chunked")


def answer_on(connection):
    """The status and JSON of the answer that comes on a connection."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    top, _, body = received.partition(b"\r\n\r\n")
    status = int(top.split()[1])
    return status, body if status == 200 else json.loads(body)


def test_a_gate_has_one_place_more_than_may_wait():
    """One request computes and two wait; the fourth is refused, until a place is free again."""
    gate = Gate(2)
    with gate.place(), gate.place():
        with gate.place(), pytest.raises(ServiceUnavailable) as refusal, gate.place():
            pass
        with gate.place():
            pass
    assert refusal.value.code == 503


def test_a_gate_counts_bytes():
    """Large bodies are refused before they fill the memory, but never one that comes alone."""
    gate = Gate(9, limit=100)
    with gate.place(500), pytest.raises(ServiceUnavailable), gate.place(1):
        pass
    with gate.place(60), gate.place(40), pytest.raises(ServiceUnavailable), gate.place(1):
        pass
    with gate.place(100):
        pass


def test_a_full_worker_refuses_at_once_and_its_probes_answer(narrow, ask):
    """With all places taken the next request gets 503 and Retry-After at once; probes and metrics go on answering."""
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, narrow.url + INFER, ROW * 16000, RAW) for _ in range(10)]
        time.sleep(0.3)
        probes = [ask(narrow.url + path) for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/")]
        answers = [each.result() for each in asked]
    assert all(probe.status == 200 and probe.seconds < 1 for probe in probes)
    statuses = [answer.status for answer in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 3
    for answer in answers:
        if answer.status == 503:
            assert answer.headers["Retry-After"] == "1"
            assert "busy" in answer.json()["error"]
            assert answer.seconds < 1


def test_a_body_that_is_too_large_is_413_before_it_is_read(narrow, ask):
    """A body over the limit is refused by its length, with a JSON sentence that the client gets to see."""
    answer = ask(narrow.url + INFER, bytes(3 * 2**20), RAW)
    assert answer.status == 413
    assert "larger than 1 MB" in answer.json()["error"]
    assert ask(narrow.url + "/v2/models/model").json()["parameters"]["max_request_bytes"] == 2**20


def test_a_chunked_body_has_the_same_limit(connect):
    """A body without a length is counted while it comes."""
    connection = connect()
    connection.sendall(CHUNKED)
    piece = b"%x\r\n%b\r\n" % (2**18, bytes(2**18))
    for _ in range(5):
        connection.sendall(piece)
    assert answer_on(connection)[0] == 413


def test_a_chunked_body_is_scored(connect):
    """A body that comes in chunks is put together."""
    connection = connect()
    connection.sendall(CHUNKED)
    for byte in range(0, 32, 8):
        connection.sendall(b"8\r\n" + ROW[byte : byte + 8] + b"\r\n")
    connection.sendall(b"0\r\n\r\n")
    status, message = answer_on(connection)
    assert status == 200, message


def test_a_body_in_small_pieces_is_scored(connect):
    """A body that comes byte by byte, its first bytes together with the headers, is received whole."""
    connection = connect()
    body = ROW * 3
    connection.sendall(head(len(body)) + body[:5])
    for byte in body[5:]:
        time.sleep(0.002)
        connection.sendall(bytes([byte]))
    assert answer_on(connection)[0] == 200


def test_two_requests_on_one_connection(connect):
    """A request that is sent right behind another, before the answer, is not taken for a part of its body."""
    connection = connect()
    one = head(len(ROW)).replace(b"Connection: close\r\n", b"") + ROW
    connection.sendall(one + one + head(len(ROW)) + ROW)
    received = b""
    while piece := connection.recv(65536):
        received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_does_not_come_is_408(connect, chunked):
    """A client that promises a body and stops sending is given up after a while, and told so."""
    connection = connect()
    connection.sendall(CHUNKED + b"3e8\r\n" + bytes(10) if chunked else head(1000) + bytes(10))
    began = time.monotonic()
    status, message = answer_on(connection)
    assert (status, "in time" in message["error"]) == (408, True)
    assert time.monotonic() - began < 4


def test_a_client_that_goes_away_disturbs_nobody(connect, narrow, ask):
    """A connection that ends in the middle of a body frees its place."""
    for _ in range(8):
        connection = connect()
        connection.sendall(head(1000) + bytes(10))
        connection.close()
    time.sleep(0.2)
    assert ask(narrow.url + INFER, ROW, RAW).status == 200


def test_silent_and_slow_clients_hold_no_threads(connect, narrow, ask):
    """A hundred clients that send nothing, or half a header, keep neither probes nor requests from being answered."""
    for number in range(100):
        connection = connect()
        if number % 10 == 0:
            connection.sendall(b"POST /v2/mod")
    assert ask(narrow.url + "/v2/health/live").seconds < 1
    answer = ask(narrow.url + INFER, ROW, RAW)
    assert (answer.status, answer.seconds < 2) == (200, True)


@pytest.mark.soak
def test_half_a_header_is_given_up(connect):
    """A client that does not finish its headers is cut off after some seconds."""
    connection = connect()
    connection.sendall(b"GET /v2 HTTP/1.1\r\nHost:")
    began = time.monotonic()
    assert connection.recv(100) == b""
    assert 5 < time.monotonic() - began < 15


def test_expect_continue(connect):
    """A client that asks before it sends its body is told to go on."""
    connection = connect()
    connection.sendall(head(len(ROW), "Expect: 100-continue\r\n"))
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    connection.sendall(ROW)
    assert answer_on(connection)[0] == 200


def test_a_request_that_waits_too_long_is_refused(make_app):
    """With REQUEST_TIMEOUT a request that does not get its turn in time is 503, while the one before it is done."""
    app = make_app("slow", REQUEST_TIMEOUT=0.1)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(app.application.test_client().post, INFER, data=ROW * 4000, headers=RAW) for _ in range(4)]
        answers = [each.result() for each in asked]
    statuses = sorted(answer.status_code for answer in answers)
    assert (statuses[0], statuses[-1]) == (200, 503)
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["Retry-After"] == "1"
    assert "in time" in refused.json["error"]
