"""One chunk to its predictions, against servers that fail in every way."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ruo import ScoringError, score_csv

Scripted = Callable[[Callable[[int, bytes, dict[str, str]], Any]], Any]


def test_order_is_kept_when_answers_come_out_of_order(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any
) -> None:
    """The first chunk's answer may come last: predictions stand in row order all the same."""

    def slow_at_first(number: int, body: bytes, headers: dict[str, str]) -> Any:
        answer = right_answer(body, headers)
        answer.wait_s = 0.3 if number == 0 else 0
        return answer

    scores = score_csv(small_csv, scripted(slow_at_first).url, chunk_size=3, concurrency=4)

    np.testing.assert_array_equal(small_sums, scores.predictions)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_server_is_asked_again(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any, reply: Any, status: int
) -> None:
    """Only the refused chunk is sent again, and its record counts the tries."""
    server = scripted(lambda number, body, headers: reply(status) if number == 1 else right_answer(body, headers))

    scores = score_csv(small_csv, server.url, chunk_size=5, concurrency=1)

    np.testing.assert_array_equal(small_sums, scores.predictions)
    assert [1, 2] == scores.requests["attempts"].tolist()
    assert len(server.requests) == 3


def test_retry_after_is_honoured(small_csv: Path, scripted: Scripted, right_answer: Any, reply: Any) -> None:
    """The next try waits at least as long as the server asks for."""
    times: list[float] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        times.append(time.monotonic())
        return reply(503, headers={"Retry-After": "0.7"}) if number == 0 else right_answer(body, headers)

    score_csv(small_csv, scripted(script).url)

    assert times[1] - times[0] >= 0.7


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_bounds_the_tries(small_csv: Path, scripted: Scripted, reply: Any, retries: int) -> None:
    """A server that always refuses is asked 1 + retries times, and its sentence stands in the error."""
    server = scripted(lambda number, body, headers: reply(503, b'{"error": "queue full"}'))

    with pytest.raises(ScoringError, match="Rows 0 to 9 were not scored: .* answered 503: queue full") as caught:
        score_csv(small_csv, server.url, retries=retries)

    assert len(server.requests) == 1 + retries
    assert (caught.value.start, caught.value.stop, caught.value.status) == (0, 10, 503)


@pytest.mark.parametrize("status", [400, 401, 404, 405, 415, 422, 500, 501])
def test_a_refusal_for_good_is_not_repeated(small_csv: Path, scripted: Scripted, reply: Any, status: int) -> None:
    """An answer that will be the same next time is an error at once, with the server's words."""
    server = scripted(lambda number, body, headers: reply(status, b'{"error": "no, thanks"}'))

    with pytest.raises(ScoringError, match=f"answered {status}: no, thanks"):
        score_csv(small_csv, server.url)

    assert len(server.requests) == 1


def test_a_failure_in_mid_run_keeps_what_was_scored(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any, reply: Any
) -> None:
    """The error names the rows, and carries the predictions that came before it, NaN elsewhere."""
    server = scripted(lambda number, body, headers: reply(500, b"boom") if number == 2 else right_answer(body, headers))

    with pytest.raises(ScoringError, match="Rows 4 to 5 were not scored: .* answered 500: boom") as caught:
        score_csv(small_csv, server.url, chunk_size=2, concurrency=1)

    scores = caught.value.scores
    assert scores is not None
    np.testing.assert_array_equal(small_sums[:4], scores.predictions[:4])
    assert np.isnan(scores.predictions[4:]).all()


