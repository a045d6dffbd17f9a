"""The result of a run: the predictions in row order, and how they came about; and the results of all parts, joined."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.client.layout import Layout, require_fit, require_writable, to_pandas, whole_file
from ruo.client.records import ModelInfo, RequestRecord, difference
from ruo.errors import ArgumentError, CheckpointError, ScoringError, count
from ruo.tables import NO_LABEL, Labels, Span

if TYPE_CHECKING:
    import pandas as pd

Predictions = np.ndarray[Any, np.dtype[np.float32]]

METADATA = "ruo"  # the key of the metadata in a Parquet file of predictions
_PACKED = (".gz", ".bz2", ".xz", ".zip", ".zst", ".tar")  # names for which pandas packs
_MAY_DIFFER = ("shard", "chunk_size", "wire", "rows", "not_scored")  # between the parts of a table
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, KeyError, TypeError, ValueError)


class Timings(NamedTuple):
    """Where the time went, in seconds."""

    forming_s: float  # reading and encoding
    sending_s: float  # from the first request to the last answer; overlaps with `forming_s` unless `pipelined=False`
    total_s: float  # the whole call
    rows_per_s: float
    first_result_s: float = math.nan  # from the call to the first answer; NaN if none came
    loop_lag_s: float = 0.0  # the longest delay of the client's event loop


class Choices(NamedTuple):
    """How the table was sent: the wire, the rows of a typical request, and the requests in flight."""

    wire: str
    chunk_size: int
    concurrency: int


class ScoredBlock(NamedTuple):
    """Consecutive rows, from row `start` on."""

    start: int
    predictions: Predictions  # (rows, outputs) float32
    labels: Labels | None  # (rows,) class indices, or names of a text column; None if the table has no labels
    kept: pl.DataFrame | None = None  # the kept columns


def _by_start(rows: Iterable[Any], columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows), columns=columns).sort_values("start", ignore_index=True)


@dataclass(eq=False, kw_only=True)
class Outcome:
    """What a run of any length leaves: the requests, the failures, and who answered."""

    timings: Timings
    model: ModelInfo
    records: list[RequestRecord] = field(default_factory=list)
    errors: list[ScoringError] = field(default_factory=list)
    choices: Choices | None = None
    not_scored: int = 0
    not_finite: int = 0
    key: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request, with its clock in seconds; `resumed` marks requests of an earlier run, without a clock."""
        frame = _by_start(map(vars, self.records), list(RequestRecord.__annotations__))
        frame["began_s"] -= frame["began_s"].min()
        return frame

    @cached_property
    def failures(self) -> pd.DataFrame:
        """A row per range of rows that was not scored: start, stop (exclusive), status and reason."""
        rows = ((error.start, error.stop, error.status, str(error)) for error in self.errors)
        return _by_start(rows, ["start", "stop", "status", "reason"])

    def balance(self) -> pd.DataFrame:
        """A row per worker: the rows and requests it answered, the seconds they took, its share of the rows.

        A server that names no worker counts as one, by its address.
        """
        answered = self.requests[(self.requests["status"] == 200) & ~self.requests["resumed"]]
        groups = answered.groupby(answered["worker"].where(answered["worker"] != "", answered["server"]))
        shares = groups.agg(rows=("rows", "sum"), requests=("rows", "size"), seconds=("seconds", "sum")).reset_index()
        shares["share"] = shares["rows"] / shares["rows"].sum()
        return shares

    def facts(self, rows: int) -> str:
        """What was scored, as the metadata of a Parquet file, for `merge`."""
        name, version, sha256, output = self.model.name, self.model.version, self.model.sha256, self.model.output_name
        model = {"model": name, "version": version, "sha256": sha256, "output": output}
        return json.dumps({**self.key, **model, "rows": rows, "not_scored": self.not_scored})

    def _summary(self, rows: int, row_shape: tuple[int, ...]) -> str:
        outputs = " x ".join(f"{size:,}" for size in row_shape) + (" output" if row_shape == (1,) else " outputs")
        parts = [
            f"{count(rows, 'row')} x {outputs}",
            f"{self.timings.total_s:.2f} s ({self.timings.rows_per_s:,.0f} rows/s)",
            count(len(self.records), "request"),
            f"model {self.model.name!r}" + (f" version {self.model.version}" if self.model.version else ""),
            f"{count(self.not_scored, 'row')} not scored" if self.not_scored else "all rows scored",
        ]
        if self.not_finite:
            parts.append(f"{count(self.not_finite, 'row')} with NaN or Infinity")
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(repr=False, eq=False)
class Scores(Outcome):
    """The predictions of a table, in row order, and how they came about.

    Attributes
    ----------
    predictions : numpy.ndarray
        (rows, outputs) float32; NaN where a row was not scored.
    labels : numpy.ndarray or None
        (rows,) int64 class indices; None if the table has no labels, or a row does not name exactly one class.
    timings : Timings
        Where the time went.
    model : ModelInfo
        The model that answered, one version for the whole run.
    records : list of RequestRecord
        The rows of `requests`.
    errors : list of ScoringError
        The rows of `failures`.
    choices : Choices or None
        How the table was sent, with the sizes that "auto" led to.
    not_scored : int
        How many rows were not scored.
    not_finite : int
        How many rows have NaN or Infinity among their features, in the model's datatype.
    index : pandas.Index or None
        The index of a pandas source, which `to_pandas` keeps.
    key : dict
        What was scored, where it is a part of a table: the data, the part, the model and the options.
    classes : list of str or None
        The names of the classes that `labels` number: those of one-hot columns, or of a text column, in sorted order.

    Examples
    --------
    >>> scores = score_csv("testset.csv", ["http://one:8000", "http://two:8000"], errors="collect")
    >>> scores.failures
    >>> scores.balance()
    >>> scores.to_parquet("scores.parquet")
    """

    predictions: Predictions
    labels: Labels | None
    index: pd.Index | None = None
    classes: list[str] | None = None
    kept_columns: pl.DataFrame | None = None
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        self._written_labels = self.labels
        if self.labels is not None and (self.labels == NO_LABEL).any():
            self.labels = None

    @cached_property
    def kept(self) -> pd.DataFrame | None:
        """The kept columns, a row per row of the table, with its index; None without any."""
        return None if self.kept_columns is None else to_pandas(self.kept_columns, self.index)

    def to_pandas(self) -> pd.DataFrame:
        """A row per row of the table, with its index: kept columns, prediction_0, prediction_1, ..., and label if any."""
        return to_pandas(self._frame(), self.index)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as CSV."""
        if Path(path).suffix in _PACKED:
            raise ArgumentError(f"{path} would not be packed; name a .csv or use to_pandas().to_csv(..., index=False).")
        require_fit((frame := self._frame()).schema, ".csv")
        with whole_file(Path(path)) as unfinished:
            frame.write_csv(unfinished)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as Parquet; the metadata say what was scored, for `merge`."""
        require_fit((frame := self._frame()).schema, ".parquet")
        with whole_file(Path(path)) as unfinished:
            frame.write_parquet(unfinished, metadata={METADATA: self.facts(len(self))})

    def _frame(self) -> pl.DataFrame:
        labels = self._written_labels
        if self.classes is not None and self.layout.classes is None and labels is not None:
            labels = np.array([*self.classes, None], np.object_)[labels]  # the last one is NO_LABEL's
        return self.layout.frame(self.predictions, labels, self.kept_columns)

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        return self._summary(len(self), self.predictions.shape[1:])


