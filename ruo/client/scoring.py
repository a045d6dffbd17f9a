"""A whole table to its predictions: `score_csv`, `ascore_csv` and `iter_scores` over one asynchronous core.

The server describes its model first, since the table is read in the model's datatype. Then reading, sending and
receiving overlap, with no more than a few chunks in memory.
"""

import asyncio
import math
import sys
import time
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import cached_property
from typing import Any, NamedTuple, Unpack

from ruo.client.checkpoint import Checkpoint
from ruo.client.collected import Collected, Consistency
from ruo.client.event_loop import LoopLag, LoopThread
from ruo.client.options import BlockKeywords, ScoreKeywords, ScoreOptions, takes_options
from ruo.client.pace import Pace
from ruo.client.pipeline import Pipeline
from ruo.client.progress import Progress
from ruo.client.records import ModelInfo
from ruo.client.scores import Choices, Predictions, Scores
from ruo.client.send import Client
from ruo.errors import ArgumentError, CheckpointError, ScoringError, TableError
from ruo.table import Labels, Source, open_table


class ScoredBlock(NamedTuple):
    """Consecutive rows, from row `start` on."""

    start: int
    predictions: Predictions  # (rows, outputs) float32
    labels: Labels | None  # (rows,) class indices; None if the table has no labels


@takes_options()
def score_csv(source: Source, url: str | Sequence[str], **options: Unpack[ScoreKeywords]) -> Scores:
    """Score every row of a table with the model on a server; the predictions come back in row order.

    Works in a script, in a notebook and in a thread; Ctrl-C stops it cleanly.

    Parameters
    ----------
    source : path, pandas.DataFrame or polars.DataFrame
        A CSV, gzipped CSV or Parquet file, or a DataFrame.
    url : str or sequence of str
        http://host:8000, a model's address http://host/v2/models/NAME or .../NAME/versions/VERSION (/v1/models/... speaks
        V1), or several servers with the same model.
    **options

    Raises
    ------
    ArgumentError
        If an argument is wrong.
    TableError
        If the table is at fault; it names the row and column.
    ScoringError
        If rows were not scored; it names them and the server's reason, and `.scores` holds what was scored.
    CheckpointError
        If the checkpoint is of another run, in use, damaged, or cannot be written.

    Examples
    --------
    >>> scores = score_csv("testset.csv", "http://localhost:8000")
    >>> scores.predictions.argmax(axis=1)
    """
    run = _Run(source, url, ScoreOptions(**options))
    with Progress(run.options.progress, run.table.expected_rows) as bar, LoopThread() as loop:
        scores = loop.run(run.score(bar), meanwhile=bar.refresh)
    run.warn_of_labels()
    return scores


@takes_options()
async def ascore_csv(source: Source, url: str | Sequence[str], **options: Unpack[ScoreKeywords]) -> Scores:
    """`score_csv` for use with `await`: the same result, without blocking the running loop.

    Parameters
    ----------
    source : path, pandas.DataFrame or polars.DataFrame
    url : str or sequence of str
    **options

    Examples
    --------
    >>> scores = await ascore_csv("testset.csv", "http://localhost:8000")
    """
    run = await asyncio.to_thread(_Run, source, url, ScoreOptions(**options))
    with Progress(run.options.progress, run.table.expected_rows) as bar:
        ticker = asyncio.create_task(bar.keep_fresh())
        try:
            scores = await run.score(bar)
        finally:
            ticker.cancel()
    run.warn_of_labels()
    return scores


@takes_options("pipelined", "errors")
def iter_scores(source: Source, url: str | Sequence[str], **options: Unpack[BlockKeywords]) -> Iterator[ScoredBlock]:
    """Score a table of any length block by block, in row order and in bounded memory.

    A slow consumer slows the reading. Raises what `score_csv` raises.

    Parameters
    ----------
    source : path, pandas.DataFrame or polars.DataFrame
    url : str or sequence of str
    **options

    Examples
    --------
    >>> for block in iter_scores("testset.csv", "http://localhost:8000"):
    ...     print(block.start, block.predictions.shape)
    """
    return _Run(source, url, ScoreOptions(pipelined=True, errors="raise", **options)).iterate()


