"""DataFrames of pandas and polars."""

import datetime as dt
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables import NO_LABEL, open_table
from tests.tables.forms import one_block, read_rows


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (pl.Series([[1, 2], [3]]), "the type List(Int64)"),
        (pl.Series([[1, 2], [3, 4]], dtype=pl.Array(pl.Int64, 2)), "the type Array(Int64, shape=(2,))"),
        (pl.Series([{"x": 1}, {"x": 2}]), "the type Struct({'x': Int64})"),
        (pl.Series([dt.timedelta(1), None]), "the type Duration(time_unit='us')"),
        (pl.Series([dt.date(2020, 1, 1), None]), "the type Date"),
        (pl.Series([object(), object()], dtype=pl.Object), "the type Object"),
        (pl.Series([b"1", b"2"]), "the type Binary"),
        (pl.Series(["1", "x"], dtype=pl.Categorical), "row 1, column \"b\": 'x' is not a number"),
        (pl.Series(["1", "2"]), 'holds numbers as text or objects; convert it, as in astype({"b": float}), or leave'),
        (np.array([1, 2], np.longdouble), "holds numbers as text or objects"),
        (np.array([1j, 2]), "row 0, column \"b\": '1j' is not a number"),
        (pd.interval_range(0, 2), "'(0, 1]' is not a number"),
        (pd.to_datetime(["2020-01-01", None]), "'2020-01-01 00:00:00' is not a number"),
        (pd.to_timedelta(["1D", None]), "'1 days 00:00:00' is not a number"),
        (pd.Series([pd.NA, "1"], dtype=object), "holds numbers as text or objects"),
        (pd.Series(["\ud800", "1"], dtype=object), "'?' is not a number"),
        (["1", "x"], "the DataFrame, row 1, column \"b\": 'x' is not a number"),
    ],
)
def test_a_column_that_is_no_column_of_numbers_is_refused(values: object, says: str) -> None:
    """The error names the column and its type or its first cell that is not a number, and the cure."""
    frame = pl.DataFrame if isinstance(values, pl.Series) else pd.DataFrame
    with pytest.raises(TableError, match=r'column "b".*leave the column out\.') as caught:
        read_rows(frame({"_ruo_row": [1.0, 2.0], "b": values}))

    assert says in str(caught.value)
    row = re.search(r"row (\d+)", says)
    assert row is None or (caught.value.row, caught.value.column) == (int(row[1]), "b")


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 2], ">f4"),
        np.array([1, 2], "f2"),
        np.array([1, 9, 2, 9])[::2],
        pd.array([1, 2], "Int8"),
        pd.arrays.SparseArray([1, 2]),
        pd.arrays.SparseArray([1.0, 2.0], fill_value=1.0),
        np.array([1, 2], np.int8),
        np.array([1, 2], np.uint64),
        pl.Series([1, 2], dtype=pl.Int128),
        pl.Series([1, 2], dtype=pl.Decimal(10, 2)),
        pl.Series([1, 2], dtype=pl.Float16),
    ],
)
def test_unusual_numbers_are_numbers(values: object) -> None:
    """Byte orders, strides and types beyond the processor's own are read, beside fractions and truth values."""
    frame = pl.DataFrame if isinstance(values, pl.Series) else pd.DataFrame
    np.testing.assert_array_equal([[0.5, 1], [0.5, 2]], read_rows(frame({"a": [0.5, 0.5], "b": values})))
    np.testing.assert_array_equal([[1, 1], [0, 2]], read_rows(frame({"a": [True, False], "b": values})))


@pytest.mark.parametrize("kind", ["bool[pyarrow]", "uint64[pyarrow]", "float[pyarrow]", "boolean", "Float32"])
def test_a_missing_cell_of_pandas_is_a_missing_number(kind: str) -> None:
    """Of Arrow's types and of pandas' own, in a feature and in a kept column."""
    frame = pd.DataFrame({"a": pd.array([1, None, 0], kind), "b": [1, 2, 3]})
    np.testing.assert_array_equal([[1, 1], [np.nan, 2], [0, 3]], read_rows(frame))
    assert one_block(frame, keep=["a"]).kept["a"].to_list() == [1, None, 0]


