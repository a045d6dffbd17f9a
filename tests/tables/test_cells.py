"""Cells as values of the model's datatype: exactly, or an error that names the cell."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables.csvtext import PIECE_BYTES
from ruo.wire.v2 import DATATYPES
from tests.tables.forms import FORMS, as_form, read_rows, write_csv

ALL_FORMS = [*FORMS, "nullable"]


def _table(tmp_path: Path, form: str, values: list[Any], dtype: pl.DataType) -> Any:
    """A table of one column "a"."""
    return as_form(pl.DataFrame({"a": pl.Series(values, dtype=dtype)}), form, tmp_path)


def _read(source: Any, dtype: Any) -> np.ndarray:
    return read_rows(source, dtype=dtype)[:, 0]


def _csv(tmp_path: Path, *cells: str) -> Path:
    return write_csv(tmp_path, "a,b\n" + "".join(f"{cell},1\n" for cell in cells))


@pytest.mark.parametrize("form", [*ALL_FORMS, "array"])
def test_a_half_is_the_nearest_one(tmp_path: Path, form: str) -> None:
    """A float16 is rounded once: by way of float32, these would end one step lower or higher."""
    values = [70.03125007003125, 0.31628417937121583, 737.25000073725, 65519.999, 1e9]
    source = _table(tmp_path, form, values, pl.Float64())
    np.testing.assert_array_equal([70.0625, 0.316162109375, 737.5, 65504, np.inf], _read(source, np.float16))


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_keeps_its_extremes(tmp_path: Path, form: str, datatype: str) -> None:
    """The least and the greatest value of a type, and those that float32 would round, arrive digit by digit."""
    dtype = DATATYPES[datatype]
    if dtype.kind == "f":
        limits, column = np.finfo(dtype), pl.Float64()
        values = [float(limits.min), float(limits.max), float(dtype.type(0.1)), float(limits.tiny)]
    elif dtype.kind == "b":
        values, column = [0, 1], pl.UInt8()
    else:
        limits, column = np.iinfo(dtype), pl.Series(np.empty(0, dtype)).dtype
        values = [limits.min, limits.max, limits.max - 2, *(x for x in (16_777_217, 2**62 + 1) if x <= limits.max)]

    assert _read(_table(tmp_path, form, values, column), dtype).tolist() == values


def test_a_number_may_be_written_in_other_ways(tmp_path: Path) -> None:
    """`3.0`, `1e3` and a number with blanks around it are whole numbers, whatever their size."""
    cells = ["3.0", "1e3", " 7 ", "9007199254740993.0", "-0.0", "4.611686018427387905e18", "+5"]
    expected = [3, 1000, 7, 2**53 + 1, 0, 2**62 + 1, 5]
    assert _read(_csv(tmp_path, *cells), np.int64).tolist() == expected
    assert _read(_csv(tmp_path, "1.0", "0", "1e0", " 0 "), np.bool_).tolist() == [True, False, True, False]


def test_another_notation_may_begin_in_a_later_piece(tmp_path: Path) -> None:
    """Whole numbers first, and far below one with a point: none is changed."""
    count = 2 * PIECE_BYTES // len("16777217,1\n")
    path = _csv(tmp_path, *["16777217"] * count, "16777219.0", *["16777221"] * count)
    expected = np.repeat([16777217, 16777219, 16777221], [count, 1, count])
    np.testing.assert_array_equal(expected, _read(path, np.int64))


@pytest.mark.parametrize(
    ("cell", "dtype", "why"),
    [
        ("1.5", "int64", "'1.5' is not a whole number, which int64 needs"),
        ("300", "uint8", "'300' is out of the range of uint8, 0 to 255"),
        ("-1", "uint8", "'-1' is out of the range of uint8, 0 to 255"),
        ("9223372036854775808", "int64", "'9223372036854775808' is out of the range of int64"),
        ("1e30", "int32", "'1e30' is out of the range of int32"),
        ("1e400", "int64", "'1e400' is out of the range of int64"),
        ("2", "bool", "'2' is out of the range of bool, 0 to 1"),
        ("2.0", "bool", "'2.0' is out of the range of bool"),
        ("", "int64", "an empty cell is not a whole number"),
        ("NaN", "int64", "'NaN' is not a whole number"),
        ("inf", "uint8", "'inf' is not a whole number"),
        ("", "bool", "an empty cell is not a whole number"),
        ("1_000", "int64", "'1_000' is not a number"),
        ("x", "int16", "'x' is not a number"),
        ("sNaN", "float32", "'sNaN' is not a number"),
        ("1e99999999999999999999", "int64", "'1e99999999999999999999' is not a number"),
    ],
)
def test_a_cell_that_the_datatype_cannot_hold_is_named(tmp_path: Path, cell: str, dtype: str, why: str) -> None:
    """The error of a CSV names the row, the column, the cell, the reason and the cure."""
    place = re.escape(f'table.csv, row 1 (line 3), column "a": {why}')
    with pytest.raises(TableError, match=f"{place}.*; mend the cell, or leave the column out") as caught:
        _read(_csv(tmp_path, "1", cell, "1"), np.dtype(dtype))
    assert (caught.value.row, caught.value.column) == (1, "a")


@pytest.mark.parametrize("form", ["parquet", "pandas", "polars", "array"])
@pytest.mark.parametrize(
    ("value", "column", "dtype", "why"),
    [
        (1.5, pl.Float64(), "int64", "'1.5' is not a whole number"),
        (math.nan, pl.Float64(), "int64", "'nan' is not a whole number"),
        (2.0**63, pl.Float64(), "int64", "is out of the range of int64"),
        (2**63, pl.UInt64(), "int64", "'9223372036854775808' is out of the range of int64"),
        (300, pl.Int64(), "uint8", "'300' is out of the range of uint8"),
        (2, pl.Int64(), "bool", "'2' is out of the range of bool"),
    ],
)
def test_a_value_of_a_frame_that_does_not_fit_is_named(
    tmp_path: Path, form: str, value: float, column: pl.DataType, dtype: str, why: str
) -> None:
    """Frames, arrays and Parquet files name the row, the column, the value and the reason, over all pieces."""
    values, name = [1] * 50_000 + [value, 1], "0" if form == "array" else "a"
    with pytest.raises(TableError, match=f'row 50,000, column "{name}": .*{why}') as caught:
        _read(_table(tmp_path, form, values, column), np.dtype(dtype))
    assert (caught.value.row, caught.value.column) == (50_000, name)


def test_frames_become_whole_numbers_or_their_first_fault_is_named() -> None:
    """Whole values of floats and truth values convert; NA and null are empty cells; the first row at fault counts."""
    frame = pl.DataFrame({"a": [2.0**62, 3.0], "b": [True, False]})
    assert read_rows(frame, dtype=np.int64).tolist() == [[2**62, 1], [3, 0]]
    for source in (pd.DataFrame({"a": pd.array([1, None], "Int64")}), pl.DataFrame({"a": [1, None]})):
        with pytest.raises(TableError, match='row 1, column "a": an empty cell is not a whole number'):
            _read(source, np.int64)
        assert np.isnan(_read(source, np.float32)[1])
    with pytest.raises(TableError, match='row 1, column "b"'):
        _read(pl.DataFrame({"a": [1.0, 2.0, 0.5], "b": [1.0, 0.5, 1.0]}), np.int64)


def test_infinities_of_the_table_are_kept(tmp_path: Path) -> None:
    """An infinity or NaN that stands in the table is no fault in any spelling, and an empty cell is NaN."""
    cells = ["1", "inf", "Infinity", "-Infinity", "NaN", ""]
    values = [1, np.inf, np.inf, -np.inf, np.nan, np.nan]
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(values, _read(_csv(tmp_path, *cells), dtype))
        np.testing.assert_array_equal(values, _read(pl.DataFrame({"a": [*values[:-1], None]}, strict=False), dtype))


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize(("value", "dtype"), [(1e39, "float32"), (-70_000, "float16")])
def test_a_number_beyond_a_floating_point_type_is_infinite(tmp_path: Path, form: str, value: float, dtype: str) -> None:
    """It becomes the infinity of its sign in every form of table, also beside another notation."""
    source = _table(tmp_path, form, [1, value], pl.Float64() if value == 1e39 else pl.Int64())
    np.testing.assert_array_equal([1, np.copysign(np.inf, value)], _read(source, np.dtype(dtype)))
    np.testing.assert_array_equal([np.inf, 1, np.inf], _read(_csv(tmp_path, "1e400", "1 ", '" 1e39"'), np.float32))
