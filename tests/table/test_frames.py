"""DataFrames of pandas and polars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ruo.errors import TableError
from ruo.table import open_table


def _rows(source: object, chunk_size: int | None = 1000, label_prefix: str = "Label_") -> np.ndarray:
    return np.concatenate([block.features for block in open_table(source, label_prefix).blocks(chunk_size)])  # type: ignore[arg-type]


def test_boolean_and_integer_columns_are_features() -> None:
    """Columns that hold numbers of any kind become float32."""
    frame = pd.DataFrame({"a": [True, False], "b": np.array([1, 2], np.int8), "c": np.array([1, 2], np.uint64)})

    np.testing.assert_array_equal([[1, 1, 1], [0, 2, 2]], _rows(frame))


def test_a_wrong_cell_of_a_dataframe_is_named() -> None:
    """A cell of a DataFrame that is not a number is named like a cell of a file."""
    with pytest.raises(TableError, match="the DataFrame, row 2, column \"b\": 'x' is not a number") as caught:
        open_table(pd.DataFrame({"a": [1, 2, 3], "b": ["1", "2", "x"]}))

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