class _Part(NamedTuple):
    path: Path
    span: Span
    key: dict[str, Any]  # what all parts of a table have in common
    facts: dict[str, Any]
    frame: pl.LazyFrame


def merge(parts: Sequence[Path], out: Path) -> int:
    """Join the parts of a table, in any order, to one .parquet or .csv file, and return its number of rows.

    Raises CheckpointError for a part that is missing, double, not completely scored, or of another table, model or run.
    """
    require_writable(out, [("one of the parts", part) for part in parts])
    opened = sorted((_open(path) for path in parts), key=lambda part: part.span.part)
    filled = [part for part in opened if part.facts["rows"]]
    if not filled:
        raise CheckpointError("There are no rows to merge; name the Parquet file of each part.")
    first = filled[0]
    for part in opened:
        if what := difference(part.key, first.key):
            raise CheckpointError(f"{part.path} does not fit {first.path}: it is of {what}; score one of them again.")
    numbers, of = [part.span.part for part in opened], first.span.of
    if wrong := [number for number in range(of) if numbers.count(number) != 1]:
        what = "given twice; name it once" if wrong[0] in numbers else "missing"
        raise CheckpointError(f"Of {of} parts, counted from 0, number {wrong[0]} is {what}.")
    for before, after in itertools.pairwise(opened):
        if before.span.end != after.span.begin:
            raise CheckpointError(f"{before.path} and {after.path} do not join: rows are missing or double.")
    facts = {**first.facts, "rows": sum(part.facts["rows"] for part in filled)}
    del facts["shard"]
    with whole_file(out) as unfinished:
        try:
            are_named = any(part.frame.collect_schema().get("label") == pl.String for part in filled)
            whole = pl.concat([_with_names(part) if are_named else part.frame for part in filled])
            require_fit(whole.collect_schema(), out.suffix)
            if out.suffix == ".csv":
                whole.sink_csv(unfinished)
            else:
                whole.sink_parquet(unfinished, metadata={METADATA: json.dumps(facts)})
        except _UNREADABLE as error:
            reason = str(error).partition("\n")[0]
            raise CheckpointError(f"The parts cannot be joined to {out}: {reason}.") from error
    return int(facts["rows"])


def _open(path: Path) -> _Part:
    try:
        path.open("rb").close()
    except OSError as error:
        what = f"{path} cannot be read ({error.strerror})"
        raise CheckpointError(f"{what}; score this part first, or correct its name or rights.") from None
    try:
        facts = json.loads(pl.read_parquet_metadata(path)[METADATA])
        frame = pl.scan_parquet(path, glob=False)
        missing = facts["not_scored"] or facts["rows"] - frame.select(pl.len()).collect().item()
        span = Span(*facts["shard"]) if "shard" in facts else None
        key = {name: value for name, value in facts.items() if name not in _MAY_DIFFER}
    except _UNREADABLE:
        raise CheckpointError(f"{path} is not a part; `ruo score --shard` writes parts, as Parquet files.") from None
    if span is None:
        raise CheckpointError(f"{path} is of a whole table; there is nothing to merge.")
    if missing:
        raise CheckpointError(f"{path} lacks {missing:,} of its {facts['rows']:,} rows; score this part again.")
    return _Part(path, span, {**key, "of": span.of, "size": span.size}, facts, frame)


def _with_names(part: _Part) -> pl.LazyFrame:
    """The rows of a part beside others whose labels are names; those of a part without any are numbers, all missing."""
    if part.frame.collect_schema()["label"] != pl.String and part.frame.select(pl.count("label")).collect().item():
        what = f"{part.path} has numbers as labels, and other parts have names"
        raise CheckpointError(f"{what}; give all classes names, or all of them numbers.")
    return part.frame.with_columns(pl.col("label").cast(pl.String))
