"""The V1 protocol of TensorFlow Serving and KServe."""

import json
import re

import numpy as np
import pytest

from ruo.wire import ONLY, InferRequest, InferResponse, WireError, v1

ROWS = [[1.5, 2.0], [3.0, 4.0]]


def decode(message):
    return v1.decode_request({}, message if isinstance(message, bytes) else json.dumps(message).encode())


@pytest.mark.parametrize(
    ("message", "inputs"),
    [
        ({"instances": ROWS}, {ONLY: ROWS}),
        ({"instances": ROWS, "signature_name": "serving_default"}, {ONLY: ROWS}),
        ({"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]}, {"a": [[1, 2], [4, 5]], "b": [3, 6]}),
        ({"inputs": ROWS}, {ONLY: ROWS}),
        ({"inputs": {"a": [[1]], "b": [[2]]}}, {"a": [[1]], "b": [[2]]}),
    ],
)
def test_rows_and_columns_are_tensors(message, inputs):
    """`instances` are rows, which may name inputs, and `inputs` a tensor, or tensors by name, answered in the same form."""
    asked = decode(message)
    assert {name: array.tolist() for name, array in asked.inputs.items()} == inputs
    assert asked.columnar == ("inputs" in message)


@pytest.mark.parametrize(
    ("columnar", "one", "two"),
    [
        (False, {"predictions": [[1.0]]}, {"predictions": [{"y": [1.0], "z": 2}]}),
        (True, {"outputs": [[1.0]]}, {"outputs": {"y": [[1.0]], "z": [2]}}),
    ],
)
def test_one_output_is_unnamed_and_two_are_named(columnar, one, two):
    """As TensorFlow Serving does: a single output is a list, several are objects a row, or lists by name; all are read."""
    outputs = {"y": np.array([[1.0]]), "z": np.array([2])}
    for message, names in ((one, "y"), (two, "yz")):
        made = InferResponse({name: outputs[name] for name in names})
        (body,) = v1.encode_response(made, InferRequest({}, columnar=columnar)).buffers
        assert json.loads(body) == message
        back = {name or "y": array.tolist() for name, array in v1.decode_response({}, body).outputs.items()}
        assert back == {name: outputs[name].tolist() for name in names}


def test_nan_is_answered_as_the_word():
    """A model that gives NaN is answered as TensorFlow Serving does, by the word, never by a silent null."""
    encoded = v1.encode_response(InferResponse({"y": np.array([[np.nan, -np.inf]])}), InferRequest({}))
    assert bytes(encoded.buffers[0]) == b'{"predictions":[[NaN,-Infinity]]}'
    assert np.isnan(v1.decode_response({}, bytes(encoded.buffers[0])).outputs[ONLY][0, 0])


def test_the_only_signature_may_be_named():
    """`signature_name` is passed on, since only the model knows its signatures; an empty one is the default."""
    assert [decode({"instances": ROWS, "signature_name": name}).signature for name in ("train", "")] == ["train", ""]


def test_bytes_are_in_base64():
    """An object with the only key "b64" is bytes, wherever it stands, beside numbers and text."""
    binary = {"b64": "Af8="}
    request = decode({"instances": [{"s": binary, "n": [1, 2]}, {"s": "ü", "n": [3, 4]}]})
    assert request.inputs["s"].tolist() == [b"\x01\xff", "ü".encode()]
    assert request.inputs["n"].tolist() == [[1, 2], [3, 4]]
    assert decode({"inputs": {"s": [[binary]]}}).inputs["s"].tolist() == [[b"\x01\xff"]]
    assert decode({"instances": [binary]}).inputs[ONLY].tolist() == [b"\x01\xff"]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ([], '"instances" or "inputs"'),
        ({}, '"instances" or "inputs"'),
        ({"instances": ROWS, "inputs": ROWS}, '"instances" or "inputs"'),
        ({"instances": 5}, "must be a list"),
        ({"instances": {"a": 1}}, "must be a list"),
        ({"instances": "[[1]]"}, "must be a list"),
        ({"instances": [[1, 2], [3]]}, "element 1 has 1 values"),
        ({"instances": [[1, 2], 3]}, "element 1 has a single value"),
        ({"instances": [[1, "a"]]}, 'instances[0][1] is "a"'),
        ({"instances": [{"a": 1}, {"b": 1}]}, "Row 1 names"),
        ({"instances": [{"a": 1}, [1]]}, "not rectangular"),
        ({"inputs": {}}, "names no tensor"),
        ({"inputs": {"a": {"b": 1}}}, "not a number"),
        ({"instances": ROWS, "signature_name": 1}, "signature"),
        ({"instances": [{"b64": "?"}]}, "'?'} is not base64"),
        ({"instances": [{"b64": 1}]}, "1} is not base64"),
    ],
)
def test_malformed_requests_are_named(message, says):
    """A message that breaks the protocol is refused with a sentence that names the fault."""
    with pytest.raises(WireError, match=re.escape(says)):
        decode(message)
