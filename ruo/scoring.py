"""A whole table to its predictions: `score_csv`, `ascore_csv` and `iter_scores` over one asynchronous core.

    table -> blocks -> chunks (encoded, in a thread) -> queue -> `concurrency` senders -> answers -> Scores

Reading, sending and receiving overlap, and no more than a few chunks are in memory at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ruo.client import Client, ModelInfo, wire_named
from ruo.errors import ScoringError, TableError
from ruo.loops import LoopThread
from ruo.pipeline import Pipeline
from ruo.progress import Progress
from ruo.reading import Labels, open_table
from ruo.scores import Collected, Predictions, Scores, Timings, version_change

if TYPE_CHECKING:
    from ruo.reading import Source

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
        collected = Collected()
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
                error = sent.answer.error or version_change(version, sent)
                if error is not None:
                    raise error
                version = version or sent.answer.record.version
                assert sent.answer.predictions is not None  # no error, so there are predictions
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

    def _scores(self, collected: Collected, pipeline: Pipeline) -> Scores:
        records = collected.records
        began = min((record.began_s for record in records), default=0.0)
        ended = max((record.began_s + record.seconds for record in records), default=0.0)
        total_s = time.perf_counter() - self._began
        predictions = collected.predictions(pipeline.rows)
        timings = Timings(pipeline.forming_s, ended - began, total_s, len(predictions) / total_s)
        model = self.client.model._replace(version=collected.version or self.client.model.version)
        return Scores(predictions, collected.labels(pipeline.rows), timings, model, records, collected.errors)


async def _next(blocks: AsyncIterator[ScoredBlock]) -> ScoredBlock | None:
    return await anext(blocks, None)


def _require_whole(name: str, value: int | None, least: int, otherwise: str = "") -> None:
    if value is None and otherwise:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ScoringError(
            f"{name}={value!r} must be a whole number from {least} up{otherwise and ', or '}{otherwise}."
        )
