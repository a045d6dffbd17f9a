"""The answers so far: every row accounted for, all from one model."""

import math
import time
from collections.abc import Sequence

import numpy as np
import polars as pl

from ruo.client.records import Answer, ModelInfo, RequestRecord, rows_named
from ruo.client.scores import Predictions, Timings
from ruo.errors import ScoringError
from ruo.tables import NO_LABEL, Labels, number_classes
from ruo.wire.messages import Array


class Tally:
    """The requests, failures and rows so far, all of one version and file of the model, unless it may change."""

    def __init__(self, allow_version_change: bool) -> None:
        self.model: ModelInfo  # as the server describes it before the first answer, then as the answers name it
        self.records: list[RequestRecord] = []
        self.errors: list[ScoringError] = []
        self.scored = 0  # rows with predictions
        self._failed = 0  # rows without
        self._allow_version_change = allow_version_change
        self.all_name_file = True

    def add(self, answer: Answer) -> Answer:
        """Count an answer; gives it back, with an error in place of predictions that another model gave."""
        record = answer.record
        if answer.error is None and (error := self._of_another_model(record)) is not None:
            answer = answer._replace(predictions=None, error=error)
        self.records.append(record)
        if answer.error is not None:
            self.errors.append(answer.error)
            self._failed += record.rows
        else:
            self.scored += record.rows
            self.all_name_file &= bool(record.sha256)
        return answer

    def _of_another_model(self, record: RequestRecord) -> ScoringError | None:
        began = self.model
        now = began._replace(version=record.version or began.version, sha256=record.sha256 or began.sha256)
        is_same = began.version in ("", now.version) and began.sha256 in ("", now.sha256)
        if not is_same and not self._allow_version_change:
            what = f"{rows_named(record.start, record.rows)} were answered by {now.version_named()} of the model"
            message = f"{what}, the run began with {began.version_named()}; score the table again."
            return ScoringError(message, record.start, record.start + record.rows)
        self.model = now
        return None

    def account_for(self, rows: int) -> None:
        """Check that each of the rows read was scored or failed; a lost row is a defect of ruo."""
        if rows != self.scored + self._failed:
            raise ScoringError(
                f"{rows:,} rows were read, {self.scored:,} scored, {self._failed:,} failed: some are lost."
            )

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


class Collected:
    """The predictions, labels and kept columns of all answers, in row order."""

    def __init__(self) -> None:
        self._predictions = _GrowingArray(np.nan)
        self._numbers = _GrowingArray(NO_LABEL)
        self._names = _GrowingArray(None)
        self._kept: dict[int, pl.DataFrame] = {}

    def add(self, answer: Answer) -> None:
        """Keep what an answer has of its rows."""
        start, labels = answer.record.start, answer.labels
        if labels is not None:
            (self._names if labels.dtype == np.object_ else self._numbers).put(start, labels)
        if answer.kept is not None:
            self._kept[start] = answer.kept
        if answer.predictions is not None:
            self._predictions.put(start, answer.predictions)

    def predictions(self, rows: int, row_shape: tuple[int, ...] | None) -> Predictions:
        """The predictions of the first `rows` rows, NaN for rows without; of `row_shape` where no row has any."""
        predictions = self._predictions.rows(rows)
        return np.full((rows, *(row_shape or (0,))), np.nan, np.float32) if predictions is None else predictions

    def labels(self, rows: int, classes: Sequence[str] | None) -> tuple[Labels | None, list[str] | None, int | None]:
        """The labels of the first `rows` rows as class indices, and the names of classes that are labelled by name.

        These are numbered as in `classes`, if all of them are there, else in sorted order. Last comes the first row without
        exactly one class, whose label is `NO_LABEL`, if there is one.
        """
        names, labels, known = self._names.rows(rows), self._numbers.rows(rows), None
        if names is not None:
            labels, known = number_classes(names, classes if set(names) - {None} <= set(classes or ()) else None)
        if labels is None or not (labels == NO_LABEL).any():
            return labels, known, None
        return labels, known, int((labels == NO_LABEL).argmax())

    def kept(self, rows: int) -> pl.DataFrame | None:
        """The kept columns of the first `rows` rows; null for rows without an answer."""
        parts, end = [], 0
        for start, part in sorted(self._kept.items()):
            parts += [part.clear(start - end), part]
            end = start + len(part)
        return pl.concat([*parts, parts[-1].clear(rows - end)]) if parts else None


class _GrowingArray:
    """An array that grows by `put`, so that no answer is held twice; `fill` stands where nothing was put."""

    def __init__(self, fill: float | None) -> None:
        self._fill = fill
        self._array: Array | None = None

    def put(self, start: int, values: Array) -> None:
        stop = start + len(values)
        if self._array is None:
            self._array = np.full((stop, *values.shape[1:]), self._fill, values.dtype)
        elif stop > len(self._array):
            self._resize(self._array, stop * 9 // 8)
        self._array[start:stop] = values

    def rows(self, count: int) -> Array | None:
        """The first `count` elements; None if nothing was put."""
        if self._array is not None:
            self._resize(self._array, count)
        return self._array

    def _resize(self, array: Array, rows: int) -> None:
        old = len(array)
        array.resize((rows, *array.shape[1:]), refcheck=False)  # no view of it exists yet
        array[old:] = self._fill
