"""DataFrames of pandas and polars, and Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ruo.errors import TableError
from ruo.provenance import fingerprint
from ruo.table.base import Table, fingerprint_table
from ruo.table.blocks import Piece
from ruo.table.cells import CellError, cell_error, why_unfit

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FrameTable", "ParquetTable", "from_pandas"]

_ROWS_PER_PIECE = 20_000  # about 5 MB of 64 float32 features


class FrameTable(Table):
    """A DataFrame in memory."""

    def __init__(self, name: str, frame: pl.LazyFrame, label_prefix: str, shard: tuple[int, int] | None) -> None:
        self.name = name
        try:
            schema = frame.collect_schema()
            rows: int = frame.select(pl.len()).collect().item()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise TableError(f"{name} cannot be read: {str(error).splitlines()[0]}.") from error
        self._whole = frame
        if shard:
            span = self._set_span(shard, rows, "row", lambda part: part * rows // shard[1])
            frame, rows = frame.slice(span.begin, span.end - span.begin), span.end - span.begin
        self.rows = rows
        self._set_columns(schema.names(), label_prefix)
        self._frame = frame
        for column in self.features:
            if not (schema[column].is_numeric() or schema[column] == pl.Boolean):
                raise self._not_numeric(column, str(schema[column]))

    def fingerprint(self) -> str:
        """The SHA-256 of the column names, types and cells."""
        return fingerprint_table(self._whole.collect())

    def _not_numeric(self, column: str, dtype: str) -> TableError:
        numbers = pl.col(column).cast(pl.String, strict=False).cast(pl.Float64, strict=False)
        rows = self._frame.with_row_index("_ruo_row").filter(numbers.is_null() & pl.col(column).is_not_null())
        bad = rows.select("_ruo_row", column).head(1).collect()
        if bad.is_empty():
            message = f'{self.name}, column "{column}" has the type {dtype}; convert it to numbers.'
            return TableError(message, column=column)
        row, value = bad.row(0)
        return cell_error(f"{self.name}, row {row:,}", row, column, str(value), "is not a number")

    def _pieces(self, dtype: np.dtype[Any]) -> Iterator[Piece]:
        start = 0
        for frame in self._frames():
            try:
                yield self._piece(frame, dtype)
            except CellError as error:
                row, column = start + error.row, self.features[error.column]
                value = frame[column][error.row]
                cell = "" if value is None else str(value)
                raise cell_error(f"{self.name}, row {row:,}", row, column, cell, why_unfit(cell, dtype)) from None
            start += frame.height

    def _frames(self) -> Iterator[pl.DataFrame]:
        frame = self._frame.collect()  # already in memory, nothing is copied
        return (frame.slice(start, _ROWS_PER_PIECE) for start in range(0, frame.height, _ROWS_PER_PIECE))


class ParquetTable(FrameTable):
    """A Parquet file."""

    def __init__(self, path: Path, label_prefix: str, shard: tuple[int, int] | None) -> None:
        super().__init__(path.name, pl.scan_parquet(path), label_prefix, shard)
        self._path = path

    def fingerprint(self) -> str:
        """The SHA-256 of the file."""
        return fingerprint(self._path)

    def _frames(self) -> Iterator[pl.DataFrame]:
        return self._frame.collect_batches(chunk_size=_ROWS_PER_PIECE, maintain_order=True)


def from_pandas(frame: pd.DataFrame) -> pl.DataFrame:
    """A pandas DataFrame in polars, without copies where possible; `polars.from_pandas` would need pyarrow."""
    columns: dict[str, Any] = {}
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position]
        if str(name) in columns:
            raise TableError(f"the DataFrame has the column {name!r} twice; give each column its own name.")
        dtype: Any = column.dtype
        kind = getattr(dtype, "kind", "O")
        if kind in "biuf" and not isinstance(dtype, np.dtype):  # pandas' nullable numbers
            values = pl.Series(column.to_numpy(dtype=dtype.numpy_dtype, na_value=0))
            columns[str(name)] = values.set(pl.Series(column.isna().to_numpy()), None)
        elif kind in "biuf":
            columns[str(name)] = column.to_numpy()
        else:
            columns[str(name)] = pl.Series([None if cell is None else str(cell) for cell in column], dtype=pl.String)
    return pl.DataFrame(columns)
