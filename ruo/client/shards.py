"""The predictions of a table that several clients scored in parts, joined to the whole.

A part is a Parquet file written by `Scores.to_parquet`. Its metadata say what it is a part of and where it begins and
ends, so that parts that are missing or do not belong together are refused.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from ruo.client.checkpoint import difference
from ruo.client.scores import METADATA
from ruo.errors import ArgumentError, CheckpointError
from ruo.table import Span

_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, KeyError, TypeError, ValueError)
_ALIKE = ("data", "model", "version", "sha256", "output", "label_prefix")


class _Part(NamedTuple):
    path: Path
    span: Span
    key: dict[str, Any]  # what is the same in all parts of a table
    facts: dict[str, Any]
    frame: pl.LazyFrame
    rows: int


def merge(parts: Sequence[Path], out: Path) -> int:
    """Join the parts of a table, in any order, to one .parquet or .csv file, and return its number of rows.

    Raises CheckpointError for a part that is missing, double, not completely scored, or of another table, cut, model,
    output or label_prefix.
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
    rows = sum(part.rows for part in filled)
    unfinished = out.with_name(out.name + ".unfinished")
    whole = pl.concat([part.frame for part in filled])
    try:
        if out.suffix == ".csv":
            whole.sink_csv(unfinished)
        else:
            facts = {**opened[0].facts, "rows": rows, "span": None}
            whole.sink_parquet(unfinished, metadata={METADATA: json.dumps(facts)})
        unfinished.replace(out)
    except _UNREADABLE as error:
        unfinished.unlink(missing_ok=True)
        raise CheckpointError(f"The parts cannot be joined to {out}: {str(error).splitlines()[0]}") from error
    return rows


def _open(path: Path) -> _Part:
    try:
        facts = json.loads(pl.read_parquet_metadata(path)[METADATA])
        key = {name: facts[name] for name in _ALIKE}
        unscored, span = facts["not_scored"], facts["span"] and Span(**facts["span"])
        frame = pl.scan_parquet(path, glob=False)
        rows = frame.select(pl.len()).collect().item()
        columns = ", ".join(frame.collect_schema())
    except _UNREADABLE:
        message = f"{path} is not a part; parts are Parquet files written by `ruo score --shard`."
        raise CheckpointError(message) from None
    if span is None:
        raise CheckpointError(f"{path} is of a whole table; there is nothing to merge.")
    if unscored:
        raise CheckpointError(f"{path} lacks {unscored:,} rows that were not scored; score this part again.")
    if rows != facts.get("rows"):
        raise CheckpointError(f"{path} has {rows:,} rows, {facts.get('rows')} were scored; score this part again.")
    if rows:
        key["columns"] = columns
    return _Part(path, span, {**key, "of": span.of, "size": span.size}, facts, frame, rows)


def _check(parts: list[_Part]) -> None:
    if not parts:
        raise CheckpointError("No parts are given; name the Parquet file of each part.")
    first = next((part for part in parts if part.rows), parts[0])
    for part in parts:
        if what := difference({**first.key, **part.key}, first.key):
            raise CheckpointError(f"{part.path} does not fit {first.path}: it is of {what}; score one of them again.")
    numbers = [part.span.part for part in parts]
    of = first.span.of
    missing = next((number for number in range(of) if number not in numbers), None)
    if missing is not None:
        raise CheckpointError(f"Of {of} parts, counted from 0, number {missing} is missing.")
    double = next((number for number in numbers if numbers.count(number) > 1), None)
    if double is not None:
        raise CheckpointError(f"Part {double} is given twice; name it once.")
    for before, after in itertools.pairwise(parts):
        if before.span.end != after.span.begin:
            raise CheckpointError(f"{before.path} and {after.path} do not join: rows are missing or double.")
    if parts[-1].span.end != first.span.size:
        raise CheckpointError(f"{parts[-1].path} ends before the table does; score this part again.")
