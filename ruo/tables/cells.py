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
    columns, errors = [], []
    for column in frame.iter_columns():
        try:
            columns.append(_convert(column, dtype))
        except CellError as error:
            errors.append(error)
    if errors:
        raise min(errors, key=lambda error: error.row)
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
    """The column in the datatype; raises CellError for its first unfit cell."""
    kind, is_text = polars_type(dtype), column.dtype == pl.String
    is_float = kind.is_float()
    if is_float and not is_text:
        return column.cast(kind)
    cells = as_numbers(column) if is_text else column
    digits = cells.str.replace(r"\.0*$", "") if is_text and not is_float else cells
    numbers = digits.cast(pl.UInt8 if kind == pl.Boolean else kind, strict=False)
    in_doubt = numbers.is_null() & (cells != "") if is_float else numbers.is_null()
    if not is_text:
        in_doubt |= numbers.cast(column.dtype) != column
    if kind == pl.Boolean:
        in_doubt |= numbers > 1
    rows, values = in_doubt.arg_true(), []
    for row, cell in zip(rows, cells.gather(rows), strict=True):  # unfit, or in another notation, such as 1e3
        text = "" if cell is None else str(cell)
        if why := why_unfit(text, dtype):
            raise CellError(row, column.name, column[row] if is_text else text, why)
        values.append(float(text) if is_float else int(Decimal(text)))
    return numbers.scatter(rows, pl.Series(values, dtype=numbers.dtype)).cast(kind) if values else numbers.cast(kind)
