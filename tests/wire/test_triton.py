"""Triton's own encoder and decoder as the oracle: what they write we read, what we write they read."""

import numpy as np
import pytest

from ruo.wire import InferRequest, InferResponse, v2
from tests.wire.shared import body_of

triton = pytest.importorskip("tritonclient.http")


# the official client does not write FP16 as JSON
@pytest.mark.parametrize(
    ("datatype", "binary"),
    [(name, binary) for name in v2.DATATYPES for binary in (True, False) if binary or name != "FP16"],
)
def test_tritons_requests_are_read(datatype, binary):
    """What the official client writes, binary or JSON, is read to the same values."""
    array = np.array([[0, 1, 1], [1, 0, 0]], v2.DATATYPES[datatype])
    tensor = triton.InferInput("x", list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([tensor], request_id="7")
    asked = v2.decode_request({} if length is None else {v2.HEADER_LENGTH: str(length)}, body)
    np.testing.assert_array_equal(asked.inputs["x"], array)
    # with no outputs named, it asks for all of them as binary
    assert (asked.inputs["x"].dtype, asked.id, asked.binary) == (array.dtype, "7", True)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_reads_our_answers(binary):
    """The official client reads what we answer, several outputs of any rank."""
    outputs = {"a": np.array([[0.5], [0.25]], "f4"), "b": np.arange(8, dtype="i8").reshape(2, 2, 2)}
    encoded = v2.encode_response(InferResponse(outputs, "m", "2", "x"), InferRequest({}, binary=binary))
    length = encoded.headers.get(v2.HEADER_LENGTH)
    result = triton.InferenceServerClient.parse_response_body(body_of(encoded), header_length=length and int(length))
    for name, array in outputs.items():
        np.testing.assert_array_equal(result.as_numpy(name), array)
    assert result.get_response()["id"] == "x"
