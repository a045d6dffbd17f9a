"""The options of a run: documented once, the same for `help`, for type checkers and at run time."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any

import pytest

from ruo import ascore_csv, iter_scores, score_csv
from ruo.client.options import BlockKeywords, ScoreKeywords, ScoreOptions

DEFAULTS = {field.name: field.default for field in dataclasses.fields(ScoreOptions)}
BOTH = {"pipelined", "errors"}


@pytest.mark.parametrize(("function", "without"), [(score_csv, set()), (ascore_csv, set()), (iter_scores, BOTH)])
def test_help_shows_every_keyword(function: Callable[..., Any], without: set[str]) -> None:
    """The signature has the options' names and defaults, and the docstring explains each of them."""
    parameters = list(inspect.signature(function).parameters.values())

    assert [parameter.name for parameter in parameters[:2]] == ["source", "url"]
    assert {parameter.kind for parameter in parameters[2:]} == {inspect.Parameter.KEYWORD_ONLY}
    assert {p.name: p.default for p in parameters[2:]} == {k: v for k, v in DEFAULTS.items() if k not in without}
    documented = {line.split(" : ")[0].strip() for line in inspect.getdoc(function).splitlines() if " : " in line}  # type: ignore[union-attr]
    assert documented == {"source", "url", *DEFAULTS} - without
    assert "**options" not in (function.__doc__ or "")


def test_type_checkers_see_the_same_keywords() -> None:
    """Names and types of the keywords are those of the dataclass."""
    hints = typing.get_type_hints(ScoreOptions)

    assert typing.get_type_hints(ScoreKeywords) == hints
    assert typing.get_type_hints(BlockKeywords) == {name: hint for name, hint in hints.items() if name not in BOTH}


@pytest.mark.parametrize(
    ("function", "keyword"), [(score_csv, "chunksize"), (iter_scores, "chunksize"), (iter_scores, "errors")]
)
def test_an_unknown_keyword_is_a_type_error(function: Callable[..., Any], keyword: str) -> None:
    """A keyword that is misspelt, or that the function does not take, is refused by its name."""
    with pytest.raises(TypeError, match=keyword):
        function("table.csv", "http://127.0.0.1:9", **{keyword: "raise"})


def test_options_are_frozen_and_hide_the_token() -> None:
    """Options do not change during a run, and a token is not printed."""
    options = ScoreOptions(token="secret")

    assert "secret" not in repr(options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.retries = 3  # type: ignore[misc]
