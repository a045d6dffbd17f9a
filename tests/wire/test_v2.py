"""The Open Inference Protocol: golden bytes, both ways, and every way in which a message can be broken."""

import json

import numpy as np
import pytest

from ruo.wire import ONLY, InferRequest, InferResponse, WireError, v2
from tests.wire.shared import body_of

# Made by hand from the text of the extension, with struct.
REQUEST_HEAD = (
    b'{"inputs":[{"name":"x","shape":[2,3],"datatype":"FP32","parameters":{"binary_data_size":24}}],'
    b'"parameters":{"binary_data_output":true}}'
)
REQUEST_TENSOR = bytes.fromhex("000000000000803f0000004000004040000080400000a040")
RESPONSE_HEAD = (
    b'{"model_name":"m","outputs":[{"name":"y","shape":[2,1],"datatype":"FP32","parameters":{"binary_data_size":8}}]}'
)
RESPONSE_TENSOR = bytes.fromhex("0000003f0000803e")


def request_with(**changes):
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4], **changes}
    return {"inputs": [{key: value for key, value in tensor.items() if value is not None}]}


def decode(message, tail=b""):
    text = message if isinstance(message, bytes) else json.dumps(message).encode()
    return v2.decode_request({v2.HEADER_LENGTH: str(len(text))} if tail else {}, text + tail)


def test_golden_request():
    """The bytes of the specification are read as the numbers they stand for, and written again as they were."""
    asked = v2.decode_request({v2.HEADER_LENGTH: "135"}, REQUEST_HEAD + REQUEST_TENSOR)
    np.testing.assert_array_equal(asked.inputs["x"], [[0, 1, 2], [3, 4, 5]])
    assert asked.binary
    encoded = v2.encode_request(InferRequest(asked.inputs))
    assert encoded.headers[v2.HEADER_LENGTH] == "135"
    assert bytes(encoded.buffers[1]) == REQUEST_TENSOR
    assert json.loads(bytes(encoded.buffers[0])) == json.loads(REQUEST_HEAD)


def test_golden_response():
    """The response of the specification is read, model name and all."""
    answer = v2.decode_response({v2.HEADER_LENGTH: "111"}, RESPONSE_HEAD + RESPONSE_TENSOR)
    assert answer.model_name == "m"
    np.testing.assert_array_equal(answer.outputs["y"], [[0.5], [0.25]])


