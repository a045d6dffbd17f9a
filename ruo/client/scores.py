"""The result of a run: the predictions in row order, and how they came about."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.client.records import ModelInfo, RequestRecord, Sent, rows_named
from ruo.errors import ScoringError
from ruo.table import NO_LABEL, Labels, Span
from ruo.wire.messages import Array

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METADATA", "Choices", "Collected", "Consistency", "Predictions", "Scores", "Timings"]

Predictions = np.ndarray[Any, np.dtype[np.float32]]

METADATA = "ruo"  # the name under which a Parquet file of predictions says what it is


class Timings(NamedTuple):
    """Where the time went, in seconds.

    Attributes
    ----------
    forming_s : float
        Reading and encoding.
    sending_s : float
        From the first request's start to the last answer. With `pipelined=False` it follows `forming_s`; else the two
        overlap and do not add up to `total_s`.
    total_s : float
        The whole call.
    rows_per_s : float
        Rows by `total_s`.
    first_result_s : float
        From the call to the first answer; NaN where none came.
    loop_lag_s : float
        How late the client's event loop was at worst.
    """

    forming_s: float
    sending_s: float
    total_s: float
    rows_per_s: float
    first_result_s: float = math.nan
    loop_lag_s: float = 0.0


class Choices(NamedTuple):
    """How the table was sent: the wire, the rows of most requests, and the requests in flight at the same time."""

    wire: str
    chunk_size: int
    concurrency: int


@dataclass(repr=False)
class Scores:
    """The predictions of a table, in row order, and how they came about.

    Attributes
    ----------
    predictions : numpy.ndarray
        (rows, outputs) float32; NaN where a row was not scored.
    labels : numpy.ndarray or None
        (rows,) int64 class indices; None where the table has no labels, or a row does not name exactly one class.
    timings : Timings
        Where the time went.
    model : ModelInfo
        The model that answered; one version for the whole run.
    records : list of RequestRecord
        What `requests` shows as a DataFrame.
    errors : list of ScoringError
        What `failures` shows as a DataFrame.
    choices : Choices or None
        How the table was sent; what "auto" came to.
    span : Span or None
        Which part of the table was scored; None for all of it.

    Examples
    --------
    >>> scores = score_csv("testset.csv", "http://localhost:8000")  # doctest: +SKIP
    >>> scores.predictions.argmax(axis=1)  # doctest: +SKIP
    >>> scores.to_parquet("predictions.parquet")  # doctest: +SKIP
    """

    predictions: Predictions
    labels: Labels | None
    timings: Timings
    model: ModelInfo
    records: list[RequestRecord] = field(default_factory=list)
    errors: list[ScoringError] = field(default_factory=list)
    choices: Choices | None = None
    span: Span | None = None

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request: start, rows, bytes, attempts, server, worker, version, status, and its clock in seconds.

        `resumed` marks what an earlier run scored, by the checkpoint; its clock is unknown.
        """
        import pandas as pd

        frame = pd.DataFrame([vars(record) for record in self.records], columns=list(RequestRecord.__annotations__))
        frame = frame.sort_values("start", ignore_index=True)
        frame["began_s"] -= frame["began_s"].min()
        return frame

    @cached_property
    def failures(self) -> pd.DataFrame:
        """A row per range of rows that was not scored: start, stop (not included), status and reason."""
        import pandas as pd

        rows = [(error.start, error.stop, error.status, str(error)) for error in self.errors]
        frame = pd.DataFrame(rows, columns=["start", "stop", "status", "reason"])
        return frame.sort_values("start", ignore_index=True)

    def balance(self) -> pd.DataFrame:
        """A row per server and worker: the rows and requests it answered, its seconds on them, its share of the rows."""
        answered = self.requests[(self.requests["status"] == 200) & ~self.requests["resumed"]]
        groups = answered.groupby(["server", "worker"])
        shares = groups.agg(rows=("rows", "sum"), requests=("rows", "size"), seconds=("seconds", "sum")).reset_index()
        shares["share"] = shares["rows"] / shares["rows"].sum()
        return shares

    def to_pandas(self) -> pd.DataFrame:
        """A row per row of the table: prediction_0, prediction_1, ..., and label where there are labels."""
        import pandas as pd

        return pd.DataFrame(self._columns())

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as CSV."""
        pl.DataFrame(self._columns()).write_csv(Path(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as Parquet; its metadata name the model and the part of the table."""
        facts = {
            "model": self.model.name,
            "version": self.model.version,
            "sha256": self.model.sha256,
            "not_scored": _rows_of(self.errors),
            "span": self.span and self.span._asdict(),
        }
        pl.DataFrame(self._columns()).write_parquet(Path(path), metadata={METADATA: json.dumps(facts)})

    def _columns(self) -> dict[str, Array]:
        flat = self.predictions.reshape(len(self), math.prod(self.predictions.shape[1:]))
        columns: dict[str, Array] = {f"prediction_{index}": flat[:, index] for index in range(flat.shape[1])}
        return columns if self.labels is None else {**columns, "label": self.labels}

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        rows, time_s = len(self), self.timings.total_s
        outputs = " x ".join(f"{size:,}" for size in self.predictions.shape[1:])
        model = f"model {self.model.name!r}" + (f" version {self.model.version}" if self.model.version else "")
        lost = _rows_of(self.errors)
        parts = [
            f"{rows:,} rows x {outputs} outputs",
            f"{time_s:.2f} s ({self.timings.rows_per_s:,.0f} rows/s)",
            f"{len(self.records):,} requests",
            model,
            f"{lost:,} rows not scored" if lost else "all rows scored",
        ]
        return f"Scores({', '.join(parts)})"


