"""One table in every form, and the rows that ruo reads of it."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from ruo.tables import Block, Source, open_table, table

FORMS = ["csv", "csv.gz", "parquet", "pandas", "polars"]


def as_form(frame: pl.DataFrame, form: str, folder: Path) -> Any:
    """The frame itself, as pandas has it, or the path of a file that holds it."""
    path = folder / f"table.{form}"
    if form == "csv":
        frame.write_csv(path)
    elif form == "csv.gz":
        path.write_bytes(gzip.compress(frame.write_csv().encode()))
    elif form == "parquet":
        frame.write_parquet(path)
    elif form in ("polars", "lazy", "array"):
        return {"polars": frame, "lazy": frame.lazy(), "array": frame.to_numpy()}[form]
    else:
        pandas = pd.DataFrame({name: frame[name].to_numpy() for name in frame.columns})
        with np.errstate(invalid="ignore"):  # pandas tries whether the numbers are whole ones
            return pandas.convert_dtypes() if form == "nullable" else pandas
    return path


def write_csv(folder: Path, text: str | bytes) -> Path:
    """A CSV of this text."""
    path = folder / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def one_block(source: Any, dtype: Any = np.float32, **options: Any) -> Block:
    """The whole table as one block."""
    (block,) = open_table(table(source, **options)).blocks(None, dtype)
    return block


def read_rows(source: Source, chunk_size: int | None = 1_000, dtype: Any = np.float32) -> np.ndarray:
    """All features that ruo reads, (rows, columns)."""
    features = np.concatenate([block.array for block in open_table(source).blocks(chunk_size, dtype)])
    assert features.dtype == dtype
    assert features.flags.c_contiguous
    return features
