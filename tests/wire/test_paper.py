"""The protocol of 2023: JSON text inside a JSON string."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from ruo.wire import ONLY, InferRequest, InferResponse, WireError, paper


def test_what_pandas_and_requests_wrote_in_2023():
    """A frame's `to_json(orient="values")` sent through `json=` is read, with its missing values as NaN."""
    frame = pd.DataFrame({"a": [1.5, None], "b": [2, 3]})
    body = json.dumps(frame.to_json(orient="values")).encode()  # what requests' json= does
    np.testing.assert_array_equal(paper.decode_request({}, body).inputs[ONLY], [[1.5, 2], [np.nan, 3]])
    assert paper.decode_request({}, b"[[1, 2]]").inputs[ONLY].tolist() == [[1, 2]]  # without the string around them


def test_the_text_is_that_of_2023():
    """We send what the server of 2023 decodes twice, and answer the text of a list, as `str(result.tolist())` was."""
    array = np.array([[0.5, 0.25]])
    sent = paper.encode_request(InferRequest({ONLY: array}))
    assert json.loads(json.loads(bytes(sent.buffers[0]))) == array.tolist()
    answered = paper.encode_response(InferResponse({"y": array}), InferRequest({}))
    assert bytes(answered.buffers[0]).decode() == str(array.tolist()).replace(" ", "")
    with pytest.raises(WireError, match=r"several outputs \(y, z\)"):
        paper.encode_response(InferResponse({"y": array, "z": array}), InferRequest({}))


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
    with pytest.raises(WireError, match=re.escape(says)):
        paper.decode_request({}, body)
