"""A whole table to its predictions: `score_csv`, `ascore_csv` and `iter_scores` over one asynchronous core.

    table -> blocks -> chunks (encoded, in a thread) -> queue -> `concurrency` senders -> answers -> Scores

Reading, sending and receiving overlap, and no more than a few chunks are in memory at any time. With a checkpoint
every answer goes to the disk too, and what is there already is taken from there.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ruo.client.checkpoint import Checkpoint
from ruo.client.event_loop import LoopLag, LoopThread
from ruo.client.pace import ChunkSize, Concurrency, Pace
from ruo.client.pipeline import Pipeline
from ruo.client.progress import Progress
from ruo.client.records import ModelInfo, RequestRecord
from ruo.client.scores import Choices, Collected, Consistency, Predictions, Scores, Timings
from ruo.client.send import Client, wire_named
from ruo.errors import ArgumentError, TableError
from ruo.table import Labels, open_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["ScoredBlock", "ascore_csv", "iter_scores", "score_csv"]

Errors = Literal["raise", "collect"]


class ScoredBlock(NamedTuple):
    """Predictions (rows, outputs) float32 of the rows from `start` on, and their labels (rows,) or None."""

    start: int
    predictions: Predictions
    labels: Labels | None


def score_csv(
    source: Source,
    url: str | Sequence[str],
    *,
    chunk_size: ChunkSize = 10_000,
    concurrency: Concurrency = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    pipelined: bool = True,
    errors: Errors = "raise",
    retries: int = 10,
    timeout: float = 60.0,
    checkpoint: str | os.PathLike[str] | None = None,
    allow_version_change: bool = False,
    shard: tuple[int, int] | None = None,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Scores:
    """Score every row of a table with the model that a server holds; the predictions come back in row order.

    Works in a script, in a notebook and in a thread; Ctrl-C ends it cleanly.

    source: path of a CSV, gzipped CSV or Parquet file, or a pandas or polars DataFrame.
    url: http://host:8000, a model's address http://host/v2/models/NAME, or several servers with the same model.
    chunk_size: rows per request; None sends the whole table as one request, "auto" finds a good size on the way.
    concurrency: requests in flight at the same time; "auto" finds how many pay, and makes way for an overloaded server.
    wire: "v2" (Open Inference Protocol, binary), "v2-json", "v1" (TensorFlow Serving) or "paper" (2023).
    label_prefix: columns whose names start so are labels and are not sent.
    pipelined: False forms all requests before it sends the first, as the system of 2023 did.
    errors: "raise" stops at the first chunk that cannot be scored, "collect" goes on and lists it in `failures`.
    retries: how often a failed request is sent again, where another try may succeed, and for a minute at most; one that
        is too large for the server is halved. 0 sends every request once, as it is.
    timeout: seconds that one try of one request may take.
    checkpoint: a file that keeps what was scored; after a crash the same call scores only what is missing.
    allow_version_change: go on where another version of the model answers; `requests` then tells which answered what.
    shard: (i, n) scores only the i-th of n even parts of the table, counted from 0.
    token: bearer token, for servers that ask for one; the environment variable RUO_TOKEN where none is given.
    ca: file with the certificates (PEM) to trust for https, where they are not the system's.
    progress: True, False, or None for a bar where somebody looks: in a terminal or a notebook.

    Raises TableError where the table is at fault (with row and column), ScoringError where rows were not scored
    (with the rows, the server's reason, and what was scored so far in `.scores`), and CheckpointError where the
    checkpoint is of another run or in use.
    """
    job = _Job(**_without(locals(), "progress"))
    with Progress(progress, job.table.expected_rows) as bar, LoopThread() as loop:
        return loop.run(job.score(bar), meanwhile=bar.refresh)


async def ascore_csv(
    source: Source,
    url: str | Sequence[str],
    *,
    chunk_size: ChunkSize = 10_000,
    concurrency: Concurrency = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    pipelined: bool = True,
    errors: Errors = "raise",
    retries: int = 10,
    timeout: float = 60.0,
    checkpoint: str | os.PathLike[str] | None = None,
    allow_version_change: bool = False,
    shard: tuple[int, int] | None = None,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Scores:
    """`score_csv` for use with `await`: the same arguments, the same result, on the loop that is running."""
    job = _Job(**_without(locals(), "progress"))
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
    chunk_size: ChunkSize = 10_000,
    concurrency: Concurrency = 8,
    wire: str = "v2",
    label_prefix: str = "Label_",
    retries: int = 10,
    timeout: float = 60.0,
    checkpoint: str | os.PathLike[str] | None = None,
    allow_version_change: bool = False,
    shard: tuple[int, int] | None = None,
    token: str | None = None,
    ca: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Iterator[ScoredBlock]:
    """Score a table of any length block by block, in row order, with a few chunks in memory.

    The arguments are those of `score_csv`. Rows are sent ahead of the block that is handed out, but no further than
    a few chunks: a slow loop around this slows the reading. Raises what `score_csv` raises.
    """
    return _Job(**_without(locals(), "progress"), pipelined=True, errors="raise").iterate(progress)


@dataclass(repr=False)  # it holds the token
class _Job:
    """One table, the servers that shall score it, and how: the arguments of `score_csv`, checked."""

    source: Source
    url: str | Sequence[str]
    chunk_size: ChunkSize
    concurrency: Concurrency
    wire: str
    label_prefix: str
    pipelined: bool
    errors: str
    retries: int
    timeout: float
    checkpoint: str | os.PathLike[str] | None
    allow_version_change: bool
    shard: tuple[int, int] | None
    token: str | None
    ca: str | os.PathLike[str] | None

    def __post_init__(self) -> None:
        self._began = time.perf_counter()
        _require_whole("chunk_size", self.chunk_size, 1, '"auto", or None for the whole table', ("auto", None))
        _require_whole("concurrency", self.concurrency, 1, '"auto"', ("auto",))
        _require_whole("retries", self.retries, 0)
        if not self.timeout > 0:
            raise ArgumentError(f"timeout={self.timeout!r} is not a number of seconds above 0.")
        if self.errors not in ("raise", "collect"):
            raise ArgumentError(f'errors={self.errors!r} is not known; use "raise" or "collect".')
        if self.shard is not None and not 0 <= self.shard[0] < self.shard[1]:
            raise ArgumentError(f"shard={self.shard!r} is no part; (0, 4) is the first of four, (3, 4) the last.")
        urls = [self.url] if isinstance(self.url, str) else list(self.url)
        if not urls:
            raise ArgumentError("No server is given; pass an address such as http://localhost:8000.")
        self.client = Client(
            urls,
            wire_named(self.wire),
            self.retries,
            self.timeout,
            self.token or os.environ.get("RUO_TOKEN"),
            None if self.ca is None else os.fspath(self.ca),
            pins_version=not self.allow_version_change,
        )
        self.table = open_table(self.source, self.label_prefix, self.shard)

    async def score(self, bar: Progress) -> Scores:
        """Score the table and put together everything that came back."""
        consistency = Consistency(self.allow_version_change)
        collected = Collected(consistency, self.table.expected_rows)
        async with LoopLag() as self._lag, self._running() as (pipeline, pace):
            async for sent in pipeline.answers():
                bar.advance(sent.rows)
                error = collected.add(sent)
                if error is not None and self.errors == "raise":
                    error.scores = self._scores(collected, consistency, pipeline, pace)
                    raise error
            collected.account_for(pipeline.rows)
            return self._scores(collected, consistency, pipeline, pace)

    def iterate(self, progress: bool | None) -> Iterator[ScoredBlock]:
        """Score the table and hand it out block by block."""
        with Progress(progress, self.table.expected_rows) as bar, LoopThread() as loop:
            blocks = self._blocks(bar)
            while (block := loop.run(_next(blocks), meanwhile=bar.refresh)) is not None:
                yield block

    async def _blocks(self, bar: Progress) -> AsyncIterator[ScoredBlock]:
        consistency = Consistency(self.allow_version_change)
        async with self._running() as (pipeline, _):
            async for sent in pipeline.answers(in_order=True):
                bar.advance(sent.rows)
                error = consistency.error(sent)
                if error is not None:
                    raise error
                assert sent.answer.predictions is not None  # no error, so there are predictions
                yield ScoredBlock(sent.start, sent.answer.predictions, sent.labels)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[tuple[Pipeline, Pace]]:
        with Checkpoint(self.checkpoint) if self.checkpoint else nullcontext() as checkpoint:
            async with self.client as client:
                pace = Pace(self.chunk_size, self.concurrency, client.servers)
                prepare = partial(self._prepare, checkpoint)
                async with Pipeline(self.table, client, pace, self.pipelined, checkpoint, prepare) as pipeline:
                    yield pipeline, pace
            if checkpoint:
                await asyncio.to_thread(checkpoint.finish)

    async def _prepare(self, checkpoint: Checkpoint | None) -> None:
        """Learn the model, and whether it fits the table and what an earlier run stored."""
        model = await self.client.learn_model(checkpoint.key["version"] if checkpoint and checkpoint.key else None)
        self._check_features(model)
        if checkpoint:
            checkpoint.begin(await asyncio.to_thread(self._key))

    def _key(self) -> dict[str, object]:
        """What a run must have in common with an earlier one to go on where that stopped."""
        model, span = self.client.model, self.table.span
        may_change = self.allow_version_change
        return {
            "data": self.table.fingerprint(),
            "shard": span and list(span),
            "model": model.name,
            "version": "" if may_change else model.version,
            "sha256": "" if may_change else model.sha256,
            "label_prefix": self.label_prefix,
            "chunk_size": self.chunk_size,
            "wire": self.client.wire.name,
        }

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

    def _scores(self, collected: Collected, consistency: Consistency, pipeline: Pipeline, pace: Pace) -> Scores:
        sent = [record for record in collected.records if not np.isnan(record.began_s)]
        began = min((record.began_s for record in sent), default=0.0)
        ends = [record.began_s + record.seconds for record in sent]
        first_s = min(ends, default=np.nan) - self._began
        total_s = time.perf_counter() - self._began
        predictions = collected.predictions(pipeline.rows)
        return Scores(
            predictions,
            collected.labels(pipeline.rows),
            Timings(
                pipeline.forming_s,
                max(ends, default=0.0) - began,
                total_s,
                len(predictions) / total_s,
                first_s,
                self._lag.seconds,
            ),
            self.client.model._replace(version=consistency.version or self.client.model.version),
            collected.records,
            collected.errors,
            Choices(self.client.wire.name, _usual_rows(collected.records), pace.in_flight),
            self.table.span,
        )


def _usual_rows(records: list[RequestRecord]) -> int:
    """How many rows the request has in which the middle row goes out."""
    rows = np.sort([record.rows for record in records] or [0])
    return int(rows[np.searchsorted(rows.cumsum(), rows.sum() / 2)])


async def _next(blocks: AsyncIterator[ScoredBlock]) -> ScoredBlock | None:
    return await anext(blocks, None)


def _without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != name}


def _require_whole(
    name: str, value: object, least: int, otherwise: str = "", words: tuple[str | None, ...] = ()
) -> None:
    if value in words:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        also = otherwise and f", {otherwise}"
        raise ArgumentError(f"{name}={value!r} must be a whole number from {least} up{also}.")
