"""What a server or a network can do to a request, each with the sentence in which it must end."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ScoringError, iter_scores, score_csv
from tests.conftest import METADATA, Reply, row_sums
from tests.proxy import UNAVAILABLE, Fault, Proxy

JSON = {"Content-Type": "application/json"}


def output(**changes: Any) -> Reply:
    """An answer in JSON that is right except for the changes."""
    tensor = {"name": "y", "datatype": "FP32", "shape": [10, 1], "data": [1.0] * 10, **changes}
    return answer({"model_name": "model", "model_version": "1", "outputs": [tensor]})


def answer(message: Any) -> Reply:
    return Reply(body=json.dumps(message).encode(), headers=JSON)


def binary(head: str, data: bytes, length: int | str | None = None) -> Reply:
    stated = len(head) if length is None else length
    return Reply(body=head.encode() + data, headers={"Inference-Header-Content-Length": str(stated)})


HEAD = '{"outputs": [{"name": "y", "datatype": "FP32", "shape": [10, 1], "parameters": {"binary_data_size": 40}}]}'

# what is answered, and what must stand in the error
ANSWERS = {
    "HTML": (Reply(body=b"<html>Welcome</html>", headers={"Content-Type": "text/html"}), "not JSON"),
    "nothing": (Reply(), "not JSON"),
    "half JSON": (Reply(body=b'{"outputs": [{"name": "y"', headers=JSON), "not JSON"),
    "bytes that are no text": (Reply(body=b"\xff\xfe\x00", headers=JSON), "not JSON"),
    "a list": (answer([1, 2, 3]), "JSON object"),
    "null": (answer(None), "JSON object"),
    "no outputs": (answer({"model_name": "model"}), '"outputs"'),
    "outputs that are text": (answer({"outputs": "y"}), '"outputs"'),
    "empty outputs": (answer({"outputs": []}), '"outputs"'),
    "an output that is a number": (answer({"outputs": [1]}), "object"),
    "an output without a name": (
        answer({"outputs": [{"datatype": "FP32", "shape": [10, 1], "data": [1] * 10}]}),
        "name",
    ),
    "no shape": (output(shape=None), "shape"),
    "a shape of text": (output(shape="ten"), "shape"),
    "a shape below zero": (output(shape=[-10, 1]), "shape"),
    "a shape that is astronomical": (output(shape=[10, 10**18]), r"at most 32 dimensions and 2\*\*59 values"),
    "no datatype": (output(datatype=None), "datatype"),
    "another datatype": (output(datatype="FP31"), "datatype"),
    "text for numbers": (output(datatype="BYTES", data=["a"] * 10), "the predictions are text"),
    "numbers as text": (output(data=["1"] * 10), r'is "1", which is not a number'),
    "no data": (output(data=None), "data"),
    "too little data": (output(data=[1.0]), "takes 10 values, data has 1"),
    "too much data": (output(data=[1.0] * 11), "takes 10 values, data has 11"),
    "too few rows": (output(shape=[2, 1], data=[1, 2]), "2 predictions for 10 rows"),
    "too many rows": (output(shape=[11, 1], data=[1] * 11), "11 predictions for 10 rows"),
    "a single number": (output(shape=[], data=[1]), "single number"),
    "no predictions": (output(shape=[0, 1], data=[]), "0 predictions for 10 rows"),
    "null for a number": (output(data=[None] + [1.0] * 9), r"row 0 has the prediction nan"),
    "NaN for rows that are numbers": (
        binary(HEAD, np.full(10, np.nan, "<f4").tobytes()),
        "row 0 has the prediction nan, though its features are numbers",
    ),
    "Infinity in one row": (
        binary(HEAD, np.where(np.arange(10) == 7, np.inf, 1).astype("<f4").tobytes()),
        "row 7 has the prediction inf",
    ),
    "whole numbers that float32 cannot hold": (output(datatype="INT64", data=[2**40 + 1] * 10), r"2\*\*24"),
    "the answer to another request": (
        answer(
            {"id": "rows 90-99", "outputs": [{"name": "y", "datatype": "FP32", "shape": [10, 1], "data": [1] * 10}]}
        ),
        "another request, 'rows 90-99'",
    ),
    "a head longer than the message": (binary(HEAD, b"", 9999), "Inference-Header-Content-Length"),
    "a head of minus one": (binary(HEAD, b"", -1), "Inference-Header-Content-Length"),
    "a head of some length": (binary(HEAD, b"", "long"), "Inference-Header-Content-Length"),
    "bytes missing": (binary(HEAD, b"1234"), "byte"),
    "bytes left over": (binary(HEAD, bytes(44)), "byte"),
    "a size that does not fit the shape": (binary(HEAD.replace("40", "80"), bytes(80)), "byte"),
    "a size that is text": (binary(HEAD.replace("40", '"40"'), bytes(40)), "binary_data_size"),
    "a redirect": (Reply(302, headers={"Location": "http://elsewhere/"}), "a redirect to http://elsewhere/"),
    "no content": (Reply(204), "204"),
    "400 in words": (Reply(400, b'{"error": "x has the wrong shape"}', JSON), "answered 400: x has the wrong shape"),
    "escapes for a terminal": (
        Reply(400, b'{"error": "\\u001b[31mred\\u0007 \\n \\u202e"}'),
        r"400: \\x1b\[31mred\\x07 \\u202e",
    ),
    "escapes in an output's name": (output(name="\x1b[2J", shape=None), r'Tensor "\\x1b\[2J" needs a "shape"'),
    "401": (Reply(401, b'{"error": "token, please"}', JSON), "answered 401: token, please"),
    "403 of a proxy": (Reply(403, b"<h1>Forbidden</h1>"), "answered 403: <h1>Forbidden</h1>"),
    "404": (Reply(404), "answered 404"),
    "405": (Reply(405), "answered 405"),
    "415": (Reply(415), "answered 415"),
    "422 as FastAPI says it": (Reply(422, b'{"detail": [{"loc": ["body"]}]}', JSON), "answered 422: "),
    "500": (Reply(500, b"Internal Server Error"), "answered 500: Internal Server Error"),
    "500 with an endless reason": (Reply(500, b"x" * 100_000), "answered 500: x{300}$"),
    "501": (Reply(501), "answered 501"),
    "429 for ever": (Reply(429), r"answered 429.*Tried 2 times"),
    "502 for ever": (Reply(502), r"answered 502.*Tried 2 times"),
    "503 for ever": (Reply(503, b'{"error": "queue full"}'), r"answered 503: queue full \(Tried 2 times"),
    "504 for ever": (Reply(504), r"answered 504.*Tried 2 times"),
    "413 down to a single row": (Reply(413), "Rows 0 to 9 were not scored: a single one is too large.*413"),
    "an answer that is always cut": (Reply(body=b"x" * 100, cut_after=20), r"broke.*Tried 2 times"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_cannot_be_is_an_error(small_csv: Path, scripted: Callable[..., Any], name: str) -> None:
    """A wrong answer ends in one sentence that names the rows and what is wrong, and never in predictions."""
    reply, sentence = ANSWERS[name]
    server = scripted(lambda number, body, headers: reply)

    with pytest.raises(ScoringError, match=sentence) as caught:
        score_csv(small_csv, server.url, retries=1)

    assert str(caught.value).startswith("Rows 0 to 9 were not scored: ")
    assert str(caught.value).isprintable()
    assert caught.value.scores is not None
    assert not np.isfinite(caught.value.scores.predictions).any()


def tensors(**changes: Any) -> bytes:
    return json.dumps({**METADATA, **changes}).encode()


METADATA_FAULTS = {
    "HTML": (b"<html>", "did not answer JSON"),
    "a list": (b"[]", "does not follow the V2 protocol"),
    "no inputs": (tensors(inputs=[]), "does not follow the V2 protocol"),
    "an input without a shape": (tensors(inputs=[{"name": "x", "datatype": "FP32"}]), "does not follow"),
    "a shape of text": (tensors(inputs=[{"name": "x", "datatype": "FP32", "shape": "ten"}]), "does not follow"),
    "two inputs": (
        tensors(inputs=[{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in "ab"]),
        r"takes 2 inputs \(a, b\)",
    ),
    "escapes for a terminal": (
        tensors(inputs=[{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in ("a", "\x1b[2J")]),
        r"takes 2 inputs \(a, \\x1b\[2J\)",
    ),
    "another number of features": (
        tensors(inputs=[{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]),
        "has 3 feature columns, model 'model' takes 4",
    ),
}


@pytest.mark.parametrize("name", METADATA_FAULTS)
def test_metadata_that_cannot_be_used_is_an_error(small_csv: Path, scripted: Callable[..., Any], name: str) -> None:
    """The model's metadata are checked before a row is sent."""
    metadata, sentence = METADATA_FAULTS[name]
    server = scripted(lambda number, body, headers: row_sums(body, headers))
    server.pages["/v2/models/model"] = metadata
    server.pages["/v2/models/model/versions/1"] = metadata

    with pytest.raises(Exception, match=sentence) as caught:
        score_csv(small_csv, server.url, retries=1)

    assert type(caught.value).__name__ in ("ScoringError", "TableError")
    assert server.requests == []


