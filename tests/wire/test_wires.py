"""What the table of wires says of each is so."""

import contextlib
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ruo.wire import ONLY, WIRES, Encoded, InferRequest, InferResponse, Wire, WireError, v2
from ruo.wire.messages import rows_not_finite
from tests.wire.shared import body_of, json_values

every_wire = pytest.mark.parametrize("wire", WIRES.values(), ids=list(WIRES))

LONG = "x" * 20_000
NUMBERS = [0.5] * 2_000

hostile_data = {
    "a long text among numbers": [*NUMBERS, LONG],
    "a long text among rows": [*([number, 1] for number in NUMBERS), [LONG, LONG]],
    "long texts": [LONG] * 20,
    "an object among numbers": [*NUMBERS, {LONG: LONG}],
    "nulls": [None] * 5_000,
    "lists without values": [[]] * 5_000,
    "lists of unequal length": [[1]] * 5_000 + [[1, 2]],
    "a long list among short ones": [[1]] * 100 + [[1] * 5_000],
    "a list after numbers": [*NUMBERS, [1]],
    "a large whole number": [*NUMBERS, 2**80, -1],
    "truth values and nulls": [True, None] * 2_000,
}
hostile_text = {
    "nested deeply": b"[" * 1_000 + b"]" * 1_000,
    "nested too deeply": b"[" * 100_000,
    "nested objects": b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
    "a number of many digits": b"[" + b"9" * 50_000 + b"]",
    "a number of many digits beside NaN": b"[NaN," + b"9" * 4_000 + b"]",
    "a huge exponent": b"[1e999999999]",
    "half a surrogate pair": b'{"inputs":[{"name":"\\ud800","shape":[1],"datatype":"FP32","data":[NaN]}]}',
    "no UTF-8": b'["\xff\xfe", NaN]',
    "UTF-16": "[1, NaN]".encode("utf-16"),
}
hostile_shapes = [[2**63 - 1] * 50_000, [2**63 - 1] * 32, [1] * 33, [0, 2**62, 2**62], [2**59], [10**4_000], [NUMBERS]]


def tensor(**fields):
    message = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]} | fields
    return json.dumps({"inputs": [message], "outputs": [message]}).encode()


def bodies_with(data: list[object]) -> list[bytes]:
    """Messages of every protocol that hold the data."""
    messages = [data, json.dumps(data), {"instances": [{"x": row} for row in data]}]
    messages += [{key: data} for key in ("instances", "predictions", "inputs", "outputs")]
    return [*(json.dumps(message).encode() for message in messages), tensor(shape=[len(data)], data=data)]


def decode_everywhere(body: bytes, headers: dict[str, str] | None = None) -> int:
    """How often the body was accepted by a decoder; the memory that this took is in proportion to its size."""
    accepted = 0
    tracemalloc.start()
    try:
        for wire in WIRES.values():
            for decode in (wire.decode_request, wire.decode_response):
                with contextlib.suppress(WireError):
                    decode(headers or {}, body)
                    accepted += 1
        assert tracemalloc.get_traced_memory()[1] < 60 * len(body) + 100_000
        return accepted
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("data", hostile_data.values(), ids=list(hostile_data))
def test_hostile_data_take_memory_in_proportion_to_their_size(data: list[object]) -> None:
    """They are refused, or read, without more memory than the JSON itself takes."""
    for body in bodies_with(data):
        decode_everywhere(body)


@pytest.mark.parametrize("text", hostile_text.values(), ids=list(hostile_text))
def test_hostile_text_takes_memory_in_proportion_to_its_size(text: bytes) -> None:
    """Depth, huge numbers and broken characters are refused, by themselves and within a message."""
    for body in (text, b'{"predictions":' + text + b',"instances":' + text + b"}"):
        assert (decode_everywhere(body) > 0) is (b"e999" in text)


@pytest.mark.parametrize("shape", hostile_shapes, ids=lambda shape: f"{str(shape)[:20]} of {len(shape)}")
def test_a_shape_that_no_array_has_is_refused(shape: list[object]) -> None:
    """More than 32 dimensions or 2**59 values, beside a dimension of 0 as well, as JSON and as bytes."""
    size = {"binary_data_size": 4}
    for body in (tensor(shape=shape), tensor(shape=shape, parameters=size).replace(b', "data": [1]', b"")):
        assert decode_everywhere(body) == 0


tensors = st.fixed_dictionaries(
    {"name": st.just("x") | json_values, "shape": st.lists(st.integers(-1, 3), max_size=4) | json_values},
    optional={
        "datatype": st.sampled_from(list(v2.DATATYPES)) | json_values,
        "data": st.lists(st.floats(0, 9) | st.integers(0, 9), max_size=8) | json_values,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 40)}) | json_values,
    },
)
keys = ["instances", "inputs", "outputs", "predictions", "id", "parameters", "model_name", "signature_name"]
messages = json_values | st.dictionaries(st.sampled_from(keys), json_values | st.lists(tensors, max_size=3))


