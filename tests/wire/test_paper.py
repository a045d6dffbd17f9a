"""The protocol of 2023: JSON text inside a JSON string."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ruo.wire import ONLY, InferRequest, InferResponse, WireError, paper

finite = hnp.arrays(
    st.sampled_from(["f4", "f8"]),
    hnp.array_shapes(min_dims=2, max_dims=2),
    elements={"allow_nan": False, "allow_infinity": False},
)


@settings(deadline=None)
@given(finite)
def test_rows_go_both_ways(array):
    """Rows come out of a request, and out of an answer, as they went in."""
    encoded = paper.encode_request(InferRequest({ONLY: array}))
    back = paper.decode_request({}, bytes(encoded.buffers[0])).inputs[ONLY]
    np.testing.assert_array_equal(back.astype(array.dtype), array)
    encoded = paper.encode_response(InferResponse({"y": array}), InferRequest({}))
    back = paper.decode_response({}, bytes(encoded.buffers[0])).outputs[ONLY]
    np.testing.assert_array_equal(back.astype(array.dtype), array)


def test_what_pandas_and_requests_wrote_in_2023():
    """A frame's `to_json(orient="values")` sent through `json=` is read, with its missing values as NaN."""
    frame = pd.DataFrame({"a": [1.5, None], "b": [2, 3]})
    body = json.dumps(frame.to_json(orient="values")).encode()  # what requests' json= does
    np.testing.assert_array_equal(paper.decode_request({}, body).inputs[ONLY], [[1.5, 2], [np.nan, 3]])


def test_a_plain_array_is_taken_too():
    """The rows may stand in the body as they are, without the string around them."""
    assert paper.decode_request({}, b"[[1, 2]]").inputs[ONLY].tolist() == [[1, 2]]


def test_the_body_is_a_string_of_json():
    """What we send is what the server of 2023 decodes twice."""
    encoded = paper.encode_request(InferRequest({ONLY: np.array([[1.0, 2.0]])}))
    assert json.loads(json.loads(bytes(encoded.buffers[0]))) == [[1.0, 2.0]]


def test_python_reads_the_answer_as_a_list():
    """The answer is the text of a list, as `str(result.tolist())` was, whatever Python's spaces."""
    encoded = paper.encode_response(InferResponse({"y": np.array([[0.5, 0.25]])}), InferRequest({}))
    assert bytes(encoded.buffers[0]).decode().replace(" ", "") == str([[0.5, 0.25]]).replace(" ", "")


def test_missing_values_are_refused_by_the_encoder():
    """NaN cannot be written as JSON, so it is refused rather than sent as null."""
    with pytest.raises(WireError, match="v2"):
        paper.encode_request(InferRequest({ONLY: np.array([[np.nan]])}))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b'"', "not JSON"),
        (b'""', "not JSON"),
        (b'"[[1, 2]"', "not JSON"),
        (b'"\\"[[1]]\\""', "array of rows"),
        (b"{}", "array of rows"),
        (b"7", "array of rows"),
        (b'"{}"', "array of rows"),
        (b"[[1, 2], [3]]", "element 1 has 1 values"),
        (b'[[1, "x"]]', 'rows[0][1] is "x"'),
        (b'[{"a": 1}]', "not a number"),
    ],
)
def test_malformed_requests_are_named(body, says):
    """A body that is no rows is refused with a sentence that names the fault."""
    with pytest.raises(WireError) as refusal:
        paper.decode_request({}, body)
    assert says in str(refusal.value)


def test_every_truncation_is_a_wire_error():
    """A request cut anywhere is a WireError."""
    body = json.dumps("[[1.5, 2.0], [3.0, 4.0]]").encode()
    for end in range(len(body)):
        with pytest.raises(WireError):
            paper.decode_request({}, body[:end])


@pytest.mark.parametrize("body", [b"{}", b"null", b"Internal Server Error", b""])
def test_other_answers_are_refused(body):
    """An answer that is no array is a WireError."""
    with pytest.raises(WireError):
        paper.decode_response({}, body)