@pytest.mark.parametrize("index", [b"{}", b"[]", b'[{"nom": "a"}]', b'[{"name": "a"}, {"name": "b"}]', b"3"])
def test_a_list_of_models_that_cannot_be_used_is_an_error(
    small_csv: Path, scripted: Callable[..., Any], index: bytes
) -> None:
    """Where the address names no model, the server must have exactly one."""
    server = scripted(lambda number, body, headers: row_sums(body, headers))
    server.pages["/v2/repository/index"] = index

    with pytest.raises(ScoringError, match="list of models does not follow|name one: http://host/v2/models/NAME"):
        score_csv(small_csv, server.url)


@contextmanager
def listener(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on a bare socket, where the test decides what happens to a connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            kept.append(connection)
            speak(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in kept:
            connection.close()
        thread.join()


def say(text: bytes, reset: bool = False) -> Callable[[socket.socket], None]:
    """Read the beginning of the request, send something, and close."""

    def speak(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(text)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return speak


SOCKETS = {
    "silence": (lambda connection: None, r"gave no answer within 0\.3 s"),
    "an end at once": (lambda connection: connection.close(), r"broke .*Tried 2 times"),
    "another protocol": (say(b"220 mail.example.org ESMTP\r\n"), "broke"),
    "half a status line": (say(b"HTTP/1.1 20"), "broke"),
    "half the headers": (say(b"HTTP/1.1 200 OK\r\nContent-"), "broke"),
    "a length that is text": (say(b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n"), "broke"),
    "fewer bytes than announced": (say(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}"), "broke"),
    "a broken chunked body": (say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"), "broke"),
    "a reset": (say(b"HTTP/1.1 200 OK\r\n", reset=True), "broke"),
    "bytes": (say(bytes(range(256)) * 10), "broke"),
}


@pytest.mark.parametrize("name", SOCKETS)
def test_a_server_that_does_not_speak_http_is_an_error(small_csv: Path, name: str) -> None:
    """A server that breaks off, is silent or does not speak HTTP ends in one sentence, in time."""
    speak, sentence = SOCKETS[name]
    began = time.monotonic()

    with listener(speak) as url, pytest.raises(ScoringError, match=sentence) as caught:
        score_csv(small_csv, url, timeout=0.3, retries=1)

    assert url in str(caught.value)
    assert time.monotonic() - began < 5


def test_a_drip_is_cut_off_in_time(small_csv: Path) -> None:
    """A server that sends one byte at a time is given up at the time-out."""

    def drip(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")

        def go_on() -> None:
            for _ in range(100):
                time.sleep(0.05)
                try:
                    connection.send(b"x")
                except OSError:
                    return

        threading.Thread(target=go_on, daemon=True).start()

    with listener(drip) as url, pytest.raises(ScoringError, match=r"gave no answer within 0\.3 s"):
        score_csv(small_csv, url, timeout=0.3, retries=0)


NETWORKS = {
    "resets in the request": lambda number: Fault(reset_request_after=300) if number % 3 == 1 else Fault(),
    "resets in the answer": lambda number: Fault(reset_answer_after=100) if number % 3 == 1 else Fault(),
    "resets before the answer": lambda number: Fault(reset_answer_after=0) if number % 3 == 1 else Fault(),
    "delays": lambda number: Fault(delay_s=0.02 * (number % 5)),
    "every third is 503": lambda number: UNAVAILABLE if number % 3 == 1 else Fault(),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_bad_network_loses_nothing(demo: Any, server: Any, expected: np.ndarray, name: str, streamed: bool) -> None:
    """Whatever the network does to some requests, every row is scored, in order, as without a network."""
    with Proxy(server.url, NETWORKS[name]) as proxy:
        if streamed:
            blocks = list(iter_scores(demo.testset, proxy.url, chunk_size=100))
            predictions = np.concatenate([block.predictions for block in blocks])
            assert [block.start for block in blocks] == list(range(0, 2_500, 100))
        else:
            scores = score_csv(demo.testset, proxy.url, chunk_size=100)
            predictions = scores.predictions
            assert (scores.requests["attempts"] > 1).any() == (name != "delays")

    np.testing.assert_allclose(predictions, expected, atol=1e-5)
