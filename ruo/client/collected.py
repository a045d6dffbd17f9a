"""The answers so far: every row accounted for, all from one model."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import polars as pl

from ruo.client.records import Answer, ModelInfo, RequestRecord, rows_named
from ruo.client.scores import Predictions, Timings
from ruo.errors import ScoringError
from ruo.tables import NO_LABEL, Labels, number_classes
from ruo.wire.messages import Array


class Consistency:
    """Checks that all answers come from one version and one file of the model, unless it may change."""

    def __init__(self, allow_version_change: bool) -> None:
        self.model: ModelInfo  # as the server describes it before the first answer, then as the answers name it
        self._allow_version_change = allow_version_change

    def error(self, answer: Answer) -> ScoringError | None:
        """The answer's own error, or the error that another model gave it."""
        if answer.predictions is None:
            return answer.error
        record, began = answer.record, self.model
        now = began._replace(version=record.version or began.version, sha256=record.sha256 or began.sha256)
        is_same = began.version in ("", now.version) and began.sha256 in ("", now.sha256)
        if not is_same and not self._allow_version_change:
            message = (
                f"{rows_named(record.start, record.rows)} were answered by {now.version_named()} of the model, the run "
                f"began with {began.version_named()}; score the table again."
            )
            return ScoringError(message, record.start, record.start + record.rows)
        self.model = now
        return None


class Tally(Consistency):
    """The requests, failures and rows so far, without the predictions."""

    def __init__(self, allow_version_change: bool) -> None:
        super().__init__(allow_version_change)
        self.records: list[RequestRecord] = []
        self.errors: list[ScoringError] = []
        self.scored = 0  # rows with predictions
        self._all_name_file = True

    def add(self, answer: Answer) -> ScoringError | None:
        """Count an answer, and return its error, if any."""
        record = answer.record
        self.records.append(record)
        if (error := self.error(answer)) is not None:
            self.errors.append(error)
            return error
        self._all_name_file &= bool(record.sha256)
        self.scored += record.rows
        return None

    def account_for(self, rows: int) -> None:
        """Check that each of the rows read was scored or failed; a lost row is a defect of ruo."""
        failed = sum((error.stop or 0) - (error.start or 0) for error in self.errors)
        if rows != self.scored + failed:
            message = f"{rows:,} rows were read, {self.scored:,} scored and {failed:,} failed: some are lost."
            raise ScoringError(message)

    def model_of_all(self) -> ModelInfo:
        """The model that gave all answers; its `sha256` is empty unless every answer named it."""
        return self.model if self._all_name_file else self.model._replace(sha256="")

    def timings(self, began: float, rows: int, forming_s: float, loop_lag_s: float) -> Timings:
        """Where the time went since `began` (of `time.perf_counter`), without the requests of an earlier run."""
        sent = [record for record in self.records if not math.isnan(record.began_s)]
        ends = [record.began_s + record.seconds for record in sent]
        sending_s = max(ends, default=0.0) - min((record.began_s for record in sent), default=0.0)
        total_s = time.perf_counter() - began
        return Timings(forming_s, sending_s, total_s, rows / total_s, min(ends, default=math.nan) - began, loop_lag_s)

    def usual_rows(self) -> int:
        """The rows of the request that holds the middle row."""
        rows = np.sort([record.rows for record in self.records] or [0])
        return int(rows[np.searchsorted(rows.cumsum(), rows.sum() / 2)])


class Collected(Tally):
    """All answers so far; `expected_rows` gives the rows of the table, as far as they are known."""

    def __init__(self, allow_version_change: bool, expected_rows: Callable[[], int | None]) -> None:
        super().__init__(allow_version_change)
        self._predictions = _GrowingArray(np.float32, np.nan, expected_rows)
        self._labels = _GrowingArray(np.int64, NO_LABEL, expected_rows)
        self._label_names = _GrowingArray(np.object_, None, expected_rows)
        self._kept: dict[int, pl.DataFrame] = {}

    def add(self, answer: Answer) -> ScoringError | None:
        """Keep an answer, and return its error, if any."""
        start, labels = answer.record.start, answer.labels
        if labels is not None:
            (self._label_names if labels.dtype == np.object_ else self._labels).put(start, labels)
        if answer.kept is not None:
            self._kept[start] = answer.kept
        error = super().add(answer)
        if error is None and answer.predictions is not None:
            self._predictions.put(start, answer.predictions)
        return error

    def predictions(self, rows: int) -> Predictions:
        """The predictions of the first `rows` rows; NaN for rows without an answer."""
        predictions = self._predictions.rows(rows)
        return np.full((rows, 0), np.nan, np.float32) if predictions is None else predictions

    def labels(self, rows: int, classes: Sequence[str] | None) -> tuple[Labels | None, list[str] | None, int | None]:
        """The labels of the first `rows` rows as class indices, and the names of classes that are labelled by name.

        These are numbered as in `classes`, if all of them are there, else in sorted order. In place of the labels None,
        and the first row without exactly one class, if there is one.
        """
        names, labels, known = self._label_names.rows(rows), self._labels.rows(rows), None
        if names is not None:
            labels, known = number_classes(names, classes if set(names) - {None} <= set(classes or ()) else None)
        if labels is None or not rows:
            return labels, known, None
        unclear = int((labels == NO_LABEL).argmax())
        return (None, known, unclear) if labels[unclear] == NO_LABEL else (labels, known, None)

    def kept(self, rows: int) -> pl.DataFrame | None:
        """The kept columns of the first `rows` rows; null for rows without an answer."""
        parts, end = [], 0
        for start, part in sorted(self._kept.items()):
            parts += [part.clear(start - end), part]
            end = start + len(part)
        return pl.concat([*parts, parts[-1].clear(rows - end)]) if parts else None


class _GrowingArray:
    """An array that grows by `put`, from the expected length; `fill` stands where nothing was put."""

    def __init__(self, dtype: type[np.generic], fill: float | None, expected: Callable[[], int | None]) -> None:
        self._dtype = dtype
        self._fill = fill
        self._expected = expected
        self._array: Array | None = None
        self._end = 0  # nothing is written beyond it, so that the system has not provided that memory yet

    def put(self, start: int, values: Array) -> None:
        stop = start + len(values)
        array = self._filled_up_to(start, stop, values.shape[1:])
        array[start:stop] = values
        self._end = max(self._end, stop)

    def rows(self, count: int) -> Array | None:
        """The first `count` elements; None if nothing was put."""
        return None if self._array is None else self._filled_up_to(count, count, self._array.shape[1:])[:count]

    def _filled_up_to(self, end: int, size: int, shape: tuple[int, ...]) -> Array:
        """The array, with at least `size` elements, of which those before `end` are defined."""
        if self._array is None:
            guess = (self._expected() or 0) * 33 // 32
            self._array = np.empty((max(size, guess), *shape), self._dtype)
        old = len(self._array)
        if old < size:
            self._array.resize((max(size, old + old // 8), *shape), refcheck=False)  # no view of it exists yet
        if self._end < end:
            self._array[self._end : end] = self._fill
            self._end = end
        return self._array
