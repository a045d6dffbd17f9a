"""What the table of wires says of each is so."""

from __future__ import annotations

import numpy as np
import pytest

from ruo.wire import ONLY, WIRES, InferRequest, InferResponse


@pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))
def test_an_answer_names_its_request_where_the_table_says_so(wire) -> None:
    """The client shares a connection among requests on these wires only."""
    request = InferRequest({"x": np.ones((2, 3), np.float32)}, id="rows 0-1")
    sent = wire.encode_request(request)
    asked = wire.decode_request(sent.headers, b"".join(bytes(buffer) for buffer in sent.buffers))
    encoded = wire.encode_response(InferResponse({"y": np.ones((2, 1), np.float32)}, id=asked.id), asked)
    answer = wire.decode_response(encoded.headers, b"".join(bytes(buffer) for buffer in encoded.buffers))

    assert answer.id == ("rows 0-1" if wire.has_request_id else None)


@pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))
def test_paths_have_what_the_table_says(wire) -> None:
    """A wire that has models names one in its path; one with metadata has versions."""
    assert ("{model}" in wire.path) == wire.has_models
    assert not wire.has_metadata or "{version}" in wire.versioned_path


@pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))
def test_binary_wires_send_the_arrays_own_bytes(wire) -> None:
    """The others send text, and one of these is the way out where a server takes no bytes."""
    features = np.ones((2, 3), np.float32)
    name = "x" if wire.has_metadata else ONLY
    body = b"".join(bytes(buffer) for buffer in wire.encode_request(InferRequest({name: features})).buffers)

    assert (features.tobytes() in body) == wire.is_binary
    assert wire.is_binary == (wire.fallback is not None)
    assert wire.fallback is None or not WIRES[wire.fallback].is_binary
