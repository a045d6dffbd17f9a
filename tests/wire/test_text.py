"""Tensors of text: BYTES of V2, strings of V1, and several inputs with them."""

import json

import numpy as np
import pytest

from ruo.wire import ONLY, InferRequest, WireError, v1, v2
from tests.wire.shared import body_of

TEXT = np.array([["TCP", "ü"], ["", "a,b"]], object)
BACK = np.array([[b"TCP", "ü".encode()], [b"", b"a,b"]], object)
EMPTY, NONE = np.array([[b"", b""]], object), np.empty((0, 2), object)
NUMBERS = np.array([[0.1, 2], [3, 4]], np.float32)


@pytest.mark.parametrize(
    ("array", "back"), [(TEXT, BACK), (BACK, BACK), (TEXT.astype(str), BACK), (EMPTY, EMPTY), (NONE, NONE)]
)
@pytest.mark.parametrize("encode", [v2.encode_request, v2.encode_json_request])
def test_text_and_numbers_go_both_ways_on_v2(encode, array, back):
    """Text, also an empty one, arrives as bytes in its shape, binary or JSON, with the inputs before and behind it unharmed."""
    encoded = encode(InferRequest({"a": NUMBERS, "s": array, "b": NUMBERS}))
    inputs = v2.decode_request(encoded.headers, body_of(encoded)).inputs
    assert (inputs["s"].shape, inputs["s"].tolist()) == (array.shape, back.tolist())
    np.testing.assert_array_equal([inputs["a"], inputs["b"]], [NUMBERS, NUMBERS])


def test_the_protocols_example_of_bytes():
    """Each element stands behind its length, in four little-endian bytes, as the specification has it."""
    encoded = v2.encode_request(InferRequest({"s": np.array([b"a\xff", b""], object)}))
    assert bytes(encoded.buffers[1]) == b"\x02\0\0\0a\xff\0\0\0\0"
    assert json.loads(bytes(encoded.buffers[0]))["inputs"][0]["parameters"] == {"binary_data_size": 10}
    assert v2.decode_request(encoded.headers, body_of(encoded)).inputs["s"].tolist() == [b"a\xff", b""]


@pytest.mark.parametrize("columnar", [False, True])
def test_several_inputs_go_both_ways_on_v1(columnar):
    """Rows name their tensors; the columnar form holds each tensor whole; one tensor goes without its name."""
    inputs = {"a": NUMBERS, "s": TEXT, "n": np.array([7, 8])}
    back = v1.decode_request({}, body_of(v1.encode_request(InferRequest(inputs, columnar=columnar)))).inputs
    assert back["s"].tolist() == BACK.tolist()
    np.testing.assert_array_equal(back["a"].astype(np.float32), NUMBERS)
    assert back["n"].tolist() == [7, 8]
    one = json.loads(body_of(v1.encode_request(InferRequest({"s": TEXT}, columnar=columnar))))
    assert one == {"inputs" if columnar else "instances": TEXT.tolist()}
    assert v1.decode_request({}, json.dumps(one).encode()).inputs[ONLY].tolist() == BACK.tolist()


@pytest.mark.parametrize("encode", [v1.encode_request, v2.encode_json_request])
def test_what_json_cannot_hold_is_named_by_tensor_row_and_column(encode):
    """NaN in the second input, an image, is named with its input; bytes that are no text, and no text at all, are refused."""
    image = np.zeros((3, 2, 2))
    image[2, 1, 0] = np.nan
    with pytest.raises(WireError, match="nan cannot be written") as refusal:
        encode(InferRequest({"a": np.zeros((3, 1), int), "b": image}))
    assert (refusal.value.status, refusal.value.cell) == (400, ("b", 2, 2))
    with pytest.raises(WireError, match="not UTF-8"):
        encode(InferRequest({"s": np.array([[b"a", b"b"], [b"\xff", b"c"]], object)}))
    with pytest.raises(WireError, match="holds None, which is not text"):
        encode(InferRequest({"s": np.array(["a", None, 1], object)}))


@pytest.mark.parametrize("tail", [b"", bytes(3), b"\1\0\0\0", b"\1\0\0\0ab", b"\xff\xff\xff\xffa", bytes(8)])
def test_lengths_that_do_not_fit_are_refused(tail):
    """A length that leads beyond the tensor, or leaves bytes over, is a WireError and takes no memory."""
    tensor = {"name": "s", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tail)}}
    text = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(WireError, match="not 1 elements"):
        v2.decode_request({v2.HEADER_LENGTH: str(len(text))}, text + tail)
