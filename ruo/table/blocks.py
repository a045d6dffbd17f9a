"""Rows as they were read, cut anew into blocks of the sizes that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Block", "Features", "Labels", "Part", "regroup"]

Features = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]


class Part(NamedTuple):
    """A piece of a table, as it was read: `features` (rows, features) float32 in C order; `labels` (rows,) int64 or None."""

    features: Features
    labels: Labels | None


class Block(NamedTuple):
    """A part that begins at row `start` of the table."""

    start: int
    features: Features
    labels: Labels | None


def regroup(parts: Iterator[Part], rows_at: Callable[[int], int | None]) -> Iterator[Block]:
    """The same rows in blocks: the one that begins at row n has `rows_at(n)` rows, None for all that are left.

    `rows_at` is asked when the block is. Rows are copied only where a block spans two parts.
    """
    held: list[Part] = []
    start, count = 0, 0
    size = rows_at(0)
    for part in parts:
        while size is not None and count + len(part.features) >= size:
            head, part = _slice(part, slice(size - count)), _slice(part, slice(size - count, None))
            yield Block(start, *_join([*held, head]))
            held, start, count = [], start + size, 0
            size = rows_at(start)
        if len(part.features):
            held.append(part)
            count += len(part.features)
    if held:
        yield Block(start, *_join(held))


def _join(parts: list[Part]) -> Part:
    if len(parts) == 1:
        return parts[0]
    labels = [part.labels for part in parts if part.labels is not None]
    return Part(np.concatenate([part.features for part in parts]), np.concatenate(labels) if labels else None)


def _slice(part: Part, rows: slice) -> Part:
    return Part(part.features[rows], None if part.labels is None else part.labels[rows])
