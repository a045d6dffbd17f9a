"""Random text as an address and random bytes as an answer: either the right rows or a `RuoError`, and never a hang."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ruo import RuoError, score_csv
from tests.client.conftest import Scripted, always
from tests.conftest import METADATA, Reply, Script
from tests.wire.shared import json_values

pytestmark = pytest.mark.slow

ROWS = pl.DataFrame({"a": [0, 2], "b": [0.5, 1.5], "c": [1, 1]})
FUZZ = settings(max_examples=60, deadline=5_000, suppress_health_check=list(HealthCheck))

PARTS = [*"/:@[]9%?", "http", "https", "://", "::1", "127.0.0.1", "models", "v1", "v2", "versions"]
PIECES = st.lists(st.sampled_from(PARTS) | st.text(max_size=3))
ADDRESSES = st.text() | PIECES.map(lambda pieces: "http://" + "".join(pieces))


def changed(message: dict[str, Any]) -> st.SearchStrategy[Any]:
    """A message in which some values are replaced, those of its first tensors too."""
    values = {key: st.just(value) | json_values for key, value in message.items()}
    for key in {"inputs", "outputs"} & set(message):
        tensor = {name: st.just(value) | json_values for name, value in message[key][0].items()}
        values[key] = values[key] | st.fixed_dictionaries(tensor).map(lambda tensor: [tensor])
    return json_values | st.fixed_dictionaries(values)


@given(url=ADDRESSES)
@FUZZ
def test_any_text_as_an_address(url: str) -> None:
    """An address that is none, or where nothing answers, is a `RuoError`."""
    with pytest.raises(RuoError):
        score_csv(ROWS, url, retries=0, timeout=0.5)


HEADS = [b"", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 503 \r\nRetry-After: "]
HEADS += [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: "]


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=200), wire=st.sampled_from(["v2", "v1", "paper"]))
@FUZZ
def test_any_bytes_as_an_answer(serving: Callable[..., Any], head: bytes, rest: bytes, wire: str) -> None:
    """Whatever comes over the socket, the end is a `RuoError`."""
    server = serving(head + rest)
    with pytest.raises(RuoError):
        score_csv(ROWS, server.url, wire=wire, retries=0, timeout=0.5)
    server.close()


@given(message=changed(METADATA))
@example(message=METADATA)
@FUZZ
def test_any_json_as_metadata(scripted: Scripted, answers: Script, message: Any) -> None:
    """Metadata that are wrong somewhere end in a `RuoError` or, where it does not matter, in the right rows."""
    server = scripted(answers)
    pages = ["/v2/models/model", "/v2/models/model/versions/1", "/v1/models/model"]
    server.pages |= dict.fromkeys(pages, json.dumps(message).encode())
    with suppress(RuoError) if message != METADATA else nullcontext():
        assert score_csv(ROWS, server.url, retries=0).predictions.tolist() == [[1.5], [4.5]]
    server.close()


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 4.5]}
RIGHT = {"model_name": "model", "model_version": "1", "id": "rows 0-1", "outputs": [OUTPUT]}


@given(changed(RIGHT) | st.fixed_dictionaries({"predictions": json_values}), st.sampled_from(["v2", "v1", "paper"]))
@example(RIGHT, "v2")
@FUZZ
def test_any_json_as_predictions(scripted: Scripted, message: Any, wire: str) -> None:
    """Predictions that are wrong somewhere end in a `RuoError`, or they are two finite numbers."""
    body = json.dumps(message).encode()
    server = scripted(always(Reply(200, body, {"Content-Type": "application/json"})))
    with nullcontext() if (message, wire) == (RIGHT, "v2") else suppress(RuoError):
        assert np.isfinite(score_csv(ROWS, server.url, wire=wire, retries=0).predictions).all()
    server.close()
