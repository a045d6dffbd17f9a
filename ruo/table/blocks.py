"""Rows as they were read, cut to the request size; and label columns as class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from ruo.wire.messages import Array

__all__ = ["NO_LABEL", "Block", "Labels", "Piece", "class_indices", "regroup"]

Labels = np.ndarray[Any, np.dtype[np.int64]]

NO_LABEL = -1  # marks a row whose label columns do not name exactly one class


class Piece(NamedTuple):
    """Rows from one read: `features` (rows, columns) in C order, `labels` (rows,) class indices or None."""

    features: Array
    labels: Labels | None


class Block(NamedTuple):
    """Rows from row `start` of the table on; `features` and `labels` are those of a `Piece`."""

    start: int
    features: Array
    labels: Labels | None


def regroup(pieces: Iterator[Piece], rows_at: Callable[[int], int | None]) -> Iterator[Block]:
    """Cut a table's pieces into blocks; rows are copied only where a block spans several pieces.

    `rows_at(start)` is called when the block at row `start` is asked for; it returns the block's size, None for the rest.
    """
    held: list[Piece] = []
    start, count = 0, 0
    size = rows_at(0)
    for piece in pieces:
        while size is not None and count + len(piece.features) >= size:
            head, piece = _slice(piece, slice(size - count)), _slice(piece, slice(size - count, None))
            yield Block(start, *_join([*held, head]))
            held, start, count = [], start + size, 0
            size = rows_at(start)
        if len(piece.features):
            held.append(piece)
            count += len(piece.features)
    if held:
        yield Block(start, *_join(held))


def class_indices(columns: pl.DataFrame) -> Labels:
    """One-hot columns, or one column of whole numbers, as (rows,) class indices; `NO_LABEL` for no class or several."""
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


def _join(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    labels = [piece.labels for piece in pieces if piece.labels is not None]
    return Piece(np.concatenate([piece.features for piece in pieces]), np.concatenate(labels) if labels else None)


def _slice(piece: Piece, rows: slice) -> Piece:
    return Piece(piece.features[rows], None if piece.labels is None else piece.labels[rows])