ROWS = pl.DataFrame({"a": [3, 1, 2, 1], "b": [0.5, 1.5, 2.5, 3.5]}).lazy()


@pytest.mark.parametrize(
    "query",
    [
        ROWS.group_by("a").agg(pl.col("b").sum()),
        ROWS.join(ROWS, on="a"),
        ROWS.unique("a"),
        ROWS.sort("a"),
        ROWS.select(pl.all().shuffle(seed=1)),
        ROWS.top_k(2, by="a"),
        ROWS.select(pl.all().sort_by("a")),
    ],
)
def test_a_query_of_unknown_order_has_no_parts(query: pl.LazyFrame) -> None:
    """Each part runs it anew, and would lose some rows and double others; the same holds for a checkpoint."""
    assert read_rows(query).shape[1] > 1
    for read in (lambda: open_table(query, shard=(0, 2)), open_table(query).fingerprint):
        with pytest.raises(TableError, match="the LazyFrame may give its rows in another order each time.*Parquet"):
            read()


@pytest.mark.parametrize(
    "refine",
    [
        lambda rows: rows,
        lambda rows: rows.filter((pl.col("b") > 1) & pl.col("a").is_not_null()).select("b"),
        lambda rows: rows.with_columns(c=pl.col("b").cast(pl.Float32) * 2).slice(1, 3),
        lambda rows: rows.with_row_index("n").with_columns(pl.col("b").fill_null(0).round(1).log1p().sub(pl.mean("b"))),
        lambda rows: rows.with_columns(b=pl.when(pl.col("a") > 1).then(1).otherwise("b")).drop_nulls().reverse(),
        lambda rows: rows.sort("a", maintain_order=True).map_batches(lambda frame: frame),
        lambda rows: rows.group_by("a", maintain_order=True).agg(pl.sum("b")),
        lambda rows: pl.concat([rows, rows.filter(pl.col("a") < 3)]).rename({"a": " x"}),
    ],
)
def test_a_query_in_order_is_its_parts(refine: Callable[[pl.LazyFrame], pl.LazyFrame], tmp_path: Path) -> None:
    """Of a file, with columns and rows chosen, and of several files one after the other."""
    ROWS.collect().write_parquet(tmp_path / "rows (1).parquet")
    query = refine(pl.scan_parquet(tmp_path / "rows (1).parquet"))
    parts = [block.array for part in range(3) for block in open_table(query, shard=(part, 3)).blocks(None)]
    np.testing.assert_array_equal(query.collect().cast(pl.Float32), np.concatenate(parts))
    assert open_table(query).fingerprint() == open_table(query, shard=(1, 3)).fingerprint()


def test_names_of_any_kind_are_names() -> None:
    """Numbers, tuples, None and half a surrogate pair name columns; the later of two that read alike gets a suffix."""
    frame = pd.DataFrame([[1, 2, 3, 4, 5]], columns=pd.Index([0, ("a", "b"), None, "\ud800", b"\xff"], dtype=object))
    assert read_rows(frame).tolist() == [[1, 2, 3, 4, 5]]
    with pytest.warns(UserWarning, match="columns of equal name; the later '0' is named '0.1'"):
        assert open_table(pd.DataFrame([[1, 2]], columns=[0, "0"])).features == ["0", "0.1"]


def test_labels_that_are_no_numbers_name_no_class() -> None:
    """Dates, lists, objects and bytes are no class indices, and no reason to refuse a table."""
    for values in ([dt.date(1970, 1, 2)], [[1]], [{"x": 1}], [b"1"], pl.Series([object()], dtype=pl.Object)):
        assert one_block(pl.DataFrame({"a": [1.0], "Label_x": values})).labels.tolist() == [NO_LABEL]
