"""The predictions of a table that several clients scored in parts, joined to the whole.

A part is a Parquet file written by `Scores.to_parquet`. Its metadata say where the part begins and ends, so that missing
parts, parts of tables of different sizes and parts from different models are refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ruo.client.scores import METADATA
from ruo.errors import ArgumentError, CheckpointError
from ruo.table import Span

__all__ = ["merge"]


class _Part(NamedTuple):
    path: Path
    span: Span
    model: dict[str, str]  # its name, version and SHA-256
    frame: pl.LazyFrame
    rows: int


def merge(parts: Sequence[Path], out: Path) -> int:
    """Join the parts of a table, in any order, to one .parquet or .csv file, and return its number of rows.

    Raises CheckpointError if a part is missing, double, not completely scored, or of another cut, table or model.
    """
    if out.suffix not in (".parquet", ".csv"):
        raise ArgumentError(f"{out} must end in .parquet or .csv.")
    if out.resolve() in {part.resolve() for part in parts}:
        raise ArgumentError(f"{out} is one of the parts; write the whole to another file.")
    opened = sorted((_open(path) for path in parts), key=lambda part: part.span.part)
    _check(opened)
    filled = [part for part in opened if part.rows]
    if not filled:
        raise CheckpointError("The parts have no rows; there is nothing to merge.")
    unfinished = out.with_name(out.name + ".unfinished")
    whole = pl.concat([part.frame for part in filled])
    if out.suffix == ".csv":
        whole.sink_csv(unfinished)
    else:
        facts = {**opened[0].model, "not_scored": 0, "span": None}
        whole.sink_parquet(unfinished, metadata={METADATA: json.dumps(facts)})
    unfinished.replace(out)
    return sum(part.rows for part in filled)


def _open(path: Path) -> _Part:
    try:
        about: dict[str, Any] = json.loads(pl.read_parquet_metadata(path)[METADATA])
        frame = pl.scan_parquet(path)
        rows = frame.select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError, KeyError, ValueError):
        message = f"{path} is not a part; parts are Parquet files written by `ruo score --shard`."
        raise CheckpointError(message) from None
    if about["span"] is None:
        raise CheckpointError(f"{path} is of a whole table; there is nothing to merge.")
    if about["not_scored"]:
        raise CheckpointError(f"{path} lacks {about['not_scored']:,} rows that were not scored; score this part again.")
    model = {name: about[name] for name in ("model", "version", "sha256")}
    return _Part(path, Span(**about["span"]), model, frame, rows)


def _check(parts: list[_Part]) -> None:
    if not parts:
        raise CheckpointError("No parts are given; name the Parquet file of each part.")
    first = parts[0]
    for part in parts[1:]:
        if (part.span.of, part.span.size) != (first.span.of, first.span.size):
            raise CheckpointError(f"{first.path} and {part.path} are parts of different tables, or of different cuts.")
        if part.model != first.model:
            raise CheckpointError(f"{first.path} and {part.path} were scored by different models; score one again.")
    numbers = [part.span.part for part in parts]
    missing = next((number for number in range(first.span.of) if number not in numbers), None)
    if missing is not None:
        raise CheckpointError(f"Of {first.span.of} parts, counted from 0, number {missing} is missing.")
    double = next((number for number in numbers if numbers.count(number) > 1), None)
    if double is not None:
        raise CheckpointError(f"Part {double} is given twice; name it once.")
    for before, after in itertools.pairwise(parts):
        if before.span.end != after.span.begin:
            raise CheckpointError(f"{before.path} and {after.path} do not join: the table changed in between.")
