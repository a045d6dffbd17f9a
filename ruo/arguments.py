"""Arguments have the types of their annotations; any other is an ArgumentError that says which.

Otherwise ``argmax="no"`` would count as true, and the columns in a set would come in any order.
"""

import functools
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from ruo.errors import ArgumentError

P = ParamSpec("P")
T = TypeVar("T")

_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a string", os.PathLike: "a path"}
_WORDS |= {bool: "True or False", NoneType: "None", Callable: "a function"}
_SECRETS = ("token", "headers")


def typed(function: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments of every call of a function; annotations that are text count for readers only."""
    signature = inspect.signature(function)
    hints = {name: hint for name, hint in inspect.get_annotations(function).items() if not isinstance(hint, str)}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError:  # of a wrong number, for which Python's own error is better
            return function(*args, **kwargs)
        given.arguments |= plain({name: value for name, value in given.arguments.items() if name in hints})
        require_types(given.arguments, hints)
        return function(*given.args, **given.kwargs)

    return checked


def plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values with Python's own numbers and lists in place of those of numpy and pandas, which JSON does not know."""
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in given.items()}


def require_types(given: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Raise ArgumentError for the first value that its annotation does not allow."""
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            cure = f"; write [{value!r}]" if isinstance(value, str) and _fits([value], hints[name]) else ""
            shown = name if name in _SECRETS else f"{name}={value!r:.60}"
            raise ArgumentError(f"{shown} must be {_in_words(hints[name])}{cure}.")


def _fits(value: Any, hint: Any) -> bool:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, one) for one in args)
    return _CHECKS[kind](value, *args) if kind in _CHECKS else isinstance(value, kind)


def _is_list(value: Any, of: Any) -> bool:
    """Whether it is a list, or what pandas and numpy have in its place."""
    has_order = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping, Set))
    return has_order and all(_fits(one, of) for one in value)


_CHECKS: dict[Any, Callable[..., bool]] = {
    Any: lambda _: True,
    bool: lambda value: type(value).__name__ in ("bool", "bool_"),  # or numpy's
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    float: lambda value: isinstance(value, Real) and not isinstance(value, bool),
    Literal: lambda value, *known: any(isinstance(value, type(one)) and value == one for one in known),
    Sequence: _is_list,
    tuple: lambda value, *of: _is_list(value, Any) and len(value) == len(of) and all(map(_fits, value, of)),
    Mapping: lambda value, key, of: (
        isinstance(value, Mapping) and _is_list([*value], key) and _is_list([*value.values()], of)
    ),
}


def _in_words(hint: Any) -> str:
    kind, args = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return _joined(map(repr, args))
    if kind not in (Union, UnionType, tuple, Sequence, Mapping):
        return _WORDS.get(kind, f"a {kind.__name__}")
    words = [_in_words(one) for one in args]
    if kind in (Union, UnionType):
        return _joined(words)
    if kind is tuple:
        return f"({', '.join(words)})"
    plurals = (re.sub(r"\ba ((?:whole )?\w+)", r"\1s", one) for one in words)
    return ("a list of " if kind is Sequence else "a mapping of ") + " to ".join(plurals)


def _joined(words: Iterable[str]) -> str:
    *most, last = words
    comma = "," if any(" or " in one for one in most) else ""
    return f"{', '.join(most)}{comma} or {last}" if most else last
