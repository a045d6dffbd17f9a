"""Cells as values of the model's datatype.

An integer type holds exactly the numbers of the table. A floating-point type holds the nearest values, which beyond its
range are infinities.
"""

from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.wire.messages import Array


class CellError(ValueError):
    """The datatype cannot hold a cell; `args` are the positions of its row and column within the frame."""


def polars_type(dtype: np.dtype[Any]) -> pl.DataType:
    """The polars datatype for a numpy one."""
    return pl.Series(np.empty(0, dtype)).dtype


def to_array(frame: pl.DataFrame, dtype: np.dtype[Any]) -> Array:
    """Columns of numbers, or of text, as (rows, columns) in C order; raises CellError for the first unfit cell."""
    kind, kinds = polars_type(dtype), set(frame.dtypes)
    if kind.is_float() and pl.String not in kinds:
        return (frame if kinds == {kind} else frame.cast(kind)).to_numpy(order="c")
    columns = [_convert(column, dtype) for column in frame.iter_columns()]
    masks = [_unfit(before, after) for before, after in zip(frame.iter_columns(), columns, strict=True)]
    unfit = [(int(mask.arg_true()[0]), column) for column, mask in enumerate(masks) if mask.any()]
    if unfit:
        raise CellError(*min(unfit))
    return pl.DataFrame(columns).to_numpy(order="c")


def _convert(column: pl.Series, dtype: np.dtype[Any]) -> pl.Series:
    """The column in the datatype, null where a cell is not a number or an integer type cannot hold it."""
    kind = polars_type(dtype)
    if column.dtype != pl.String:
        return column.cast(kind, strict=False)
    text = column.str.strip_chars()
    if kind.is_float():
        return text.cast(kind, strict=False)
    numbers = text.str.replace(r"\.0*$", "").cast(pl.UInt8 if kind == pl.Boolean else kind, strict=False)
    if numbers.null_count():  # another notation, such as 1e3, or an unfit cell
        cells = zip(text, numbers, strict=True)
        values = [_whole(cell, dtype) if number is None else number for cell, number in cells]
        numbers = pl.Series(column.name, values, numbers.dtype)
    return numbers.set(numbers > 1, None).cast(kind) if kind == pl.Boolean else numbers


def _unfit(before: pl.Series, after: pl.Series) -> pl.Series:
    """True where a value is lost or changed."""
    is_text = before.dtype == pl.String
    if after.dtype.is_float():
        return (after.is_null() & (before.str.strip_chars() != "")).fill_null(value=False)
    changed = False if is_text else after.cast(before.dtype) != before
    return (after.is_null() | changed).fill_null(value=True)


def _whole(cell: str | None, dtype: np.dtype[Any]) -> int | None:
    return None if why_unfit(cell or "", dtype) else int(Decimal(cell or ""))


def why_unfit(cell: str, dtype: np.dtype[Any]) -> str:
    """Why the datatype cannot hold a cell, as the end of a sentence; empty if it can."""
    text = cell.strip()
    if text and not is_number(text):
        return "is not a number"
    if dtype.kind == "f":
        return ""
    number = Decimal(text or "NaN")
    if not number.is_finite() or number != number.to_integral_value():
        return f"is not a whole number, which {dtype} needs"
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return "" if limits[0] <= number <= limits[1] else f"is out of the range of {dtype}, {limits[0]} to {limits[1]}"


def cell_error(where: str, row: int, column: str, cell: str, why: str) -> TableError:
    """The error for a cell; `where` names the table and the row."""
    shown = repr(cell[:40]) if cell else "an empty cell"
    message = f'{where}, column "{column}": {shown} {why}; mend the cell, or leave the column out.'
    return TableError(message, row=row, column=column)


def is_number(text: str) -> bool:
    """Whether every CSV reader takes the text for a number."""
    try:
        float(text), Decimal(text)
    except (ValueError, ArithmeticError):
        return False
    return text.isascii() and "_" not in text  # Python reads 1_000 as a number, other readers do not
