"""The class of each row: one-hot columns, or one column of numbers or names."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.tables.cells import CellError, as_numbers
from ruo.wire.messages import Array

# (rows,) int64 class indices, or objects: class names, None where there is none
Labels: TypeAlias = np.ndarray[Any, Any]

NO_LABEL = -1  # marks a row whose label columns do not name exactly one class


def number_classes(labels: Labels, classes: Sequence[str] | None = None) -> tuple[Labels, list[str] | None]:
    """Labels as class indices, and the names: those of `classes`, else in sorted order; None where labels are numbers."""
    if labels.dtype != np.object_:
        return labels, list(classes) if classes is not None else None
    names = sorted({name for name in labels if name is not None}) if classes is None else list(classes)
    index: dict[str | None, int] = {None: NO_LABEL, **{name: number for number, name in enumerate(names)}}
    try:
        return np.fromiter((index[name] for name in labels), np.int64, len(labels)), names
    except KeyError as error:
        raise TableError(f"The label {error} is none of the classes {', '.join(names)[:200]}; name it too.") from None


def names_of_labels(outputs: Sequence[str], columns: Sequence[str] | None) -> dict[int, str]:
    """The class that each label number means, where the outputs have these names.

    It numbers the one-hot columns, which keep their names unless those of all outputs are others. Else it is the place of
    an output; but where the outputs' names are such numbers themselves, it is the name.
    """
    by_place = dict(enumerate(outputs))
    if columns is not None:
        are_renamed = len(columns) == len(outputs) and set(columns).isdisjoint(outputs)
        return by_place if are_renamed else dict(enumerate(columns))
    numbers = class_indices(pl.DataFrame({"": list(outputs)}, {"": pl.String}))
    by_name = {} if NO_LABEL in numbers else dict(zip(numbers.tolist(), outputs, strict=True))
    return by_name if by_name.keys() & by_place.keys() else by_place


def class_indices(columns: pl.DataFrame) -> Labels:
    """One-hot columns, or one column of whole numbers, as (rows,) class indices; `NO_LABEL` for no class or several."""
    first, *others = (_numbers(column) for column in columns.iter_columns())
    if not others:
        whole = (first >= 0) & (first == np.floor(first)) & (first < 2**24)
        return np.where(whole, first, NO_LABEL).astype(np.int64)
    index, count, valid = np.zeros(len(first), np.int32), np.zeros(len(first), np.int32), np.ones(len(first), np.bool_)
    for position, column in enumerate([first, *others]):  # column by column, as they lie in memory
        hot = column == 1
        index += np.int32(position) * hot
        count += hot
        valid &= hot | (column == 0)
    return np.where(valid & (count == 1), index, NO_LABEL).astype(np.int64)


def labels_of(column: Any, are_names: bool | None) -> Labels:
    """A polars column of class numbers as indices, or of anything else as names; a missing cell is `NO_LABEL` or None.

    `are_names` says what the rows above have, if there are any; raises CellError for a name below numbers.
    """
    kinds = pl.String | pl.Categorical | pl.Enum | pl.Boolean | pl.Null | pl.Date | pl.Datetime | pl.Time
    if not (column.dtype.is_numeric() or isinstance(column.dtype, kinds)):
        raise TableError(f'The label column "{column.name}" has the type {column.dtype}; make it text or numbers.')
    column = column.fill_nan(None) if column.dtype.is_float() else column  # what pandas has for a missing cell
    names = column.cast(pl.String).str.strip_chars().replace("", None)
    indices = class_indices(column.to_frame())
    are_others = names.is_not_null().to_numpy() & (indices == NO_LABEL)
    if not are_names and not are_others.any():
        return indices
    if are_names is False:
        row = int(are_others.argmax())
        why, cure = "is no whole number, as those above are", "give all classes names, or all of them numbers"
        raise CellError(row, column.name, names[row], why, cure)
    each = names.drop_nulls().unique()
    codes = names.cast(pl.Enum(each)).to_physical().cast(pl.Int64).fill_null(-1)
    named: Labels = np.array([*each, None], np.object_)[codes.to_numpy()]
    return named


def _numbers(column: pl.Series) -> Array:
    if isinstance(column.dtype, pl.String | pl.Categorical | pl.Enum):
        column = as_numbers(column.cast(pl.String))
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String):
        return column.cast(pl.Float32, strict=False).to_numpy()
    return np.full(len(column), np.nan, np.float32)  # polars would make numbers of dates and structs