def test_failures_can_be_collected(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any, reply: Any
) -> None:
    """With errors="collect" the rest is scored, and the failures are listed with their rows."""
    server = scripted(lambda number, body, headers: reply(500, b"boom") if number == 2 else right_answer(body, headers))

    scores = score_csv(small_csv, server.url, chunk_size=2, concurrency=1, errors="collect")

    assert [(4, 6, 500)] == [(f.start, f.stop, f.status) for f in scores.failures.itertuples()]
    assert np.isnan(scores.predictions[4:6]).all()
    np.testing.assert_array_equal(np.delete(small_sums, [4, 5], 0), np.delete(scores.predictions, [4, 5], 0))
    assert "2 rows not scored" in repr(scores)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_bounds_the_requests_in_flight(
    small_csv: Path, scripted: Scripted, right_answer: Any, concurrency: int
) -> None:
    """Never more requests at once than asked for, and as many where there is work."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        answer = right_answer(body, headers)
        answer.wait_s = 0.05
        return answer

    server = scripted(script)
    score_csv(small_csv, server.url, chunk_size=1, concurrency=concurrency)

    assert server.most_at_once == concurrency


def test_a_token_is_sent_and_not_shown(small_csv: Path, scripted: Scripted, right_answer: Any) -> None:
    """The bearer token goes into the header, and into no repr and no error."""
    seen: list[str] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        seen.append(headers.get("Authorization", ""))
        return right_answer(body, headers)

    scores = score_csv(small_csv, scripted(script).url, token="s3cret")

    assert seen == ["Bearer s3cret"]
    assert "s3cret" not in repr(scores) + scores.requests.to_string()


def test_a_change_of_the_model_in_mid_run_is_an_error(small_csv: Path, scripted: Scripted, right_answer: Any) -> None:
    """Two versions of a model are never mixed in one result."""
    server = scripted(lambda number, body, headers: right_answer(body, headers, version="1" if number < 2 else "2"))

    with pytest.raises(
        ScoringError, match="Rows 4 to 5 were answered by version 2 of the model, earlier rows by version 1"
    ):
        score_csv(small_csv, server.url, chunk_size=2, concurrency=1)


def _json(text: str) -> dict[str, Any]:
    return {"body": text.encode(), "headers": {"Content-Type": "application/json"}}


GARBAGE = {
    "HTML": {"body": b"<html>Welcome</html>"},
    "nothing": {"body": b""},
    "half JSON": _json('{"outputs": [{"name": "y"'),
    "no outputs": _json('{"model_name": "model"}'),
    "empty outputs": _json('{"outputs": []}'),
    "a list": _json("[1, 2, 3]"),
    "too few rows": _json('{"outputs": [{"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [1, 2]}]}'),
    "too many rows": _json(
        '{"outputs": [{"name": "y", "datatype": "FP32", "shape": [11, 1], "data": ' + str([1] * 11) + "}]}"
    ),
    "a scalar": _json('{"outputs": [{"name": "y", "datatype": "FP32", "shape": [], "data": [1]}]}'),
    "text": _json('{"outputs": [{"name": "y", "datatype": "BYTES", "shape": [10, 1], "data": []}]}'),
    "wrong data": _json('{"outputs": [{"name": "y", "datatype": "FP32", "shape": [10, 1], "data": [1]}]}'),
    "a number too large": {"body": b"{}", "headers": {"Inference-Header-Content-Length": "99"}},
    "bytes missing": {
        "body": b'{"outputs": [{"name": "y", "datatype": "FP32", "shape": [10, 1], "parameters": {"binary_data_size": 40}}]}1234',
        "headers": {"Inference-Header-Content-Length": "110"},
    },
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_is_an_error_and_not_a_result(small_csv: Path, scripted: Scripted, reply: Any, name: str) -> None:
    """An answer that is not ten rows of predictions is refused with the row range and the address."""
    server = scripted(lambda number, body, headers: reply(**GARBAGE[name]))

    with pytest.raises(ScoringError, match="Rows 0 to 9 were not scored: http://127.0.0.1") as caught:
        score_csv(small_csv, server.url)

    assert "answered" in str(caught.value)
    assert len(server.requests) == 1


def test_an_answer_cut_short_is_asked_for_again(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any
) -> None:
    """A connection that breaks in the middle of an answer is tried again, and gives the right result."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        answer = right_answer(body, headers)
        answer.cut_after = 20 if number == 0 else None
        return answer

    scores = score_csv(small_csv, scripted(script).url)

    np.testing.assert_array_equal(small_sums, scores.predictions)
    assert [2] == scores.requests["attempts"].tolist()


@contextmanager
def _listener(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server at the level of the socket: what it does with a connection is the test's affair."""
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()
    kept: list[socket.socket] = []

    def serve() -> None:
        while not stop.is_set():
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
        stop.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for connection in kept:
            connection.close()
        thread.join()


def test_a_server_that_never_answers_is_given_up_in_time(small_csv: Path) -> None:
    """A server that accepts and says nothing gives an error within the time-out, not a hang."""
    began = time.monotonic()
    with _listener(lambda connection: None) as url, pytest.raises(ScoringError, match=r"gave no answer within 0\.3 s"):
        score_csv(small_csv, url, timeout=0.3, retries=1)

    assert time.monotonic() - began < 5


def test_a_server_that_hangs_up_is_told(small_csv: Path) -> None:
    """A connection that is closed without an answer is named, after the tries."""
    with (
        _listener(lambda connection: connection.close()) as url,
        pytest.raises(ScoringError, match=r"broke .*Tried 2 times"),
    ):
        score_csv(small_csv, url, retries=1)


def test_a_server_that_does_not_speak_http_is_told(small_csv: Path) -> None:
    """Something else behind the port is an error that names the address."""

    def speak(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"220 mail.example.org ESMTP\r\n")
        connection.close()

    with (
        _listener(speak) as url,
        pytest.raises(ScoringError, match=f"The connection to {url}/v2/repository/index broke"),
    ):
        score_csv(small_csv, url, retries=0)


def test_no_server_is_told_at_once(small_csv: Path) -> None:
    """Where nothing listens the error says so, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    with pytest.raises(ScoringError, match=r"Nothing answers at http://127.* \(connection refused\); start the server"):
        score_csv(small_csv, f"http://127.0.0.1:{port}", retries=0)


def test_a_server_that_is_not_ready_is_waited_for(
    small_csv: Path, small_sums: np.ndarray, scripted: Scripted, right_answer: Any, reply: Any
) -> None:
    """503 while the model is loaded is tried again until it is there."""
    began = time.monotonic()

    def script(number: int, body: bytes, headers: dict[str, str]) -> Any:
        return reply(503) if time.monotonic() - began < 0.5 else right_answer(body, headers)

    scores = score_csv(small_csv, scripted(script).url)

    np.testing.assert_array_equal(small_sums, scores.predictions)
