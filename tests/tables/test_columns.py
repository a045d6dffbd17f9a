"""Features by the names that a model knows."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables import ModelInput, names_of_labels, open_table, table
from tests.tables.forms import write_csv

FRAME = pl.DataFrame({"id": ["u", "v"], "b": [1, 2], "a": [3, 4], "c": [5, 6]})
MODEL = [ModelInput("x", 2, ["a", "b"])]


def matched(source: Any, **options: Any) -> list[list[float]]:
    """The rows as the model takes them."""
    opened = open_table(table(source, **options))
    opened.match("model", MODEL)
    return np.concatenate([block.array for block in opened.blocks(None)]).tolist()


@pytest.mark.parametrize(
    "options",
    [{"drop": ["id", "c"]}, {"keep": ["id"], "label": "c"}, {"columns": ["a", "b"]}, {"inputs": {"x": ["a", "b"]}}],
)
def test_features_are_taken_by_name(options: dict[str, Any]) -> None:
    """Whatever the order of the table: a model that knows its columns never gets one in the place of another."""
    assert matched(FRAME, **options) == [[3, 1], [4, 2]]


@pytest.mark.parametrize(
    ("options", "column", "says"),
    [
        (
            {"columns": ["b", "a"]},
            "b",
            "'b' is named where .* takes 'a'; name the columns in the model's order, or drop",
        ),
        ({"inputs": {"x": ["b", "a"]}}, "b", "'b' is named where model 'model' takes 'a'"),
        ({"columns": ["a", "c"]}, "b", "has no feature 'b', which model 'model' takes; it has 'a', 'c'"),
        ({"columns": ["c"]}, "a", "has no feature 'a' and 1 more, which model 'model' takes; it has 'c'"),
        ({"drop": ["id"]}, None, r"has columns that no input of model 'model' takes; leave them out: drop=\['c'\]"),
    ],
)
def test_a_wrong_order_or_name_is_an_error(options: dict[str, Any], column: str | None, says: str) -> None:
    """An order that was asked for is not changed in silence, nor another column taken."""
    with pytest.raises(TableError, match=says) as caught:
        matched(FRAME, **options)
    assert caught.value.column == column


@pytest.mark.parametrize(("width", "end"), [(12, "'9', '10', '11'"), (13, "'9', ..., '12'")])
def test_many_names_are_not_all_told(width: int, end: str) -> None:
    """An error lists up to twelve columns; of more, the first ten and the last."""
    with pytest.raises(TableError, match=rf"; it has '0', .*{re.escape(end)}\."):
        open_table(table(np.zeros((1, width)), keep=["no"]))


@pytest.mark.parametrize("kind", ["file", "frame", "comma", "parquet"])
def test_an_index_is_no_feature(kind: str, tmp_path: Path) -> None:
    """A column without a name is left out or taken by the user; where it counted, each feature would move by one."""
    path = tmp_path / "indexed.csv"
    pd.DataFrame({"b": [1, 2], "a": [3, 4]}).to_csv(path)
    if kind == "comma":
        path.write_text("b,a,\n1,3,\n2,4,\n")
    source = pd.read_csv(path) if kind == "frame" else path
    name = {"frame": "Unnamed: 0", "parquet": "__index_level_0__"}.get(kind, "")
    if kind == "parquet":  # as pandas writes it
        source = path.with_suffix(".parquet")
        pl.DataFrame({"b": [1, 2], "a": [3, 4], name: ["u", "v"]}).write_parquet(source)

    with pytest.raises(TableError, match=rf"without a name, .*; leave it out with drop=\['{name}'\], or name it"):
        open_table(source)
    assert matched(source, drop=[name]) == [[3, 1], [4, 2]]
    assert open_table(table(source, columns=["a", name])).features == ["a", name]
    assert open_table(table(source, inputs={"x": [name]})).features == [name]
    assert open_table(table(source, keep=[name])).features == ["b", "a"]


@pytest.mark.filterwarnings("ignore:.*columns of equal name")
@pytest.mark.parametrize(("names", "listed"), [(",a,", "'', '.1'"), ("Unnamed: 0.1,Unnamed: 0,a", "'Unnamed: 0.1', '")])
def test_an_index_that_was_written_twice_is_no_feature_either(names: str, listed: str, tmp_path: Path) -> None:
    """All are named at once: after the first, the second would be a feature."""
    with pytest.raises(TableError, match=rf"leave it out with drop=\[{listed}") as caught:
        open_table(write_csv(tmp_path, f"{names}\n0,0,1\n"))
    assert caught.value.column == listed.split("'")[1]


def test_columns_without_names_are_in_the_models_order(tmp_path: Path) -> None:
    """Those of an array, and of a file without a header, also where others are left out or the order is the user's own."""
    assert matched(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert matched(np.array([[9, 1, 2]]), drop=["0"]) == [[1, 2]]
    assert matched(np.array([[9, 1, 2]]), columns=["2", "1"]) == [[2, 1]]
    assert matched(write_csv(tmp_path, "u,1,2\nv,3,4\n"), header=False, keep=["0"]) == [[1, 2], [3, 4]]
    with pytest.raises(TableError, match="has 3 feature columns, model 'model' takes 2"):
        matched(np.zeros((2, 3)))


def test_a_models_names_may_be_numbers() -> None:
    """As those of a model that was trained on an array: another column never takes the place of one that was dropped."""
    opened = open_table(table(np.array([[7, 8, 9]]), drop=["0"]))
    with pytest.raises(TableError, match="has no feature '0', which model 'model' takes; it has '1', '2'. Rename"):
        opened.match("model", [ModelInput("x", 2, ["0", "1"])])


def test_one_hot_columns_of_other_names_are_the_outputs_in_order() -> None:
    """Those with names of outputs keep their own, whatever their order."""
    assert names_of_labels(["x", "y"], ["a", "b"]) == {0: "x", 1: "y"}
    assert names_of_labels(["x", "y"], ["y", "x"]) == {0: "y", 1: "x"}
