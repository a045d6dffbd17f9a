"""Any table to blocks of rows, in row order and in bounded memory; knows nothing of models, servers or HTTP.

A `Piece` is what one read returns: megabytes of a file, 20,000 rows of a DataFrame. A `Block` holds the same rows, cut
to the request size. A `Chunk` (`ruo.client.records`) is a block encoded for the wire.
"""

import os
from pathlib import Path

import polars as pl

from ruo.errors import TableError
from ruo.tables.base import NO_LABEL, Block, Labels, Source, Span, Table, class_indices, fingerprint_table
from ruo.tables.csv import CsvTable
from ruo.tables.frames import FrameTable, ParquetTable, from_pandas

__all__ = ["NO_LABEL", "Block", "Labels", "Source", "Span", "Table", "class_indices", "fingerprint_table", "open_table"]


def open_table(source: Source, label_prefix: str = "Label_", shard: tuple[int, int] | None = None) -> Table:
    """Open a table without reading its rows; raises TableError for what is missing, empty or not numeric."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise TableError(f"{path} {what}; pass the path of a CSV or Parquet file.")
        return (ParquetTable if path.suffix.lower() in (".parquet", ".pq") else CsvTable)(path, label_prefix, shard)
    if isinstance(source, pl.DataFrame):
        frame, index = source, None
    elif type(source).__module__.startswith("pandas") and hasattr(source, "columns"):
        frame, index = from_pandas(source), source.index
    else:
        raise TableError(f"A {type(source).__name__} is not a table; pass a path or a pandas or polars DataFrame.")
    table = FrameTable("the DataFrame", frame.lazy(), label_prefix, shard)
    if index is not None:
        table.index = index[table.span.begin : table.span.end] if table.span else index
    return table
