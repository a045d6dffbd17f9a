"""A whole table to its predictions: `score_csv`, `ascore_csv` and `iter_scores` over one asynchronous core.

    table -> blocks -> chunks (encoded, in a thread) -> queue -> `concurrency` senders -> answers -> Scores

Reading, sending and receiving overlap, and no more than a few chunks are in memory at any time.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ruo.client import Client, ModelInfo, RequestRecord, wire_named
from ruo.errors import ScoringError, TableError
from ruo.loops import LoopThread
from ruo.pipeline import Pipeline, Sent
from ruo.progress import Progress
from ruo.reading import NO_LABEL, Labels, open_table

if TYPE_CHECKING:
    import pandas as pd

    from ruo.reading import Source

__all__ = ["ScoredBlock", "Scores", "Timings", "ascore_csv", "iter_scores", "score_csv"]

Predictions = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Errors = Literal["raise", "collect"]


class Timings(NamedTuple):
    """Where the time went, in seconds.

    `forming_s` is reading and encoding, `sending_s` from the first request's start to the last answer. With
    `pipelined=False` the second follows the first; else they overlap and do not add up to `total_s`.
    """

    forming_s: float
    sending_s: float
    total_s: float
    rows_per_s: float


@dataclass(repr=False)
class Scores:
    """The predictions of a table, in row order, and how they came about.

    `predictions` is (rows, outputs) float32, NaN where a row was not scored; `labels` is (rows,) int64 class indices,
    or None where the table has none; `model` is what answered, one version for the whole run.
    """

    predictions: Predictions
    labels: Labels | None
    timings: Timings
    model: ModelInfo
    records: list[RequestRecord] = field(default_factory=list)
    errors: list[ScoringError] = field(default_factory=list)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request: start, rows, bytes, attempts, server, version, status, and its clock in seconds."""
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

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        rows, time_s = len(self), self.timings.total_s
        outputs = " x ".join(f"{size:,}" for size in self.predictions.shape[1:])
        model = f"model {self.model.name!r}" + (f" version {self.model.version}" if self.model.version else "")
        lost = sum((error.stop or 0) - (error.start or 0) for error in self.errors)
        parts = [
            f"{rows:,} rows x {outputs} outputs",
            f"{time_s:.2f} s ({self.timings.rows_per_s:,.0f} rows/s)",
            f"{len(self.records):,} requests",
            model,
            f"{lost:,} rows not scored" if lost else "all rows scored",
        ]
        return f"Scores({', '.join(parts)})"


class ScoredBlock(NamedTuple):
    """Predictions (rows, outputs) float32 of the rows from `start` on, and their labels (rows,) or None."""

    start: int
    predictions: Predictions
    labels: Labels | None


