"""What came back so far: every row accounted for, and all answers of one version of the model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from ruo.client.records import RequestRecord, Sent, rows_named
from ruo.client.scores import Predictions, Timings, rows_of
from ruo.errors import ScoringError
from ruo.table import NO_LABEL, Labels
from ruo.wire.messages import Array

__all__ = ["Collected", "Consistency"]


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
        failed = rows_of(self.errors)
        if rows != self._scored + failed:
            raise ScoringError(
                f"{rows:,} rows were read, {self._scored:,} scored and {failed:,} failed: some are lost."
            )

    def predictions(self, rows: int) -> Predictions:
        """The predictions of the first `rows` rows, NaN where none came."""
        predictions = self._predictions.rows(rows)
        return np.full((rows, 0), np.nan, np.float32) if predictions is None else predictions

    def timings(self, began: float, rows: int, forming_s: float, loop_lag_s: float) -> Timings:
        """Where the time went since `began`, on the clock of `time.perf_counter`; resumed requests do not count."""
        sent = [record for record in self.records if not math.isnan(record.began_s)]
        ends = [record.began_s + record.seconds for record in sent]
        sending_s = max(ends, default=0.0) - min((record.began_s for record in sent), default=0.0)
        total_s = time.perf_counter() - began
        return Timings(forming_s, sending_s, total_s, rows / total_s, min(ends, default=math.nan) - began, loop_lag_s)

    def usual_rows(self) -> int:
        """How many rows the request has in which the middle row goes out."""
        rows = np.sort([record.rows for record in self.records] or [0])
        return int(rows[np.searchsorted(rows.cumsum(), rows.sum() / 2)])

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