class _Run:
    """One table, the servers that score it, and how."""

    def __init__(self, source: Source, url: str | Sequence[str], options: ScoreOptions) -> None:
        self._began = time.perf_counter()
        self._unclear_label: int | None = None
        self.options = options
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise ArgumentError("No server is given; pass an address such as http://localhost:8000.")
        self.client = Client(urls, options)
        self.table = open_table(source, options.label_prefix, options.shard)

    async def score(self, bar: Progress) -> Scores:
        """Score the table and collect all answers."""
        collected = Collected(self.options.allow_version_change, self.table.expected_rows)
        async with LoopLag() as lag:
            try:
                async with self._running() as pipeline:
                    collected.model = self.client.model
                    # the other parts are of the same table if its fingerprint is the same
                    key = asyncio.create_task(asyncio.to_thread(self._key)) if self.table.span else None
                    async for answer in pipeline.answers():
                        bar.advance(answer.record)
                        error = collected.add(answer)
                        if error is not None and self.options.errors == "raise":
                            raise error
                    collected.account_for(pipeline.rows)
                    scores = self._scores(collected, pipeline, lag, await key if key else {})
            except (ScoringError, CheckpointError) as error:
                if collected.records:
                    error.scores = self._scores(collected, pipeline, lag, {})
                raise
        return scores

    def iterate(self) -> Iterator[ScoredBlock]:
        """Score the table and yield it block by block."""
        with Progress(self.options.progress, self.table.expected_rows) as bar, LoopThread() as loop:
            blocks = self._blocks(bar)
            try:
                while (block := loop.run(_next(blocks), meanwhile=bar.refresh)) is not None:
                    yield block
            finally:
                loop.run(blocks.aclose())

    def warn_of_labels(self) -> None:
        """Warn that there are no labels, at the caller's line."""
        if self._unclear_label is None:
            return
        frame, level = sys._getframe(), 1  # noqa: SLF001  as the documentation of `warnings` does
        while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in ("ruo", "asyncio"):
            frame, level = frame.f_back, level + 1
        row = self._unclear_label
        message = f"Row {row:,}: its label columns do not name exactly one class, so scores.labels is None."
        warnings.warn(message, stacklevel=level)

    async def _blocks(self, bar: Progress) -> AsyncGenerator[ScoredBlock, None]:
        consistency = Consistency(self.options.allow_version_change)
        async with self._running() as pipeline:
            consistency.model = self.client.model
            async for answer in pipeline.answers(in_order=True):
                bar.advance(answer.record)
                if (error := consistency.error(answer)) is not None:
                    raise error
                assert answer.predictions is not None  # because there is no error
                yield ScoredBlock(answer.record.start, answer.predictions, answer.labels)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Pipeline]:
        options = self.options
        stored, client = Checkpoint(options.checkpoint) if options.checkpoint else nullcontext(), self.client
        async with stored as checkpoint, client.http, client.servers:
            stored_version = checkpoint.key.get("version") if checkpoint and checkpoint.key else None
            self._check_features(await client.learn_model(stored_version))
            if checkpoint:
                await checkpoint.begin(await asyncio.to_thread(self._key))
            pace = Pace(options.chunk_size, options.concurrency, len(client.servers))
            async with Pipeline(self.table, client, pace, options.pipelined, checkpoint) as pipeline:
                yield pipeline
                await client.require_same_model()

    @cached_property
    def _fingerprint(self) -> str:
        return self.table.fingerprint()

    def _key(self) -> dict[str, Any]:
        """What must be the same for a run to resume an earlier one."""
        options, model, span = self.options, self.client.model, self.table.span
        return {
            "data": self._fingerprint,
            "shard": span and list(span),
            "model": model.name,
            "version": "" if options.allow_version_change else model.version,
            "sha256": "" if options.allow_version_change else model.sha256,
            "output": model.output_name,
            "label_prefix": options.label_prefix,
            "chunk_size": options.chunk_size,
            "wire": self.client.wire.name,
        }

    def _check_features(self, model: ModelInfo) -> None:
        shape, columns = model.input_shape, len(self.table.features)
        if shape is not None and -1 not in shape[1:] and math.prod(shape[1:]) != columns:
            raise TableError(
                f"{self.table.name} has {columns} feature columns, model {model.name!r} takes {math.prod(shape[1:])}; "
                f"label columns ({len(self.table.labels)} here) are those whose names start with label_prefix."
            )

    def _scores(self, collected: Collected, pipeline: Pipeline, lag: LoopLag, key: dict[str, Any]) -> Scores:
        labels, self._unclear_label = collected.labels(pipeline.rows)
        return Scores(
            collected.predictions(pipeline.rows),
            labels,
            collected.timings(self._began, pipeline.rows, pipeline.forming_s, lag.seconds),
            collected.model_of_all()._replace(output_name=self.client.model.output_name),
            collected.records,
            collected.errors,
            Choices(self.client.wire.name, collected.usual_rows(), pipeline.pace.in_flight),
            pipeline.rows - collected.scored,
            pipeline.not_finite,
            self.table.index,
            key,
        )


async def _next(blocks: AsyncIterator[ScoredBlock]) -> ScoredBlock | None:
    return await anext(blocks, None)
