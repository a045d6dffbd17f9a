"""DataFrames of pandas and polars, and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.tables.base import Piece, Table, fingerprint_table
from ruo.tables.cells import CellError, cell_error, is_number, why_unfit

if TYPE_CHECKING:
    import pandas as pd

_ROWS_PER_PIECE = 20_000  # about 5 MB of 64 float32 features


class FrameTable(Table):
    """A DataFrame in memory."""

    def __init__(self, name: str, frame: pl.LazyFrame, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = name
        with self._damage_named():
            schema = frame.collect_schema()
            rows: int = frame.select(pl.len()).collect().item()
        self._whole = frame
        if shard:
            span = self._set_span(shard, rows, "row", lambda part: part * rows // shard[1])
            frame, rows = frame.slice(span.begin, span.end - span.begin), span.end - span.begin
        self.rows = rows
        self._set_columns(schema.names(), label_prefix)
        self._frame = frame
        for column in self.features:
            if not (schema[column].is_numeric() or schema[column] == pl.Boolean):
                with self._damage_named():
                    raise self._not_numeric(column, schema[column])

    def fingerprint(self) -> str:
        """The SHA-256 of the column names, types and cells."""
        return fingerprint_table(self._whole.collect())

    def _not_numeric(self, column: str, dtype: pl.DataType) -> TableError:
        if isinstance(dtype, (pl.String, pl.Categorical, pl.Enum)):
            for row, cell in enumerate(self._frame.select(column).collect().to_series()):
                if cell is not None and not is_number(cell.strip()):
                    return cell_error(f"{self.name}, row {row:,}", row, column, cell, "is not a number")
        message = (
            f'{self.name}, column "{column}" has the type {dtype}; convert it to numbers, or leave the column out.'
        )
        return TableError(message, column=column)

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        for frame in self._frames():
            try:
                yield self._piece(frame, dtype)
            except CellError as error:
                position, column = error.args[0], self.features[error.args[1]]
                row, value = self._read_rows + position, frame[column][position]
                cell = "" if value is None else str(value)
                raise cell_error(f"{self.name}, row {row:,}", row, column, cell, why_unfit(cell, dtype)) from None

    def _frames(self) -> Iterator[pl.DataFrame]:
        return self._frame.collect().iter_slices(_ROWS_PER_PIECE)  # already in memory, nothing is copied


class ParquetTable(FrameTable):
    """A Parquet file."""

    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        # an absolute path, without globs: polars takes every other one for a pattern, a home folder or an address
        super().__init__(path.name, pl.scan_parquet(path.absolute(), glob=False), label_prefix, shard)
        self._path = path

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return fingerprint(self._path)

    def _frames(self) -> Iterator[pl.DataFrame]:
        return self._frame.collect_batches(chunk_size=_ROWS_PER_PIECE, maintain_order=True)


def from_pandas(frame: pd.DataFrame) -> pl.DataFrame:
    """A pandas DataFrame in polars, without copies where possible; `polars.from_pandas` would need pyarrow."""
    columns: dict[str, Any] = {}
    for label, column in frame.items():
        name = _text(label)
        dtype: Any = column.dtype
        if name in columns:
            raise TableError(f"the DataFrame has the column {name!r} twice; give each column its own name.")
        is_numeric, is_numpy = getattr(dtype, "kind", "O") in "biuf", isinstance(dtype, np.dtype)
        if is_numeric and is_numpy and dtype.itemsize <= 8:  # polars has no longdouble
            columns[name] = column.to_numpy()
        elif is_numeric and hasattr(dtype, "numpy_dtype"):  # pandas' nullable numbers
            values = pl.Series(column.to_numpy(dtype=dtype.numpy_dtype, na_value=0))
            columns[name] = values.set(pl.Series(column.isna().to_numpy()), None)
        else:
            cells = [None if is_null else _text(cell) for cell, is_null in zip(column, column.isna(), strict=True)]
            columns[name] = pl.Series(cells, dtype=pl.String)
    return pl.DataFrame(columns)


def _text(value: object) -> str:
    return str(value).encode(errors="replace").decode()  # half of a surrogate pair has no UTF-8
