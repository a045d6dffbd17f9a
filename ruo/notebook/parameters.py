"""Parameters of notebooks as text: one grammar for the command line, papermill and the library.

A value is a number, ``true``, ``false``, ``none`` or text; lists and mappings are written as in YAML:
``[1000, null]``, ``{mlserver: "http://localhost:8080"}``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

import yaml

from ruo.errors import ArgumentError
from ruo.wire import WIRES


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML is not typed
    """YAML with the scalars of version 1.2 and ``none``: 1e5 is a number; on, 1:30 and 2026-11-03 are text."""

    yaml_implicit_resolvers: ClassVar[dict[str | None, Any]] = {}


for _tag, _pattern in {
    "null": r"(?:~|null|none|)",
    "bool": r"(?:true|false)",
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": r"[-+]?(?:(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?",
}.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"{_pattern}$", re.IGNORECASE), None)


def parse_value(text: str) -> Any:
    """Read one value: ``5``, ``1e5``, ``true``, ``none``, ``[1000, none]``, ``1000,none`` or text (commas included)."""
    if text.strip()[:1] in ("[", "{", '"', "'"):
        return _load(text)
    words = [_scalar(word) for word in text.split(",")]
    if len(words) > 1 and not any(isinstance(word, str) for word in words):
        return words
    return _scalar(text)


def parse_levels(text: str) -> list[Any]:
    """Read the values of a parameter in a sweep: ``1,2,4``, ``mlp,cnn`` or ``[1000,5000],[none]``."""
    if "," not in text:
        return [parse_value(text)]
    if text.rstrip().endswith(","):
        raise ArgumentError(f"{text!r} ends in a comma; write the missing value, and none for None.")
    levels: list[Any] = _load(f"[{text}]", text)
    return levels


def parse_fixed(pairs: Iterable[tuple[str, str]], texts: Iterable[str] = ()) -> dict[str, Any]:
    """Read the parameters of one run: mappings in YAML, then pairs of a name and a value, which take precedence."""
    parameters: dict[str, Any] = {}
    for text in texts:
        mapping = _load(text)
        if not isinstance(mapping, dict):
            raise ArgumentError(f"{text.strip()!r} is not a mapping; write parameters as in '{{runs: 5, workers: 2}}'.")
        parameters |= {str(name): value for name, value in mapping.items()}
    return parameters | {name: parse_value(text) for name, text in pairs}


def parse_swept(
    pairs: Sequence[tuple[str, str]], texts: Iterable[str] = ()
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Read the parameters of a sweep, as `parse_fixed` does, where a list is its values; return the several, and the one."""
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ArgumentError(f"{twice} is given twice; write all its values at once, such as -p {twice} 1,2.")
    levels = {name: value if isinstance(value, list) else [value] for name, value in parse_fixed((), texts).items()}
    levels |= {name: parse_levels(text) for name, text in pairs}
    grid = {name: values for name, values in levels.items() if len(values) != 1}
    return grid, {name: values[0] for name, values in levels.items() if len(values) == 1}


def parse_mapping(name: str, value: Any) -> dict[str, str]:
    """Read names and strings: ``"a=http://x,b=http://y"``, a mapping or None."""
    if isinstance(value, str) and value.strip().startswith("{"):
        value = _load(value)
    if isinstance(value, Mapping):
        return {str(key): str(text) for key, text in value.items()}
    pairs = {}
    for pair in filter(str.strip, str(value or "").split(",")):
        key, _, text = map(str.strip, pair.partition("="))
        if not key or not text:
            raise ArgumentError(f"{name}: {key!r} has no value; write it as NAME=VALUE,NAME=VALUE.")
        pairs[key] = text
    return pairs


def strings(value: Any) -> list[str]:
    """Read a list of strings: ``["mlp", "cnn"]`` or ``"mlp,cnn"``."""
    return [str(item).strip() for item in _items(value)]


def request_sizes(name: str, value: Any) -> list[int | None]:
    """Read request sizes: a list, a number, or text such as ``"1000,5000,none"``; None is the whole table."""
    return [optional_whole_number(name, None if item == "whole" else item) for item in _items(value)]


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Read a whole number from `least` up: ``5``, ``5.0``, ``1e5`` or ``"5"``."""
    return int(number(name, value, least, whole=True))


def whole_numbers(name: str, value: Any) -> list[int]:
    """Read a list of whole numbers from 1 up: ``[1, 2]``, ``"1,2"`` or ``1``."""
    return [whole_number(name, item) for item in _items(value)]


def optional_whole_number(name: str, value: Any) -> int | None:
    """Read a whole number from 1 up, or None or ``"none"``."""
    value = _scalar(value) if isinstance(value, str) else value
    return None if value is None else whole_number(name, value)


def number(name: str, value: Any, least: float = 0.0, *, whole: bool = False) -> float:
    """Read a number from `least` up."""
    read = _scalar(value) if isinstance(value, str) else value
    is_one = isinstance(read, Real) and not isinstance(read, bool) and float(read) >= least
    if not is_one or (whole and not float(read).is_integer()):
        raise ArgumentError(f"{name}: {value!r} is not a {'whole ' * whole}number from {least:g} up.")
    return float(read)


def wire_name(name: str, value: Any) -> str:
    """Read the name of a wire."""
    if value not in list(WIRES):  # also a list, which has no hash
        raise ArgumentError(f"{name}: there is no wire {value!r}; choose {', '.join(WIRES)}.")
    return str(value)


def _items(value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        value = _load(value) if value.strip().startswith("[") else value.split(",")
    return value if isinstance(value, Sequence) else [value]


def _scalar(text: str) -> Any:
    loader = _Loader("")
    tag = loader.resolve(yaml.ScalarNode, text.strip(), (True, False))
    if not text.strip() or tag == loader.DEFAULT_SCALAR_TAG:
        return text
    return loader.construct_object(yaml.ScalarNode(tag, text.strip()))


def _load(text: str, written: str | None = None) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506  it is a SafeLoader
    except yaml.YAMLError as error:
        hint = "write a list as [1000,5000,none], and put text with commas, brackets or question marks in quotes"
        raise ArgumentError(f"{written or text!r} is not YAML ({getattr(error, 'problem', error)}); {hint}.") from error