def _rows_of(errors: list[ScoringError]) -> int:
    return sum((error.stop or 0) - (error.start or 0) for error in errors)


class Consistency:
    """Whether all answers are of one version of the model, unless that may change."""

    def __init__(self, allow_version_change: bool) -> None:
        self.version = ""
        self._allow_version_change = allow_version_change

    def error(self, sent: Sent) -> ScoringError | None:
        """The answer's own error, or the one that its version is not that of earlier answers."""
        start, stop = sent.start, sent.start + sent.rows
        if sent.answer.predictions is None:
            return sent.answer.error or ScoringError("No predictions came.", start, stop)
        version = sent.answer.record.version
        if version and self.version not in ("", version) and not self._allow_version_change:
            return ScoringError(
                f"{rows_named(start, sent.rows)} were answered by version {version} of the model, earlier rows by "
                f"version {self.version}; score the table again.",
                start,
                stop,
            )
        self.version = version or self.version
        return None


class Collected:
    """What came back so far.

    Parameters
    ----------
    consistency : Consistency
        What the answers must have in common.
    expected_rows : callable
        Gives how many rows the table has, as far as that is known.
    """

    def __init__(self, consistency: Consistency, expected_rows: Callable[[], int | None]) -> None:
        self.records: list[RequestRecord] = []
        self.errors: list[ScoringError] = []
        self._consistency = consistency
        self._predictions = _GrowingArray(np.float32, np.nan, expected_rows)
        self._labels = _GrowingArray(np.int64, NO_LABEL, expected_rows)
        self._scored = 0

    def add(self, sent: Sent) -> ScoringError | None:
        """Keep an answer; the error, where it has one or does not go with the others."""
        self.records.append(sent.answer.record)
        if sent.labels is not None:
            self._labels.put(sent.start, sent.labels)
        error = self._consistency.error(sent)
        if error is not None:
            self.errors.append(error)
            return error
        assert sent.answer.predictions is not None  # no error, so there are predictions
        self._predictions.put(sent.start, sent.answer.predictions)
        self._scored += sent.rows
        return None

    def account_for(self, rows: int) -> None:
        """Every row that was read was scored or is listed as failed; anything else is a fault of ruo's own."""
        failed = _rows_of(self.errors)
        if rows != self._scored + failed:
            raise ScoringError(
                f"{rows:,} rows were read, {self._scored:,} scored and {failed:,} failed: some are lost."
            )

    def predictions(self, rows: int) -> Predictions:
        """The predictions of the first `rows` rows, NaN where none came."""
        predictions = self._predictions.rows(rows)
        return np.full((rows, 0), np.nan, np.float32) if predictions is None else predictions

    def labels(self, rows: int) -> tuple[Labels | None, int | None]:
        """The labels of the first `rows` rows, or None and the first row that does not name exactly one class."""
        labels = self._labels.rows(rows)
        if labels is None or not rows:
            return labels, None
        unclear = int((labels == NO_LABEL).argmax())
        return (None, unclear) if labels[unclear] == NO_LABEL else (labels, None)


class _GrowingArray:
    """An array whose length is guessed at before the table's end; `fill` stands where nothing was put."""

    def __init__(self, dtype: type[np.generic], fill: float, expected: Callable[[], int | None]) -> None:
        self._dtype = dtype
        self._fill = fill
        self._expected = expected
        self._array: Array | None = None
        self._end = 0  # behind it nothing was written yet, so that the system has not given the memory either

    def put(self, start: int, values: Array) -> None:
        """Set the elements from `start` on."""
        stop = start + len(values)
        array = self._with_room(stop, values.shape[1:])
        self._fill_up_to(start)
        array[start:stop] = values
        self._end = max(self._end, stop)

    def rows(self, count: int) -> Array | None:
        """The first `count` elements; None where nothing was put."""
        if self._array is None:
            return None
        array = self._with_room(count, self._array.shape[1:])
        self._fill_up_to(count)
        return array[:count]

    def _with_room(self, count: int, shape: tuple[int, ...]) -> Array:
        if self._array is None:
            guess = (self._expected() or 0) * 33 // 32
            self._array = np.empty((max(count, guess), *shape), self._dtype)
        old = len(self._array)
        if old < count:
            self._array.resize((max(count, old + old // 8), *shape), refcheck=False)  # nobody has a view of it yet
        return self._array

    def _fill_up_to(self, stop: int) -> None:
        if self._array is not None and self._end < stop:
            self._array[self._end : stop] = self._fill
            self._end = stop
