"""From a path or a DataFrame to its `Table`."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl

from ruo.errors import TableError
from ruo.table.base import Source, Table
from ruo.table.csv import CsvTable
from ruo.table.frames import FrameTable, ParquetTable, from_pandas

__all__ = ["open_table"]


def open_table(source: Source, label_prefix: str = "Label_", shard: tuple[int, int] | None = None) -> Table:
    """Open a table; its rows are not read yet.

    Parameters
    ----------
    source : path, pandas.DataFrame or polars.DataFrame
        A CSV, gzipped CSV or Parquet file, or a DataFrame.
    label_prefix : str
        Columns whose names start with it are labels, all others are features.
    shard : (int, int), optional
        (i, n) opens only the i-th of n even parts, counted from 0.

    Raises
    ------
    TableError
        For a missing or empty file, a table without feature columns, and a feature column that does not hold numbers.

    Examples
    --------
    >>> import polars as pl
    >>> [block] = open_table(pl.DataFrame({"x": [0.5, 2.0], "Label_y": [0, 1]})).blocks(None)
    >>> block.features.tolist(), block.labels.tolist()
    ([[0.5], [2.0]], [0, 1])
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise TableError(f"{path} {what}; pass the path of a CSV or Parquet file.")
        if path.name.endswith((".parquet", ".pq")):
            return ParquetTable(path, label_prefix, shard)
        return CsvTable(path, label_prefix, shard)
    if isinstance(source, pl.DataFrame):
        return FrameTable("the DataFrame", source.lazy(), label_prefix, shard)
    if type(source).__module__.startswith("pandas") and hasattr(source, "columns"):
        return FrameTable("the DataFrame", from_pandas(source).lazy(), label_prefix, shard)
    raise TableError(f"A {type(source).__name__} is not a table; pass a path or a pandas or polars DataFrame.")
