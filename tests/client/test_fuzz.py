"""Random text as an address and random bytes as an answer: either the right rows or a `RuoError`, and never a hang."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruo import RuoError, score_csv
from tests.conftest import METADATA, Reply, row_sums

pytestmark = pytest.mark.slow

ROWS = pl.DataFrame({"a": [0, 2], "b": [0.5, 1.5], "c": [1, 1]})
FUZZ = settings(max_examples=60, deadline=5_000, derandomize=True, suppress_health_check=list(HealthCheck))

PARTS = [
    "http",
    "https",
    "://",
    "/",
    ":",
    "@",
    "[",
    "]",
    "::1",
    "127.0.0.1",
    "9",
    "models",
    "v1",
    "v2",
    "versions",
    "%",
    "?",
]
ADDRESSES = st.text() | st.lists(st.sampled_from(PARTS) | st.text(max_size=3)).map(
    lambda parts: "http://" + "".join(parts)
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


def changed(message: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A message in which some values are replaced."""
    values = {key: st.just(value) | JSON for key, value in message.items()}
    tensors = [key for key in ("inputs", "outputs") if key in message]
    for key in tensors:
        values[key] = values[key] | changed_tensor(message[key][0]).map(lambda tensor: [tensor])
    return JSON | st.fixed_dictionaries(values)


def changed_tensor(tensor: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A tensor in which some values are replaced."""
    return st.fixed_dictionaries({key: st.just(value) | JSON for key, value in tensor.items()})


@given(url=ADDRESSES)
@FUZZ
def test_any_text_as_an_address(url: str) -> None:
    """An address that is none, or where nothing answers, is a `RuoError`."""
    with pytest.raises(RuoError):
        score_csv(ROWS, url, retries=0, timeout=0.5)


@pytest.fixture(scope="module")
def babbler() -> Iterator[Callable[[bytes], str]]:
    """A server on a socket that answers every request with the same bytes, and closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    said = b""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.recv(1 << 16)
                    connection.sendall(said)

    def says(answer: bytes) -> str:
        nonlocal said
        said = answer
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield says
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


HEADS = [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 503 \r\nRetry-After: "]
HEADS += [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: "]


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=200), wire=st.sampled_from(["v2", "v1", "paper"]))
@FUZZ
def test_any_bytes_as_an_answer(babbler: Callable[[bytes], str], head: bytes, rest: bytes, wire: str) -> None:
    """Whatever comes over the socket, the end is a `RuoError`."""
    with pytest.raises(RuoError):
        score_csv(ROWS, babbler(head + rest), wire=wire, retries=0, timeout=0.5)


@given(message=changed(METADATA))
@FUZZ
def test_any_json_as_metadata(scripted: Callable[..., Any], message: Any) -> None:
    """Metadata that are wrong somewhere end in a `RuoError` or, where it does not matter, in the right rows."""
    server = scripted(lambda number, body, headers: row_sums(body, headers))
    page = json.dumps(message).encode()
    server.pages |= {"/v2/models/model": page, "/v2/models/model/versions/1": page, "/v1/models/model": page}
    with suppress(RuoError):
        assert score_csv(ROWS, server.url, retries=0).predictions.tolist() == [[1.5], [4.5]]


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 4.5]}
ANSWERS = changed({"model_name": "model", "model_version": "1", "id": "rows 0-1", "outputs": [OUTPUT]})


@given(message=ANSWERS | st.fixed_dictionaries({"predictions": JSON}), wire=st.sampled_from(["v2", "v1", "paper"]))
@FUZZ
def test_any_json_as_predictions(scripted: Callable[..., Any], message: Any, wire: str) -> None:
    """Predictions that are wrong somewhere end in a `RuoError`, or they are two finite numbers."""
    body = json.dumps(message).encode()
    server = scripted(lambda number, request, headers: Reply(200, body, {"Content-Type": "application/json"}))
    with suppress(RuoError):
        assert np.isfinite(score_csv(ROWS, server.url, wire=wire, retries=0).predictions).all()
    server.close()