def score_csv(
    source: Source,
    url: str | Sequence[str],
    *,
    chunk_size: int | None = 10_000,
    concurrency: int = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    pipelined: bool = True,
    errors: Errors = "raise",
    retries: int = 5,
    timeout: float = 60.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Scores:
    """Score every row of a table with the model that a server holds; the predictions come back in row order.

    Works in a script, in a notebook and in a thread; Ctrl-C ends it cleanly.

    source: path of a CSV, gzipped CSV or Parquet file, or a pandas or polars DataFrame.
    url: http://host:8000, a model's address http://host/v2/models/NAME, or several servers with the same model.
    chunk_size: rows per request; None sends the whole table as one request.
    concurrency: requests in flight at the same time.
    wire: "v2" (Open Inference Protocol, binary), "v2-json", "v1" (TensorFlow Serving) or "paper" (2023).
    label_prefix: columns whose names start so are labels and are not sent.
    pipelined: False forms all requests before it sends the first, as the system of 2023 did.
    errors: "raise" stops at the first chunk that cannot be scored, "collect" goes on and lists it in `failures`.
    retries: how often a failed request is sent again; only where another try may succeed.
    timeout: seconds that one try of one request may take.
    token: bearer token, for servers that ask for one.
    progress: True, False, or None for a bar where somebody looks: in a terminal or a notebook.

    Raises TableError where the table is at fault (with row and column) and ScoringError where rows were not scored
    (with the rows, the server's reason, and what was scored so far in `.scores`).
    """
    job = _Job(source, url, chunk_size, concurrency, wire, label_prefix, pipelined, errors, retries, timeout, token)
    with Progress(progress, job.table.expected_rows) as bar, LoopThread() as loop:
        return loop.run(job.score(bar), meanwhile=bar.refresh)


async def ascore_csv(
    source: Source,
    url: str | Sequence[str],
    *,
    chunk_size: int | None = 10_000,
    concurrency: int = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    pipelined: bool = True,
    errors: Errors = "raise",
    retries: int = 5,
    timeout: float = 60.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Scores:
    """`score_csv` for use with `await`: the same arguments, the same result, on the loop that is running."""
    job = _Job(source, url, chunk_size, concurrency, wire, label_prefix, pipelined, errors, retries, timeout, token)
    with Progress(progress, job.table.expected_rows) as bar:
        ticker = asyncio.create_task(bar.keep_fresh())
        try:
            return await job.score(bar)
        finally:
            ticker.cancel()


def iter_scores(
    source: Source,
    url: str | Sequence[str],
    *,
    chunk_size: int = 10_000,
    concurrency: int = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    retries: int = 5,
    timeout: float = 60.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Iterator[ScoredBlock]:
    """Score a table of any length block by block, in row order, with a few chunks in memory.

    The arguments are those of `score_csv`. Rows are sent ahead of the block that is handed out, but no further than
    a few chunks: a slow loop around this slows the reading. Raises what `score_csv` raises.
    """
    job = _Job(source, url, chunk_size, concurrency, wire, label_prefix, True, "raise", retries, timeout, token)
    return job.iterate(progress)


class _Job:
    """One table, the servers that shall score it, and how: the arguments, checked."""

    def __init__(
        self,
        source: Source,
        url: str | Sequence[str],
        chunk_size: int | None,
        concurrency: int,
        wire: str,
        label_prefix: str,
        pipelined: bool,
        errors: str,
        retries: int,
        timeout: float,
        token: str | None,
    ) -> None:
        self._began = time.perf_counter()
        _require_whole("chunk_size", chunk_size, 1, "None for the whole table")
        _require_whole("concurrency", concurrency, 1)
        _require_whole("retries", retries, 0)
        if not timeout > 0:
            raise ScoringError(f"timeout={timeout!r} is not a number of seconds above 0.")
        if errors not in ("raise", "collect"):
            raise ScoringError(f'errors={errors!r} is not known; use "raise" or "collect".')
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise ScoringError("No server is given; pass an address such as http://localhost:8000.")
        self.chunk_size = chunk_size
        self.pipelined = pipelined
        self.errors = errors
        self.client = Client(urls, wire_named(wire), concurrency, retries, timeout, token)
        self.table = open_table(source, label_prefix)

    async def score(self, bar: Progress) -> Scores:
        """Score the table and put together everything that came back."""
        collected = _Collected()
        async with self._running() as pipeline:
            async for sent in pipeline.answers():
                bar.advance(sent.rows)
                error = collected.add(sent)
                if error is not None and self.errors == "raise":
                    error.scores = self._scores(collected, pipeline)
                    raise error
            collected.account_for(pipeline.rows)
            return self._scores(collected, pipeline)

    def iterate(self, progress: bool | None) -> Iterator[ScoredBlock]:
        """Score the table and hand it out block by block."""
        with Progress(progress, self.table.expected_rows) as bar, LoopThread() as loop:
            blocks = self._blocks(bar)
            while (block := loop.run(_next(blocks), meanwhile=bar.refresh)) is not None:
                yield block

    async def _blocks(self, bar: Progress) -> AsyncIterator[ScoredBlock]:
        version = ""
        async with self._running() as pipeline:
            async for sent in pipeline.answers(in_order=True):
                bar.advance(sent.rows)
                error = sent.answer.error or _version_change(version, sent)
                if error is not None:
                    raise error
                version = version or sent.answer.record.version
                assert sent.answer.predictions is not None  # noqa: S101  no error, so there are predictions
                yield ScoredBlock(sent.start, sent.answer.predictions, sent.labels)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Pipeline]:
        async with self.client as client:
            model = await client.learn_model()
            self._check_features(model)
            async with Pipeline(self.table, client, self.chunk_size, self.pipelined) as pipeline:
                yield pipeline

    def _check_features(self, model: ModelInfo) -> None:
        shape = model.input_shape
        if shape is None or -1 in shape[1:]:
            return
        wanted, found = int(np.prod(shape[1:])), len(self.table.features)
        if wanted != found:
            raise TableError(
                f"{self.table.name} has {found} feature columns, model {model.name!r} takes {wanted}; label columns "
                f"({len(self.table.labels)} here) are those whose names start with label_prefix."
            )

    def _scores(self, collected: _Collected, pipeline: Pipeline) -> Scores:
        records = collected.records
        began = min((record.began_s for record in records), default=0.0)
        ended = max((record.began_s + record.seconds for record in records), default=0.0)
        total_s = time.perf_counter() - self._began
        predictions = collected.predictions.rows(pipeline.rows)
        timings = Timings(pipeline.forming_s, ended - began, total_s, len(predictions) / total_s)
        model = self.client.model._replace(version=collected.version or self.client.model.version)
        return Scores(predictions, collected.joined_labels(), timings, model, records, collected.errors)


class _Collected:
    """What came back so far."""

    def __init__(self) -> None:
        self.predictions = _GrowingArray()
        self.records: list[RequestRecord] = []
        self.errors: list[ScoringError] = []
        self.version = ""
        self._labels: dict[int, Labels | None] = {}
        self._scored = 0

    def add(self, sent: Sent) -> ScoringError | None:
        """Keep a chunk's answer; the error, where it has one or where another model version answered."""
        self.records.append(sent.answer.record)
        self._labels[sent.start] = sent.labels
        error = sent.answer.error or _version_change(self.version, sent)
        if error is not None or sent.answer.predictions is None:
            self.errors.append(error or ScoringError("No predictions came.", sent.start, sent.start + sent.rows))
            return self.errors[-1]
        self.version = self.version or sent.answer.record.version
        self.predictions.put(sent.start, sent.answer.predictions)
        self._scored += sent.rows
        return None

    def account_for(self, rows: int) -> None:
        """Every row that was read was scored or is listed as failed; anything else is a fault of ruo's own."""
        failed = sum((error.stop or 0) - (error.start or 0) for error in self.errors)
        if rows != self._scored + failed:
            raise ScoringError(f"{rows:,} rows were read, {self._scored:,} scored and {failed:,} failed: some are lost.")

    def joined_labels(self) -> Labels | None:
        """The labels of all rows, or None where there are none or where a row does not name one class."""
        parts = [labels for _, labels in sorted(self._labels.items(), key=lambda item: item[0]) if labels is not None]
        if not parts:
            return None
        joined = np.concatenate(parts)
        unclear = np.flatnonzero(joined == NO_LABEL)
        if len(unclear):
            warnings.warn(
                f"Row {unclear[0]:,}: its label columns do not name exactly one class, so scores.labels is None.",
                stacklevel=2,
            )
            return None
        return joined


class _GrowingArray:
    """Predictions of a table whose length is not known before its end; NaN where none were put."""

    def __init__(self) -> None:
        self._array: Predictions | None = None

    def put(self, start: int, rows: Predictions) -> None:
        """Set the rows from `start` on."""
        stop = start + len(rows)
        if self._array is None or len(self._array) < stop:
            self._grow(stop, rows.shape[1:])
        assert self._array is not None  # noqa: S101  it has just grown
        self._array[start:stop] = rows

    def rows(self, count: int) -> Predictions:
        """The first `count` rows."""
        if self._array is None:
            return np.full((count, 0), np.nan, np.float32)
        if len(self._array) < count:
            self._grow(count, self._array.shape[1:])
        return self._array[:count]

    def _grow(self, stop: int, shape: tuple[int, ...]) -> None:
        old = 0 if self._array is None else len(self._array)
        size = max(stop, old + old // 2)
        if self._array is None:
            self._array = np.empty((size, *shape), np.float32)
        else:
            self._array.resize((size, *shape), refcheck=False)  # no view of it is handed out before the end
        self._array[old:] = np.nan


def _version_change(version: str, sent: Sent) -> ScoringError | None:
    answered = sent.answer.record.version
    if not version or not answered or answered == version:
        return None
    return ScoringError(
        f"Rows {sent.start:,} to {sent.start + sent.rows - 1:,} were answered by version {answered} of the model, "
        f"earlier rows by version {version}; score the table again.",
        sent.start,
        sent.start + sent.rows,
    )


async def _next(blocks: AsyncIterator[ScoredBlock]) -> ScoredBlock | None:
    return await anext(blocks, None)


def _require_whole(name: str, value: int | None, least: int, otherwise: str = "") -> None:
    if value is None and otherwise:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ScoringError(f"{name}={value!r} must be a whole number from {least} up{otherwise and ', or '}{otherwise}.")