@pytest.mark.parametrize("encode", [v2.encode_request, v2.encode_json_request])
def test_requests_go_both_ways(encode):
    """The id, the chosen outputs and inputs without rows arrive as they are, in their order, binary or JSON."""
    inputs = {"x": np.empty((0, 2**24 - 1), "f4"), "a": np.array([2**64 - 1], "u8"), "most": np.ones((1,) * 32, "f4")}
    request = InferRequest(inputs, id="7", outputs={"y": True, "z": False})
    encoded = encode(request)
    asked = v2.decode_request(encoded.headers, body_of(encoded))
    assert (asked.id, asked.outputs) == (request.id, request.outputs)
    back, sent = ([(n, a.shape, a.dtype, *a) for n, a in each.items()] for each in (asked.inputs, inputs))
    assert back == sent


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "JSON object"),
        ({}, "at least one tensor"),
        ({"inputs": {"x": 1}}, '"inputs" must be a list'),
        ({"inputs": [1]}, "inputs[0] must be a JSON object"),
        ({"inputs": [{}]}, 'needs a "name"'),
        (request_with(name=7), '"name" must be a string'),
        (request_with(name=""), 'needs a "name"'),
        (request_with(datatype=None), "datatype None"),
        (request_with(datatype="FP128"), "FP128"),
        (request_with(datatype="TEXT"), "BYTES"),
        (request_with(datatype="BYTES"), "BYTES cannot hold"),
        (request_with(data=["a" * 61] * 4), f'is "{"a" * 60}", which is not a number'),
        (request_with(datatype=["FP32"]), "datatype"),
        (request_with(shape=None), '"shape"'),
        (request_with(shape=[-1, 2]), '"shape"'),
        (request_with(shape=[2.0, 2]), '"shape"'),
        (request_with(shape=[True, 4]), '"shape"'),
        (request_with(shape=[2**59 - 1]), f"takes {2**59 - 1} values, data has 4"),
        (request_with(shape=[2**29, 2**30]), '"shape" of at most'),
        (request_with(shape=[2**24, 0]), '"shape" of at most'),
        (request_with(data=None), "either"),
        (request_with(data=5), "must be a list"),
        (request_with(data=[1, 2, 3]), "takes 4 values"),
        (request_with(data=[[1, 2], [3]]), "element 1 has 1 values"),
        (request_with(data=[1, 2, 3, "4"]), 'data[3] is "4"'),
        (request_with(data=[1, 2, 3, {}]), "data[3] is an object"),
        (request_with(data=[[[]]] * 4), "takes 4 values"),
        (request_with(datatype="UINT8", data=[1, 2, 3, 256]), "UINT8 cannot hold"),
        (request_with(datatype="INT32", data=[1, 2, 3, 0.5]), "INT32 cannot hold"),
        (request_with(datatype="UINT64", data=[1, 2, 3, -1]), "UINT64 cannot hold"),
        (request_with(datatype="INT64", data=[1, 2, 3, 2**63]), "INT64 cannot hold"),
        (request_with(datatype="INT64", data=[1, 2, 3, -(2**63) - 1]), "INT64 cannot hold"),
        (request_with(datatype="INT64", data=[1, 2, 3, None]), "INT64 cannot hold"),
        (request_with(datatype="BOOL", data=[1, 0, 1, 2]), "BOOL cannot hold"),
        (request_with(parameters=[]), '"parameters" must be a JSON object'),
        (request_with(parameters={"binary_data_size": 16}), "either"),
        (request_with(data=None, parameters={"binary_data_size": 16}), "the body has 0 left"),
        (request_with(data=None, parameters={"binary_data_size": 15}), "takes 16 bytes"),
        (request_with(data=None, parameters={"binary_data_size": -1}), "whole number"),
        (request_with(data=None, parameters={"binary_data_size": True}), "whole number"),
        ({"inputs": request_with()["inputs"] * 2}, "given twice"),
        ({**request_with(), "id": 7}, '"id" must be a string'),
        ({**request_with(), "parameters": 1}, '"parameters" must be a JSON object'),
        ({**request_with(), "parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        ({**request_with(), "outputs": "y"}, '"outputs" must be a list'),
        ({**request_with(), "outputs": [{}]}, 'outputs[0] needs a "name"'),
        ({**request_with(), "outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "binary_data"),
        ({**request_with(), "outputs": [{"name": "y", "parameters": {"classification": 1}}]}, 'by "classification"'),
    ],
)
def test_malformed_requests_are_named(message, says):
    """A message that breaks the protocol is refused with a sentence that names the fault."""
    with pytest.raises(WireError) as refusal:
        decode(message)
    assert says in str(refusal.value)
    assert refusal.value.status == 400


@pytest.mark.parametrize("length", ["-1", "x", "", "9" * 41, "1.5", "\u0661", "200"])
def test_header_length_must_be_a_number_within_the_body(length):
    """A header length that is no number, or larger than the body, is refused."""
    with pytest.raises(WireError, match=f"{v2.HEADER_LENGTH} is {length[:40]!r}; it must be a number from 0 to"):
        v2.decode_request({v2.HEADER_LENGTH: length}, REQUEST_HEAD + REQUEST_TENSOR)


@pytest.mark.parametrize(
    ("datatype", "tail", "says"),
    [("BOOL", b"\1\0\2\0", "other than 0 and 1"), ("UINT8", b"\1\0\2\0\0", "1 bytes behind its last tensor")],
)
def test_bytes_that_mean_nothing_are_refused(datatype, tail, says):
    """A third truth value, which numpy would keep, and bytes behind the last tensor."""
    with pytest.raises(WireError, match=says):
        decode(request_with(datatype=datatype, data=None, parameters={"binary_data_size": 4}), tail)


def test_json_and_binary_tensors_mix():
    """Tensors as JSON and as bytes may stand in the same request; whole numbers are exact, also beside one with a point."""
    binary = {"name": "b", "shape": [2], "datatype": "INT32", "parameters": {"binary_data_size": 8}}
    whole = {"name": "n", "shape": [2], "datatype": "INT64", "data": [-200.0, 2**53 + 1]}
    message = {"inputs": [binary, {"name": "a", "shape": [1], "datatype": "FP64", "data": [0.1]}, whole]}
    asked = decode(message, np.array([5, -5], "<i4").tobytes())
    assert [array.tolist() for array in asked.inputs.values()] == [[5, -5], [0.1], [-200, 2**53 + 1]]
    assert not asked.binary


def test_raw_binary_request():
    """A header length of 0 says that the whole body is one tensor, whose answer is binary too."""
    asked = v2.decode_request({v2.HEADER_LENGTH: "0"}, REQUEST_TENSOR)
    assert (asked.inputs[ONLY].tobytes(), asked.binary) == (REQUEST_TENSOR, True)


@pytest.mark.parametrize("data", [[1, 2, 3, None], [[1, 2], [3, None]]])
def test_data_may_be_flat_or_nested(data):
    """Both forms give the same tensor, with NaN for null, which is what pandas writes for it."""
    np.testing.assert_array_equal(decode(request_with(data=data)).inputs["x"], [[1, 2], [3, np.nan]])


def test_every_output_is_sent_as_it_was_asked_for():
    """`binary_data` of an output goes before `binary_data_output` of the request, and only named outputs are sent."""
    outputs = [{"name": "b"}, {"name": "a", "parameters": {"binary_data": False}}]
    asked = decode({**request_with(), "outputs": outputs, "parameters": {"binary_data_output": True}})
    made = {name: np.ones((1, 2), "f4") for name in ("a", "b", "c")}
    encoded = v2.encode_response(InferResponse(made, "m", "3", "id"), asked)
    head = json.loads(bytes(encoded.buffers[0]))
    assert [output["name"] for output in head["outputs"]] == ["b", "a"]
    assert head["outputs"][0]["parameters"] == {"binary_data_size": 8}
    assert head["outputs"][1]["data"] == [1, 1]
    assert (head["model_name"], head["model_version"], head["id"]) == ("m", "3", "id")


def test_large_arrays_are_not_copied():
    """A contiguous tensor goes out as a view of its own memory."""
    array = np.zeros((1000, 10), "f4")
    buffer = v2.encode_request(InferRequest({"x": array})).buffers[1]
    assert np.shares_memory(np.frombuffer(buffer, "f4"), array)


def test_numpy_types_without_a_name_are_refused():
    """A dtype that the protocol does not know is refused by name, and a big-endian one is known."""
    assert v2.datatype_of(np.dtype(">f4")) == "FP32"
    with pytest.raises(WireError, match="complex128"):
        v2.datatype_of(np.dtype("c16"))
