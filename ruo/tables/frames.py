"""Frames in memory, lazy frames, Parquet files, and iterables of frames."""

from __future__ import annotations

import hashlib
import itertools
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ruo.errors import ArgumentError, TableError
from ruo.tables.base import POLARS_ERRORS, Block, Shard, Table, Types
from ruo.tables.cells import NO_NUMBER, CellError, is_number, to_array
from ruo.tables.columns import clean_names, counted
from ruo.tables.options import TableOptions
from ruo.wire.messages import Array

if TYPE_CHECKING:
    import pandas as pd

_ROWS_PER_PIECE = 20_000  # about 5 MB of 64 float32 features
_CELLS_PER_PIECE = 4 << 20  # of which images and other wide rows are fewer
# What polars says of a step whose rows come in another order each time; all others keep the order
_UNORDERED = re.compile(
    r"maintain_order: false|JOIN:|SORT BY(?!.*maintain_order: true)|\.(shuffle|sample\w*|unique|value_counts|mode|\w+_k)\("
)
_PLAIN = (pl.Float32, pl.Float64, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)


class FrameTable(Table):
    """Rows from polars frames of any size."""

    def __init__(self, name: str, options: TableOptions) -> None:
        for option in ("separator", "header", "null_values", "encoding"):
            if getattr(options, option) != getattr(TableOptions, option):
                raise ArgumentError(f"{option} is for the text of a CSV file, and {name} is none; leave it out.")
        self.name = name

    def _frames(self) -> Iterator[pl.DataFrame]:
        raise NotImplementedError

    def _rows_per_piece(self) -> int:
        return max(1, min(_ROWS_PER_PIECE, _CELLS_PER_PIECE // len(self.names)))

    def _pieces(self, types: Types) -> Iterator[Block]:
        for frame in self._frames():
            for part in frame.iter_slices(self._rows_per_piece()):  # nothing is copied
                for column, dtype in types.items():
                    self._require_numeric(part[column], dtype)
                yield self._block(part, types)

    def _require_numeric(self, column: pl.Series, dtype: np.dtype[Any]) -> None:
        if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
            return
        is_text = isinstance(column.dtype, (pl.String, pl.Categorical, pl.Enum))
        if is_text and dtype == np.object_:
            return
        for row, cell in enumerate(column if is_text else ()):
            if cell is not None and not is_number(cell.strip()):
                raise CellError(row, column.name, cell, NO_NUMBER)
        what = f"has the type {column.dtype}; convert it to numbers"
        if is_text:  # or what was no number for pandas
            what = f'holds numbers as text or objects; convert it, as in astype({{"{column.name}": float}})'
        raise TableError(f'{self.name}, column "{column.name}" {what}, or leave the column out.', column=column.name)


class LazyTable(FrameTable):
    """A query, read in batches; a Parquet file if there is a `path`; or a frame in memory."""

    def __init__(
        self, source: pl.LazyFrame | pl.DataFrame, options: TableOptions, shard: Shard, path: Path | None = None
    ) -> None:
        super().__init__(path.name if path else f"the {type(source).__name__}", options)
        self.path, self._is_frame, frame = path, isinstance(source, pl.DataFrame), source.lazy()
        with self._errors_named():
            names = frame.collect_schema().names()
            if path or shard or self._is_frame:  # a query would run twice
                self.rows = frame.select(pl.len()).collect().item()
        new = clean_names(self.name, names)
        self._whole = self._frame = frame if new == names else frame.rename(dict(zip(names, new, strict=True)))
        if shard:
            self._require_order()
            span = self._set_span(shard, "row", self.rows or 0)
            self.rows = span.end - span.begin
            self._frame = self._whole.slice(span.begin, self.rows)
        self._set_columns(new, options)

    def _fingerprint(self) -> str:
        self._require_order()
        return _fingerprint(self._batches(self._whole))

    def _require_order(self) -> None:
        if not (self.path or self._is_frame) and _UNORDERED.search(self._whole.explain()):
            what = "may give its rows in another order each time, as joins, groups and sorts do"
            raise TableError(f"{self.name} {what}; write them to a Parquet file first, and pass that.")

    def _frames(self) -> Iterator[pl.DataFrame]:
        frame = self._frame.select(list(dict.fromkeys([*self.features, *self.labels, *self.kept])))
        return iter([frame.collect()]) if self._is_frame else self._batches(frame)  # a frame in memory is not copied

    def _batches(self, frame: pl.LazyFrame) -> Iterator[pl.DataFrame]:
        return frame.collect_batches(chunk_size=self._rows_per_piece(), maintain_order=True)


class ArrayTable(FrameTable):
    """A 2-D array of numbers, whose columns are numbered; polars would take seconds for those of an image."""

    def __init__(self, array: Array, options: TableOptions, shard: Shard) -> None:
        super().__init__("the array", options)
        _require_matrix(array)
        self._whole = self._array = np.asarray(array)  # of a matrix, a column would be a matrix as well
        if shard:
            span = self._set_span(shard, "row", len(array))
            self._array = array[span.begin : span.end]
        self.rows = len(self._array)
        self._set_columns(counted(array.shape[1]), options)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self._whole.dtype.str}{self._whole.shape}".encode())
        for part in self._slices(self._whole):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def _pieces(self, types: Types) -> Iterator[Block]:
        beside = list(dict.fromkeys([*self.labels, *self.kept]))
        array = self._array
        is_ready = array.flags.c_contiguous and self.features == self.names and {array.dtype} == {*types.values()}
        for part in [array] if is_ready else self._slices(array):  # where nothing is to be copied
            frame = pl.DataFrame({name: part[:, int(name)] for name in beside})
            yield self._block_of(frame, partial(self._features, part, types))

    def _slices(self, array: Array) -> Iterator[Array]:
        rows = self._rows_per_piece()
        return (array[start : start + rows] for start in range(0, len(array), rows))

    def _features(self, part: Array, types: Types, names: list[str]) -> Array:
        dtype = types[names[0]]
        chosen = part if names == self.names else part[:, [int(name) for name in names]]
        if dtype.kind != "f" and dtype != part.dtype:  # where a value may not fit
            return to_array(pl.DataFrame(dict(zip(names, chosen.T, strict=True))), dtype)
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(chosen, dtype)


class IterTable(FrameTable):
    """An iterable of frames, which is read once."""

    is_once = True

    def __init__(self, source: Iterable[Any], options: TableOptions) -> None:
        kind = type(source).__name__
        super().__init__(f"the {kind}", options)
        frames = iter(source)
        first = _required(next(frames, None), kind)
        self._source = itertools.chain([first], (_required(frame, kind) for frame in frames))
        self._old_names = first.columns
        self._set_columns(clean_names(self.name, first.columns), options)

    def _frames(self) -> Iterator[pl.DataFrame]:
        for frame in self._source:
            if frame.columns != self._old_names:
                what = f"the frame from row {self._read_rows:,} on has other columns than the first, or another order"
                raise TableError(f"{self.name}: {what} ({', '.join(frame.columns)[:99]}); give all frames the same.")
            yield frame.rename(dict(zip(self._old_names, self.names, strict=True)))


def as_frame(source: Any) -> pl.DataFrame | None:
    """A frame of pandas, an Arrow table or a 2-D array in polars, None for anything else."""
    if isinstance(source, pl.DataFrame):
        return source
    if is_pandas(source):
        return from_pandas(source)
    if isinstance(source, np.ndarray):
        _require_matrix(source)
        return pl.DataFrame(dict(zip(counted(source.shape[1]), source.T, strict=True)))
    if not (hasattr(source, "__arrow_c_stream__") or hasattr(source, "__arrow_c_array__")):
        return None
    try:
        return pl.DataFrame(source)
    except (pl.exceptions.SchemaError, ImportError):  # a single column; that of pandas needs pyarrow
        return None
    except POLARS_ERRORS as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise TableError(f"The Arrow table cannot be read ({reason}); rename, convert or drop the column.") from None


def _require_matrix(array: Array) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TableError("A masked array is not a table; fill its masked values, as in array.filled(numpy.nan).")
    if array.ndim != 2 or array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        kind = f"{array.ndim} dimensions and the type {array.dtype}"
        raise TableError(f"An array with {kind} is not a table; pass one of rows and columns of numbers.")


def is_pandas(source: object) -> bool:
    """Whether it is a DataFrame of pandas, or of a subclass, without importing pandas."""
    return "pandas" in sys.modules and isinstance(source, sys.modules["pandas"].DataFrame)


def from_pandas(frame: pd.DataFrame) -> pl.DataFrame:
    """A pandas DataFrame in polars, without copies where possible; `polars.from_pandas` would need pyarrow."""
    columns: dict[str, Any] = {}
    names = clean_names("the DataFrame", (_text(name, "replace") for name in frame.columns))
    for name, (_, column) in zip(names, frame.items(), strict=True):
        dtype: Any = getattr(column.dtype, "subtype", column.dtype)  # of a sparse column
        is_numeric, is_numpy = getattr(column.dtype, "kind", "O") in "biuf", isinstance(dtype, np.dtype)
        if is_numeric and is_numpy and dtype.itemsize <= 8:  # polars has no longdouble
            columns[name] = column.to_numpy()
        elif is_numeric and hasattr(dtype, "numpy_dtype"):  # pandas' nullable numbers
            values = pl.Series(column.to_numpy(dtype=dtype.numpy_dtype, na_value=dtype.numpy_dtype.type()))
            columns[name] = values.set(pl.Series(column.isna().to_numpy()), None)
        else:
            try:
                cells = [None if is_null else _text(cell) for cell, is_null in zip(column, column.isna(), strict=True)]
            except UnicodeDecodeError:
                what = f'The DataFrame, column "{name}" holds bytes that are not UTF-8'
                raise TableError(f"{what}; decode or drop them in pandas.", column=name) from None
            columns[name] = pl.Series(cells, dtype=pl.String)
    return pl.DataFrame(columns)


def _required(frame: Any, kind: str) -> pl.DataFrame:
    found = as_frame(frame.collect() if isinstance(frame, pl.LazyFrame) else frame)
    if found is None:
        what = "is empty, or gives None" if frame is None else "is not a table"
        raise TableError(f"A {kind} {what}; pass a path, a DataFrame, a query, a 2-D array, or an iterable of frames.")
    return found


def _fingerprint(frames: Iterator[pl.DataFrame]) -> str:
    """The SHA-256 of names, types and cells, however the rows are cut into frames."""
    digests: dict[str, tuple[Any, Any]] = {}
    for column in (column for frame in frames for column in frame.iter_columns()):
        values, nulls = digests.setdefault(f"{column.name}\0{column.dtype}", (hashlib.sha256(), hashlib.sha256()))
        nulls.update(column.is_null().to_numpy().tobytes())
        if not re.search("Categorical|Enum|Object", str(column.dtype)):  # whose numbers tell nothing
            column = column.to_physical()  # a cell of Python's lacks the nanoseconds of a time
        if column.dtype in _PLAIN:
            values.update(column.fill_null(0).to_numpy().tobytes())
            continue
        for cell in column.to_list():
            text = str(cell).encode()
            values.update(len(text).to_bytes(8, "little") + text)
    lines = (f"{name}\0{values.hexdigest()}{nulls.hexdigest()}\n" for name, (values, nulls) in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _text(value: object, errors: str = "strict") -> str:
    if isinstance(value, bytes):
        return value.decode(errors=errors)
    return str(value).encode(errors="replace").decode()  # half of a surrogate pair has no UTF-8
