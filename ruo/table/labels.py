"""Label columns to class indices."""

from __future__ import annotations

import numpy as np
import polars as pl

from ruo.table.blocks import Labels

__all__ = ["NO_LABEL", "class_indices"]

# Marks a row whose label columns do not name exactly one class.
NO_LABEL = -1


def class_indices(columns: pl.DataFrame) -> Labels:
    """One-hot columns, or a single column of whole numbers, to (rows,) int64; NO_LABEL where they name no class."""
    first, *others = (column.cast(pl.Float32, strict=False).to_numpy() for column in columns.iter_columns())
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
