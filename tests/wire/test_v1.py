"""The V1 protocol of TensorFlow Serving and KServe."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from ruo.wire import ONLY, InferRequest, InferResponse, WireError, v1

ROWS = [[1.5, 2.0], [3.0, 4.0]]


def decode(message):
    return v1.decode_request({}, message if isinstance(message, bytes) else json.dumps(message).encode())


def answer(outputs, **request):
    encoded = v1.encode_response(InferResponse(outputs), InferRequest({}, **request))
    return json.loads(bytes(encoded.buffers[0]))


@settings(deadline=None)
@given(
    hnp.arrays("f4", hnp.array_shapes(min_dims=2, max_dims=4), elements={"allow_nan": False, "allow_infinity": False})
)
def test_rows_go_both_ways(array):
    """Rows of any rank come out of a request, and out of an answer, as they went in."""
    encoded = v1.encode_request(InferRequest({ONLY: array}))
    back = v1.decode_request({}, bytes(encoded.buffers[0])).inputs[ONLY]
    np.testing.assert_array_equal(back.astype("f4"), array)
    encoded = v1.encode_response(InferResponse({"y": array}), InferRequest({}))
    back = v1.decode_response({}, bytes(encoded.buffers[0])).outputs[ONLY]
    np.testing.assert_array_equal(back.astype("f4"), array)


def test_instances_are_rows():
    """`instances` without names is the model's only input."""
    np.testing.assert_array_equal(decode({"instances": ROWS}).inputs[ONLY], ROWS)


def test_instances_may_name_inputs():
    """Each instance may be an object that names the inputs; a column of each comes out."""
    asked = decode({"instances": [{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}]})
    assert {name: array.tolist() for name, array in asked.inputs.items()} == {"a": [[1, 2], [4, 5]], "b": [3, 6]}


def test_inputs_are_columns():
    """`inputs` is a tensor, or tensors by name, and is answered in the same form."""
    assert decode({"inputs": ROWS}).inputs[ONLY].tolist() == ROWS
    asked = decode({"inputs": {"a": [[1]], "b": [[2]]}})
    assert sorted(asked.inputs) == ["a", "b"]
    assert asked.columnar


def test_one_output_is_unnamed_and_two_are_named():
    """As TensorFlow Serving does: a single output is a bare list, several are objects a row, or lists by name."""
    one, two = {"y": np.array([[1.0]])}, {"y": np.array([[1.0]]), "z": np.array([2])}
    assert answer(one) == {"predictions": [[1.0]]}
    assert answer(two) == {"predictions": [{"y": [1.0], "z": 2}]}
    assert answer(one, columnar=True) == {"outputs": [[1.0]]}
    assert answer(two, columnar=True) == {"outputs": {"y": [[1.0]], "z": [2]}}


@pytest.mark.parametrize("columnar", [False, True])
def test_named_outputs_are_read_back(columnar):
    """The answer of a model with two outputs is read by name, whichever form it has."""
    outputs = {"y": np.array([[1.0], [2.0]]), "z": np.array([[3, 4], [5, 6]])}
    encoded = v1.encode_response(InferResponse(outputs), InferRequest({}, columnar=columnar))
    back = v1.decode_response({}, bytes(encoded.buffers[0])).outputs
    for name, array in outputs.items():
        np.testing.assert_array_equal(back[name], array)


def test_nan_is_answered_as_the_word():
    """A model that gives NaN is answered as TensorFlow Serving does, by the word, never by a silent null."""
    encoded = v1.encode_response(InferResponse({"y": np.array([[np.nan, -np.inf]])}), InferRequest({}))
    assert bytes(encoded.buffers[0]) == b'{"predictions":[[NaN,-Infinity]]}'
    assert np.isnan(v1.decode_response({}, bytes(encoded.buffers[0])).outputs[ONLY][0, 0])


def test_the_only_signature_may_be_named():
    """`signature_name` is passed on, since only the model knows its signatures; an empty one is the default."""
    assert [decode({"instances": ROWS, "signature_name": name}).signature for name in ("train", "")] == ["train", ""]


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
    ],
)
def test_malformed_requests_are_named(message, says):
    """A message that breaks the protocol is refused with a sentence that names the fault."""
    with pytest.raises(WireError) as refusal:
        decode(message)
    assert says in str(refusal.value)


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"predictions": 1}', b"<html>", b'{"error": "no"}'])
def test_other_answers_are_refused(body):
    """An answer without predictions is a WireError."""
    with pytest.raises(WireError):
        v1.decode_response({}, body)


def test_every_truncation_is_a_wire_error():
    """A request or answer cut anywhere is a WireError."""
    for decoder, body in (
        (v1.decode_request, json.dumps({"instances": ROWS}).encode()),
        (v1.decode_response, json.dumps({"predictions": ROWS}).encode()),
    ):
        for end in range(len(body)):
            with pytest.raises(WireError):
                decoder({}, body[:end])
