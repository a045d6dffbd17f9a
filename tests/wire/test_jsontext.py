"""JSON text to arrays and back."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ruo.wire import WireError
from ruo.wire.jsontext import dumps, loads, to_array
from tests.wire.shared import json_values

read = partial(json.loads, parse_int=lambda text: int(text) if -(2**63) <= int(text) < 2**64 else float(text))


@given(json_values)
def test_anything_is_an_array_of_numbers_or_refused(value):
    """Whatever JSON holds, it is an array of numbers or a WireError, and nothing else happens."""
    try:
        kind = to_array(value, "x").dtype.kind
    except WireError:
        kind = "refused"
    assert kind in ("b", "i", "u", "f", "refused")


@example(b"[-9223372036854775809, Infinity]")
@given(st.binary(max_size=50) | json_values.map(lambda value: json.dumps(value).encode()))
def test_anything_is_json_or_refused(text):
    """Bytes are parsed as Python's own parser does, or refused; whole numbers beyond 64 bits may become floats."""
    try:
        value = loads(text)
    except WireError:
        with pytest.raises((ValueError, RecursionError)):
            json.dumps(json.loads(text.decode()), ensure_ascii=False).encode()
    else:
        assert json.dumps(read(json.dumps(value))) == json.dumps(read(text))


def test_words_that_json_lacks():
    """NaN and Infinity are read and written as TensorFlow Serving writes them, a float32 with its own digits."""
    assert dumps(np.array([0.1], "f4")) == b"[0.1]"
    array = to_array(loads(b"[NaN, Infinity, -Infinity, null]"), "x")
    np.testing.assert_array_equal(array, [np.nan, np.inf, -np.inf, np.nan])
    assert dumps({"x": array[:2]}) == b'{"x":[NaN,Infinity]}'


def test_unequal_and_deep_lists():
    """Lists that are unequal below the first level are refused, and those that are nested deeper than arrays are."""
    with pytest.raises(WireError, match="element 0, 1 has 1 values, element 0, 0 has 2"):
        to_array([[[1, 2], [3]], [[1, 2], [3, 4, 5]]], "x")
    assert to_array(loads(b"[" * 32 + b"1" + b"]" * 32), "x").shape == (1,) * 32
    for depth in (33, 64, 65):
        with pytest.raises(WireError, match="x is nested deeper than 32 lists"):
            to_array(loads(b"[" * depth + b"1" + b"]" * depth), "x")


def test_numbers_keep_their_kind():
    """A float among them makes floats; so does a whole number that no datatype holds, and one beyond all floats is refused."""
    assert [to_array(data, "x").dtype.kind for data in ([1], [True], [1.0], [1, 0.5])] == ["i", "b", "f", "f"]
    assert to_array([10**30], "x")[0] == 1e30
    assert to_array(loads(b"[-9223372036854775809, Infinity]"), "x").tolist() == [-(2.0**63), np.inf]
    with pytest.raises(WireError, match="too large"):
        to_array([10**400], "x")