@settings(max_examples=150)
@given(
    messages.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100),
    st.binary(max_size=40),
    st.none() | st.integers(-1, 200),
)
def test_whatever_comes_is_read_or_a_wire_error(text: bytes, rest: bytes, length: int | None) -> None:
    """Random JSON and random bytes, with and without a header length: nothing but a WireError, and little memory."""
    length = len(text) if length == -1 else length
    headers = {} if length is None else {v2.HEADER_LENGTH: str(length)}
    decode_everywhere(text + (rest if headers else b""), headers)


@pytest.mark.parametrize("word", ["NaN", "1"])
def test_a_name_that_cannot_be_written_is_refused(word: str) -> None:
    """Half of a surrogate pair is no character; a whole pair is one, also beside the word NaN."""
    text = '{"inputs":[{"name":"%s","shape":[1],"datatype":"FP32","data":[%s]}]}'
    assert list(v2.decode_request({}, (text % ("\\ud83d\\ude00", word)).encode()).inputs) == ["\U0001f600"]
    with pytest.raises(WireError, match="not JSON"):
        v2.decode_request({}, (text % ("\\ud800", word)).encode())


def tensors_of(wire: Wire) -> st.SearchStrategy[np.ndarray]:
    """Whatever tensor a wire carries: of any datatype, rank and value, except what JSON cannot say."""
    datatypes = st.sampled_from(sorted(v2.DATATYPES) if wire.has_metadata else ["FP32", "FP64"])
    bounds = {"max_dims": 5, "min_side": 0} if wire.is_binary else {"max_dims": 4, "min_side": 1}
    shapes = hnp.array_shapes(min_dims=1, max_side=4, **bounds)
    finite = {"allow_nan": False, "allow_infinity": False}
    return datatypes.flatmap(
        lambda name: hnp.arrays(
            v2.DATATYPES[name], shapes, elements=finite if name.startswith("FP") and not wire.is_binary else None
        )
    )


def both_ways(wire: Wire, array: np.ndarray) -> tuple[Encoded, InferRequest, Encoded]:
    """A request with the array, what the server reads of it, and an answer with the same array."""
    name = "x" if wire.has_metadata else ONLY
    sent = wire.encode_request(InferRequest({name: array}, id="rows 0-1"))
    asked = wire.decode_request(sent.headers, body_of(sent))
    return sent, asked, wire.encode_response(InferResponse({name: array}, "m", "3", asked.id), asked)


@every_wire
@given(st.data())
def test_tensors_go_both_ways(wire: Wire, data: st.DataObject) -> None:
    """They come out of a request, and out of its answer, bit for bit; on V2, the answer names its request."""
    array = data.draw(tensors_of(wire))
    _, asked, encoded = both_ways(wire, array)
    answer = wire.decode_response(encoded.headers, body_of(encoded))
    assert (answer.model_version, answer.id) == (("3", "rows 0-1") if wire.has_metadata else ("", None))
    for back in (*asked.inputs.values(), *answer.outputs.values()):
        assert back.dtype == array.dtype or not wire.has_metadata
        assert (back.shape, back.astype(array.dtype).tobytes()) == (array.shape, array.tobytes())


@every_wire
def test_every_truncation_is_a_wire_error(wire: Wire) -> None:
    """A request or answer cut anywhere is a WireError, never another error and never a shorter tensor."""
    sent, _, answered = both_ways(wire, np.array([[1.5, 2], [3, 4]], np.float32))
    for decode, message in ((wire.decode_request, sent), (wire.decode_response, answered)):
        for end in range(message.size):
            for headers in (message.headers, {}):
                with pytest.raises(WireError):
                    decode(headers, body_of(message)[:end])


@every_wire
@pytest.mark.parametrize("body", [b"null", b"{}", b'{"predictions": 1}', b'{"error": "no"}', b"Error", b""])
def test_other_answers_are_refused(wire: Wire, body: bytes) -> None:
    """An answer without predictions is a WireError."""
    with pytest.raises(WireError):
        wire.decode_response({}, body)


@every_wire
def test_the_table_says_what_a_wire_is(wire: Wire) -> None:
    """A wire of models names one in its path, and one of bytes sends the array's own, or there is one without bytes."""
    features = np.ones((2, 3), np.float32)
    assert ("{model}" in wire.path) == wire.has_models
    assert (features.tobytes() in body_of(both_ways(wire, features)[0])) == wire.is_binary
    assert wire.is_binary == (wire.fallback is not None)
    assert wire.fallback is None or not WIRES[wire.fallback].is_binary


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_that_are_not_finite_are_counted(dtype: type[np.floating]) -> None:
    """A row counts once, however many of its features are NaN or Infinity; the largest and all whole numbers are finite."""
    features = np.full((6, 4), np.finfo(dtype).max, dtype)
    assert rows_not_finite(features).tolist() == []
    features[1, 0], features[3], features[4, 2], features[4, 3] = np.nan, -np.inf, np.inf, -np.inf
    assert rows_not_finite(features).tolist() == [1, 3, 4]
    assert all(len(rows_not_finite(np.ones((2, 3), whole))) == 0 for whole in (np.bool_, np.uint8, np.int64))
