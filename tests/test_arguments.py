"""Arguments of another type than they are annotated with."""

import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest

from ruo import ArgumentError, local_server
from ruo.arguments import require_types, typed

Names = Sequence[str]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        *((value, int) for value in (3, np.int64(3))),
        *((value, float) for value in (3, 2.5, np.float32(2.5))),
        *((value, bool) for value in (True, np.True_)),
        *((value, Names) for value in (["a"], ("a", "b"), [], pd.Index(["a"]), np.array(["a"]))),
        (None, int | None),
        ("a", Literal["a", "b"]),
        (Path("x"), str | PathLike[str]),
        *((value, tuple[int, int]) for value in ((0, 2), [0, 2])),
        *((value, Mapping[str, Names]) for value in ({"a": ["b"]}, {})),
        (len, Callable[[], int]),
        (object(), Any),
    ],
)
def test_what_fits(value: object, hint: Any) -> None:
    """What Python, numpy and pandas use for a type is taken."""
    require_types({"a": value, "unknown": 5}, {"a": hint})


@pytest.mark.parametrize(
    ("value", "hint", "sentence"),
    [
        (2.5, int, "a=2.5 must be a whole number."),
        (True, int, "a=True must be a whole number."),
        ("2", float, "a='2' must be a number."),
        (True, float, "a=True must be a number."),
        ("no", bool, "a='no' must be True or False."),
        (1, bool, "a=1 must be True or False."),
        (b"a", str, "a=b'a' must be a string."),
        ("c", Literal["a", "b"], "a='c' must be 'a' or 'b'."),
        (5, str | PathLike[str] | None, "a=5 must be a string, a path or None."),
        ("ab", Names, "a='ab' must be a list of strings; write ['ab']."),
        ({"a"}, Names, "a={'a'} must be a list of strings."),
        ({"a": 1}, Names, "a={'a': 1} must be a list of strings."),
        (["a", 5], Names, "a=['a', 5] must be a list of strings."),
        ((name for name in "ab"), Names, "must be a list of strings."),
        ((1,), tuple[int, int], "a=(1,) must be (a whole number, a whole number)."),
        ((1, "b"), tuple[int, int], "a=(1, 'b') must be (a whole number, a whole number)."),
        (["a"], Mapping[str, Names], "a=['a'] must be a mapping of strings to lists of strings."),
        ({"a": "b"}, Mapping[str, Names], "a={'a': 'b'} must be a mapping of strings to lists of strings."),
        ({1: ["b"]}, Mapping[str, Names], "must be a mapping of strings to lists of strings."),
        (5, Names | Sequence[int | None] | None, "a=5 must be a list of strings, a list of whole numbers or None, or None."),
        (5, Callable[[], int], "a=5 must be a function."),
        (5, np.ndarray, "a=5 must be a ndarray."),
    ],
)  # fmt: skip
def test_what_does_not_fit(value: object, hint: Any, sentence: str) -> None:
    """The sentence has the name, the value and what is accepted instead."""
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        require_types({"a": value}, {"a": hint})


@pytest.mark.parametrize("name", ["token", "headers"])
def test_secrets_are_not_shown(name: str) -> None:
    """A secret of the wrong type is not repeated in the message."""
    with pytest.raises(ArgumentError, match=f"^{name} must be a string.$"):
        require_types({name: b"secret"}, {name: str})


def test_a_typed_function_checks_every_call() -> None:
    """However an argument is given; one whose annotation is text is taken as it is."""

    @typed
    def add(one: int, *, other: "str" = "1") -> int:
        """The sum."""
        return one + int(other)

    assert (add(1), add(one=1, other=2), add.__doc__) == (2, 3, "The sum.")  # type: ignore[arg-type]
    for call in (lambda: add("1"), lambda: add(one="1")):  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="one='1' must be a whole number"):
            call()
    with pytest.raises(TypeError, match=r"add\(\) takes 1 positional argument but 2 were given"):
        add(1, 2)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"workers": 0}, "workers=0 must be at least 1"),
        ({"workers": "2"}, "workers='2' must be a whole number or None"),
        ({"workers": 2, "settings": {"WEB_CONCURRENCY": 3}}, "settings: pass workers=3 in place of WEB_CONCURRENCY"),
    ],
)
def test_a_local_server_wants_a_number_of_workers(given: dict[str, Any], sentence: str) -> None:
    """None of these means the default."""
    with pytest.raises(ArgumentError, match=sentence), local_server("mlp.keras", **given):
        pass


def test_numbers_of_numpy_become_pythons() -> None:
    """JSON knows no others, and neither does a checkpoint."""

    @typed
    def given(number: int, names: Names, anything: Any) -> list[object]:
        return [number, names, anything]

    array = np.zeros(2)
    number, names, anything = given(np.int64(3), np.array(["a"]), array)
    assert (type(number), names, anything is array) == (int, ["a"], False)
