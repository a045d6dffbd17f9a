"""The options of a run: documented once, the same for `help`, for type checkers and at run time."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from ruo import ascore_csv, iter_scores, score_csv, score_to_file
from ruo.client.options import GROUPS, BlockKeywords, Datatype, FileKeywords, ScoreKeywords, ScoreOptions, WireName
from ruo.wire import WIRES
from ruo.wire.v2 import TENSORS

DEFAULTS = {field.name: field.default for field in dataclasses.fields(ScoreOptions)}
NOT_IN_BLOCKS = {"pipelined", "errors", "prediction_names", "argmax"}


@pytest.mark.parametrize(
    ("function", "without"),
    [(score_csv, set()), (ascore_csv, set()), (iter_scores, NOT_IN_BLOCKS), (score_to_file, {"pipelined"})],
)
def test_help_shows_every_keyword(function: Callable[..., Any], without: set[str]) -> None:
    """The signature has the options' names and defaults, and the docstring explains each of them."""
    parameters = list(inspect.signature(function).parameters.values())

    own = [parameter.name for parameter in parameters if parameter.kind != inspect.Parameter.KEYWORD_ONLY]
    assert own == ["source", "url", *(["path"] if function is score_to_file else [])]
    options = [(p.name, p.default) for p in parameters[len(own) :]]
    assert options == [(name, default) for name, default in DEFAULTS.items() if name not in without]
    documented = {line.split(" : ")[0].strip() for line in inspect.getdoc(function).splitlines() if " : " in line}  # type: ignore[union-attr]
    assert documented - {">>> table"} == {*own, *DEFAULTS} - without
    assert "**options" not in (function.__doc__ or "")


def test_type_checkers_see_the_same_keywords() -> None:
    """Names and types of the keywords are those of the dataclasses, group by group."""
    hints = typing.get_type_hints(ScoreOptions)

    assert list(hints) == [name for group in GROUPS.values() for name in typing.get_type_hints(group)]
    for keywords, without in ((ScoreKeywords, set()), (FileKeywords, {"pipelined"}), (BlockKeywords, NOT_IN_BLOCKS)):
        assert typing.get_type_hints(keywords) == {name: hint for name, hint in hints.items() if name not in without}
    assert set(typing.get_args(WireName)) == set(WIRES)
    assert set(typing.get_args(Datatype)) == set(TENSORS)


@pytest.mark.parametrize(
    ("function", "keyword", "hint"),
    [
        (score_csv, "chunksize", "; is 'chunk_size' meant?"),
        (score_csv, "unheard_of", ". It has: columns, drop,"),
        *((iter_scores, keyword, "") for keyword in sorted(NOT_IN_BLOCKS)),
        (partial(score_to_file, path="scored.csv"), "pipelined", ". It has:"),
    ],
)
def test_an_unknown_keyword_is_a_type_error(function: Callable[..., Any], keyword: str, hint: str) -> None:
    """A keyword that is misspelt, or that the function does not take, is refused by its name."""
    with pytest.raises(TypeError, match=f"^'{keyword}' is no keyword of this function{re.escape(hint)}"):
        function("table.csv", "http://127.0.0.1:9", **{keyword: "raise"})


def test_options_are_frozen_and_hide_secrets() -> None:
    """Options do not change during a run, and neither a token nor a header is printed."""
    options = ScoreOptions(token="secret", headers={"X-Key": "secret"})

    assert "secret" not in repr(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.retries = 3  # type: ignore[misc]
