"""Cells as values of the model's datatype.

An integer type holds exactly the numbers of the table. A floating-point type holds the nearest values, which beyond its
range are infinities.
"""

import re
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.wire.messages import Array

MISSING = {"", "?", "-", ".", "na", "n/a", "#n/a", "<na>", "nan", "nil", "null", "none", "\\n"}  # in any case
NO_NUMBER = "is not a number"
_MEND = "mend the cell, or leave the column out"
_WITH_COMMA = re.compile(r"[+-]?[\d.]*,[\d.,]*\d")


class CellError(ValueError):
    """A cell that cannot be read as it is: its row within the frame, its column, its text, and what is wrong."""

    def __init__(self, row: int, column: str, cell: str | None, why: str, cure: str = _MEND) -> None:
        super().__init__(why)
        self.row, self.column, self.cell, self.why, self.cure = row, column, cell or "", why, cure

    def named(self, where: str, start: int) -> TableError:
        """The error for the user; `where` names the table and the row, `start` is the first row of the frame."""
        shown, text, cure = repr(self.cell[:40]) if self.cell else "an empty cell", self.cell.strip(), self.cure
        if self.why == NO_NUMBER and text.lower() in MISSING:
            cure = f"if it means a missing number, pass null_values=[{text!r}]; else {cure}"
        elif self.why == NO_NUMBER and _WITH_COMMA.fullmatch(text):
            cure = "if its comma is the decimal point, pass pandas.read_csv(..., decimal=',') in place of the path"
            cure += ", or thousands=',' if it stands between thousands"
        message = f'{where}, column "{self.column}": {shown} {self.why}; {cure}.'
        return TableError(message, row=start + self.row, column=self.column)


def polars_type(dtype: np.dtype[Any]) -> pl.DataType:
    """The polars datatype to read a numpy one with; for a float16 from numbers, polars would round twice."""
    return pl.Float64() if dtype == np.float16 else pl.Series(np.empty(0, dtype)).dtype


def to_array(frame: pl.DataFrame, dtype: np.dtype[Any]) -> Array:
    """Columns of numbers, or of text, as (rows, columns) in C order; raises CellError for the first unfit cell.

    For `object`, the cells are bytes: their text in UTF-8 as pandas writes it to a CSV, empty where a cell is missing.
    """
    if dtype == np.object_:
        texts = pl.DataFrame([_text(column).cast(pl.String).fill_null("") for column in frame.iter_columns()])
        return texts.cast(pl.Binary).to_numpy(order="c")
    if dtype == np.float16:
        with np.errstate(over="ignore"):
            return to_array(frame, np.dtype(np.float64)).astype(dtype)
    kind, kinds = polars_type(dtype), set(frame.dtypes)
    if kind.is_float() and pl.String not in kinds:
        return (frame if kinds == {kind} else frame.cast(kind)).to_numpy(order="c")
    columns = [_convert(column, dtype) for column in frame.iter_columns()]
    masks = [_unfit(before, after) for before, after in zip(frame.iter_columns(), columns, strict=True)]
    unfit = [(int(mask.arg_true()[0]), place) for place, mask in enumerate(masks) if mask.any()]
    if unfit:
        row, place = min(unfit)
        value = frame[row, place]
        cell = "" if value is None else str(value)
        raise CellError(row, frame.columns[place], cell, why_unfit(as_numbers(pl.Series([cell]))[0], dtype))
    return pl.DataFrame(columns).to_numpy(order="c")


def _text(column: pl.Series) -> pl.Series:
    if column.dtype == pl.Boolean:
        return column.replace_strict({True: "True", False: "False"}, return_dtype=pl.String)
    if column.dtype.is_float():
        return pl.Series(column.name, column.to_numpy().astype(np.str_)).replace("nan", None)
    return column


def as_numbers(text: pl.Series) -> pl.Series:
    """Cells without the blanks around them, and `True` and `False`, as pandas and polars write them, as 1 and 0."""
    text = text.str.strip_chars()
    return text.str.replace("^(?:True|true|TRUE)$", "1").str.replace("^(?:False|false|FALSE)$", "0")


def why_unfit(text: str, dtype: np.dtype[Any]) -> str:
    """Why a datatype of numbers cannot hold what `as_numbers` gave, as the end of a sentence; empty if it can."""
    if text and not is_number(text):
        return NO_NUMBER
    if dtype.kind == "f":
        return ""
    number = Decimal(text or "NaN")
    if not number.is_finite() or number != number.to_integral_value():
        return f"is not a whole number, which {dtype} needs"
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return "" if limits[0] <= number <= limits[1] else f"is out of the range of {dtype}, {limits[0]} to {limits[1]}"


def is_number(text: str) -> bool:
    """Whether every CSV reader takes the text for a number."""
    try:
        float(text), Decimal(text)
    except (ValueError, ArithmeticError):
        return False
    return text.isascii() and "_" not in text  # Python reads 1_000 as a number, other readers do not


def _convert(column: pl.Series, dtype: np.dtype[Any]) -> pl.Series:
    """The column in the datatype, null where a cell is not a number or an integer type cannot hold it."""
    kind = polars_type(dtype)
    if column.dtype != pl.String:
        return column.cast(kind, strict=False)
    text = as_numbers(column)
    if kind.is_float():
        return text.cast(kind, strict=False)
    numbers = text.str.replace(r"\.0*$", "").cast(pl.UInt8 if kind == pl.Boolean else kind, strict=False)
    if numbers.null_count():  # another notation, such as 1e3, or an unfit cell
        cells = zip(text, numbers, strict=True)
        values = [
            int(Decimal(cell)) if number is None and not why_unfit(cell or "", dtype) else number
            for cell, number in cells
        ]
        numbers = pl.Series(column.name, values, numbers.dtype)
    return numbers.set(numbers > 1, None).cast(kind) if kind == pl.Boolean else numbers


def _unfit(before: pl.Series, after: pl.Series) -> pl.Series:
    """True where a value is lost or changed."""
    is_text = before.dtype == pl.String
    if after.dtype.is_float():
        return (after.is_null() & (is_text and before.str.strip_chars() != "")).fill_null(value=False)
    restored = after.cast(pl.UInt8) if after.dtype == pl.Boolean != before.dtype else after
    changed = False if is_text else restored.cast(before.dtype) != before
    return (after.is_null() | changed).fill_null(value=True)
