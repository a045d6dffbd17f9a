"""Parameters as text: one grammar for papermill, the command line and the library."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from ruo.errors import ArgumentError
from ruo.notebook import parameters as read

# the surprises of YAML 1.1, and characters with a meaning in YAML, do not change text
AS_IT_IS = ["", "a.csv", "my,file.csv", "a[1].csv", "http://h:1/?a=b", "on", "no", "1:30", "2026-11-03", "007", "0x10"]
AS_IT_IS += ["#1.csv", "@a", "a: b", "- a", "&a", "~/a"]


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (5, ["5", "+5"]),
        (1000, ["1_000"]),
        (-0.5, ["-0.5"]),
        (100_000.0, ["1e5"]),
        (None, ["none", "None", "null"]),
        (True, ["true", "True"]),
        (False, ["false", "False"]),
        ("5", ["'5'"]),
        ("a,b.csv", ['"a,b.csv"']),
        ([1000, None], ["[1000, null]", "1000,none"]),
        ([1000.0, None, "mlp"], ["[1e3,none,mlp]"]),
        ([], ["[]"]),
        (["1", 1], ['["1", 1]']),
        ({"a": "http://x", "b": 2}, ["{a: http://x, b: 2}"]),
        *((text, [text]) for text in AS_IT_IS),
    ],
)
def test_values(value: object, texts: list[str]) -> None:
    """A value is a number, a word such as none, a list, a mapping, or text, in quotes or as it is."""
    for text in texts:
        parsed = read.parse_value(text)
        assert parsed == value
        assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("3", [3]),
        ("1,2,4", [1, 2, 4]),
        ("mlp, cnn", ["mlp", "cnn"]),
        ("[1000,5000],[10000,none]", [[1000, 5000], [10000, None]]),
        ("[1000,none]", [[1000, None]]),
        ("[1000],none, 0.5 ,[]", [[1000], None, 0.5, []]),
        ("http://h:1/?a=b", ["http://h:1/?a=b"]),
        ("http://h:1,http://h:2", ["http://h:1", "http://h:2"]),
        ("a[1].csv", ["a[1].csv"]),
        ('"a[1].csv",true', ["a[1].csv", True]),
        ('"a,b.csv",c.csv', ["a,b.csv", "c.csv"]),
    ],
)
def test_levels_of_a_sweep(text: str, levels: list) -> None:
    """Levels are separated by commas outside brackets and quotes."""
    assert read.parse_levels(text) == levels


def test_one_value_is_fixed_and_several_vary() -> None:
    """A sweep's parameters are split by the number of their values; a name that is given twice is refused, with the cure."""
    pairs = [("model", "mlp,cnn"), ("workers", "1,2,4"), ("runs", "3"), ("chunk_sizes", "[1000,none]")]
    grid, fixed = read.parse_swept(pairs)
    assert grid == {"model": ["mlp", "cnn"], "workers": [1, 2, 4]}
    assert fixed == {"runs": 3, "chunk_sizes": [1000, None]}
    with pytest.raises(ArgumentError, match="given twice; write all its values at once, such as -p workers 1,2"):
        read.parse_swept([("workers", "1"), ("workers", "2")])


@pytest.mark.parametrize("text", ["1,,2", ",1", "[1,2", "1,2]", "[1", "[1],2]", "a[1].csv,2", "{a: 1", "'a", "1,"])
def test_malformed_lists_are_refused(text: str) -> None:
    """An unbalanced bracket or a missing value is an error in one sentence."""
    with pytest.raises(ArgumentError) as error:
        read.parse_levels(text)
    assert repr(text) in str(error.value)
    assert "\n" not in str(error.value)


def test_fixed_parameters_come_from_yaml_and_pairs() -> None:
    """Pairs take precedence over mappings in YAML, and the last one wins, as with papermill."""
    texts = ["runs: 5\nworkers: none\nchunk_sizes: [1000, null]\n", "{runs: 4, wire: v1}"]
    parameters = read.parse_fixed([("runs", "3"), ("runs", "2")], texts)
    assert parameters == {"runs": 2, "workers": None, "chunk_sizes": [1000, None], "wire": "v1"}
    with pytest.raises(ArgumentError, match="'runs' is not a mapping; write parameters as in"):
        read.parse_fixed([], ["runs"])


FIVE = [5, 5.0, "5", "5.0", "5e0", " 5 "]
PEERS = {"a": "http://x", "b": "http://y?z=1"}


@pytest.mark.parametrize(
    ("reader", "result", "values"),
    [
        (read.request_sizes, [1000, None], [[1_000, None], ["1000", "none"], "[1000, null]", "1000, none"]),
        (read.request_sizes, [1000, 5000, 10_000], ["1000,5e3, 10_000"]),
        (read.request_sizes, [1000], [1e3]),
        (read.request_sizes, [None], [None, "None", "whole"]),
        (read.whole_number, 5, FIVE),
        (read.optional_whole_number, 5, FIVE),
        (read.optional_whole_number, None, [None, "none"]),
        (read.number, 12.5, [12.5, "12.5"]),
        (read.number, 0, [0, "0"]),
        (read.parse_mapping, PEERS, ["a=http://x, b=http://y?z=1", "{a: 'http://x', b: 'http://y?z=1'}", PEERS]),
        (read.parse_mapping, {}, [None, ""]),
        (lambda _, value: read.strings(value), ["mlp", "cnn"], ["mlp,cnn", "mlp, cnn", "[mlp, cnn]", ("mlp", "cnn")]),
    ],
)
def test_what_papermill_gives(reader: Callable, result: Any, values: list) -> None:
    """Numbers, lists and mappings come as they are or as text; none is written where it is allowed."""
    for value in values:
        assert reader("name", value) == result
        assert not isinstance(reader("name", value), bool)
    assert isinstance(read.whole_number("runs", 5.0), int)


@pytest.mark.parametrize(
    ("reader", "values", "words"),
    [
        (read.request_sizes, ["", "1000,,2000", "1000,many", [0], "0", "-5", "0.5", True], "whole number from 1 up"),
        (read.whole_number, [0, -1, 2.5, "many", True, None, math.nan, math.inf, "", [1]], "whole number from 1 up"),
        (read.number, [-1, "fast", None, True], "number from 0 up"),
        (read.parse_mapping, ["a"], "has no value; write it as NAME=VALUE"),
    ],
)
def test_what_cannot_be_read(reader: Callable, values: list, words: str) -> None:
    """Anything else is refused, and the error names the parameter."""
    for value in values:
        with pytest.raises(ArgumentError, match=f"name: .* {words}"):
            reader("name", value)
