"""DataFrames of pandas and polars."""

import datetime as dt
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables import NO_LABEL, TableOptions, open_table


def _rows(source: object, chunk_size: int | None = 1000, label_prefix: str = "Label_") -> np.ndarray:
    return np.concatenate(
        [block.features for block in open_table(source, TableOptions(label_prefix=label_prefix)).blocks(chunk_size)]
    )  # type: ignore[arg-type]


def test_boolean_and_integer_columns_are_features() -> None:
    """Columns that hold numbers of any kind become float32."""
    frame = pd.DataFrame({"a": [True, False], "b": np.array([1, 2], np.int8), "c": np.array([1, 2], np.uint64)})

    np.testing.assert_array_equal([[1, 1, 1], [0, 2, 2]], _rows(frame))


def test_a_wrong_cell_of_a_dataframe_is_named() -> None:
    """A cell of a DataFrame that is not a number is named like a cell of a file."""
    with pytest.raises(TableError, match="the DataFrame, row 2, column \"b\": 'x' is not a number") as caught:
        _rows(pd.DataFrame({"a": [1, 2, 3], "b": ["1", "2", "x"]}))

    assert (caught.value.row, caught.value.column) == (2, "b")


def test_a_dataframe_and_its_csv_give_the_same_rows(tmp_path: Path) -> None:
    """A pandas DataFrame with NaN gives what the file that pandas makes of it gives."""
    frame = pd.DataFrame(
        {"a": [1.25, np.nan, 3.0], "b": pd.array([1, None, 3], dtype="Int64"), "c": [True, False, True]}
    )
    frame["c"] = frame["c"].astype(int)
    path = tmp_path / "pandas.csv"
    frame.to_csv(path, index=False)

    np.testing.assert_array_equal(_rows(frame), _rows(path))


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
        (pl.Series(["1", "2"]), "the type String"),
        (np.array([1, 2], np.longdouble), "the type String"),
        (np.array([1j, 2]), "row 0, column \"b\": '1j' is not a number"),
        (pd.arrays.SparseArray([0.0, 1.5]), "the type String"),
        (pd.to_datetime(["2020-01-01", None]), "'2020-01-01 00:00:00' is not a number"),
        (pd.to_timedelta(["1D", None]), "'1 days 00:00:00' is not a number"),
        (pd.Series([pd.NA, "1"], dtype=object), "the type String"),
        (["\ud800", "1"], "'?' is not a number"),
    ],
)
def test_a_column_that_is_no_column_of_numbers_is_refused(values: object, says: str) -> None:
    """The error names the column and its type or its first cell that is not a number, and the cure."""
    frame = pl.DataFrame if isinstance(values, pl.Series) else pd.DataFrame

    with pytest.raises(TableError, match='column "b"') as caught:
        _rows(frame({"_ruo_row": [1.0, 2.0], "b": values}))

    assert says in str(caught.value)
    assert "leave the column out." in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 2], ">f4"),
        np.array([1, 2], "f2"),
        np.array([1, 9, 2, 9])[::2],
        pd.array([1, 2], "Int8"),
        pl.Series([1, 2], dtype=pl.Int128),
        pl.Series([1, 2], dtype=pl.Decimal(10, 2)),
        pl.Series([1, 2], dtype=pl.Float16),
    ],
)
def test_unusual_numbers_are_numbers(values: object) -> None:
    """Byte orders, strides and types beyond the processor's own are read."""
    frame = pl.DataFrame if isinstance(values, pl.Series) else pd.DataFrame

    np.testing.assert_array_equal([[0.5, 1], [0.5, 2]], _rows(frame({"a": [0.5, 0.5], "b": values})))


def test_names_of_any_kind_are_names() -> None:
    """Numbers, tuples, None and half a surrogate pair name columns; the later of two that read alike gets a suffix."""
    frame = pd.DataFrame([[1.0, 2.0, 3.0, 4.0]], columns=pd.Index([0, ("a", "b"), None, "\ud800"], dtype=object))

    assert _rows(frame).tolist() == [[1, 2, 3, 4]]
    with pytest.warns(UserWarning, match="columns of equal name; the later '0' is named '0.1'"):
        assert open_table(pd.DataFrame([[1, 2]], columns=[0, "0"])).features == ["0", "0.1"]


def test_labels_that_are_no_numbers_name_no_class() -> None:
    """Dates, lists, objects and bytes are no class indices, and no reason to refuse a table."""
    for values in ([dt.date(1970, 1, 2)], [[1]], [{"x": 1}], [b"1"], pl.Series([object()], dtype=pl.Object)):
        (block,) = open_table(pl.DataFrame({"a": [1.0], "Label_x": values})).blocks(None)
        assert block.labels is not None
        assert block.labels.tolist() == [NO_LABEL]
