"""One run: a table, the servers that score it, and how; its answers collected, handed out in blocks, or written."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import polars as pl

from ruo.client.checkpoint import Checkpoint
from ruo.client.collected import Collected, Consistency, Tally
from ruo.client.event_loop import LoopLag, LoopThread
from ruo.client.layout import Layout, whole_file
from ruo.client.options import ScoreOptions
from ruo.client.pace import Pace
from ruo.client.pipeline import Pipeline
from ruo.client.progress import Progress
from ruo.client.scores import Choices, Predictions, Scores
from ruo.client.send import Client
from ruo.client.writer import ScoredFile, Writer
from ruo.errors import ArgumentError, CheckpointError, ScoringError, warn
from ruo.tables import Labels, Source, open_table
from ruo.tables.columns import ModelInput
from ruo.tables.options import TableOptions


class ScoredBlock(NamedTuple):
    """Consecutive rows, from row `start` on."""

    start: int
    predictions: Predictions  # (rows, outputs) float32
    labels: Labels | None  # (rows,) class indices, or names of a text column; None if the table has no labels
    kept: pl.DataFrame | None = None  # the kept columns


class Run:
    """One table, the servers that score it, and how."""

    def __init__(self, source: Source, url: str | Sequence[str], options: ScoreOptions) -> None:
        self._began = time.perf_counter()
        self._unclear_label: int | None = None
        self.options = options
        urls = [url] if isinstance(url, str) else list(url)
        if not urls:
            raise ArgumentError("No server is given; pass an address such as http://localhost:8000.")
        self.client = Client(urls, options)
        self.table = open_table(source, options.of_table, options.shard)
        self._layout = Layout(options.prediction_names, options.argmax, self.table.classes)

    async def score(self, bar: Progress) -> Scores:
        """Score the table and collect all answers."""
        collected = Collected(self.options.allow_version_change, self.table.expected_rows)
        async with LoopLag() as lag:
            try:
                async with self._running() as pipeline:
                    self._check_layout()
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

    async def write(self, path: Path, bar: Progress) -> ScoredFile:
        """Score the table and write its predictions while they come."""
        tally = Tally(self.options.allow_version_change)
        with whole_file(path) as unfinished:
            async with LoopLag() as lag, self._running() as pipeline:
                self._check_layout()
                tally.model = self.client.model
                key = asyncio.create_task(asyncio.to_thread(self._key)) if self.table.span else None
                async with Writer(unfinished, path.suffix, self._layout, self._row_shape()) as writer:
                    async for answer in pipeline.answers(in_order=True):
                        bar.advance(answer.record)
                        error = tally.add(answer)
                        if error is not None and self.options.errors == "raise":
                            raise error
                        predictions = None if error is not None else answer.predictions
                        await writer.put(answer.record.rows, predictions, answer.labels, answer.kept)
                    tally.account_for(pipeline.rows)
                    of_all = self._outcome(tally, pipeline, lag)
                    shape, facts = writer.row_shape or (), await key if key else {}
                    written = ScoredFile(path, pipeline.rows, shape, key=facts, **of_all)
                    writer.facts = written.facts(written.rows)
                    await writer.finish()
        return written

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
        """Warn that there are no labels."""
        if self._unclear_label is None:
            return
        row = self._unclear_label
        warn(f"Row {row:,}: its label columns do not name exactly one class, so scores.labels is None.")

    async def _blocks(self, bar: Progress) -> AsyncGenerator[ScoredBlock, None]:
        consistency = Consistency(self.options.allow_version_change)
        async with self._running() as pipeline:
            consistency.model = self.client.model
            async for answer in pipeline.answers(in_order=True):
                bar.advance(answer.record)
                if (error := consistency.error(answer)) is not None:
                    raise error
                assert answer.predictions is not None  # because there is no error
                yield ScoredBlock(answer.record.start, answer.predictions, answer.labels, answer.kept)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Pipeline]:
        options = self.options
        stored, client = Checkpoint(options.checkpoint) if options.checkpoint else nullcontext(), self.client
        async with stored as checkpoint, client.http, client.servers:
            stored_version = checkpoint.key.get("version") if checkpoint and checkpoint.key else None
            model = await client.learn_model(stored_version, self.table.inputs or ())
            self.table.match(model.name, [ModelInput(tensor.name, tensor.width) for tensor in model.inputs])
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
        of_table = {option.name: getattr(self.table.options, option.name) for option in fields(TableOptions)}
        changed = {name: value for name, value in of_table.items() if value != getattr(TableOptions, name)}
        described = {"input_name": options.input_name, "datatype": options.datatype}
        key = {
            "data": self._fingerprint,
            "shard": span and list(span),
            "model": model.name,
            "version": "" if options.allow_version_change else model.version,
            "sha256": "" if options.allow_version_change else model.sha256,
            "output": model.output_name,
            "label_prefix": self.table.options.label_prefix,
            "chunk_size": options.chunk_size,
            "wire": self.client.wire.name,
            **{name: value for name, value in described.items() if value is not None},
            **changed,
        }
        as_it_is_stored: dict[str, Any] = orjson.loads(orjson.dumps(key))
        return as_it_is_stored

    def _row_shape(self) -> tuple[int, ...] | None:
        """The shape of one prediction as far as the model's metadata tell it; (1,) for a single number."""
        shape = (self.client.model.output_shape or (-1, -1))[1:] or (1,)
        return None if -1 in shape else shape

    def _check_layout(self) -> None:
        """Refuse names that do not fit before anything is sent."""
        if (shape := self._row_shape()) is not None:
            self._layout.columns(math.prod(shape), self.table.kept, bool(self.table.labels))

    def _scores(self, collected: Collected, pipeline: Pipeline, lag: LoopLag, key: dict[str, Any]) -> Scores:
        labels, classes, self._unclear_label = collected.labels(pipeline.rows, self.options.prediction_names)
        return Scores(
            collected.predictions(pipeline.rows),
            labels,
            index=self.table.index,
            classes=self.table.classes or classes,
            kept_columns=collected.kept(pipeline.rows),
            layout=self._layout,
            key=key,
            **self._outcome(collected, pipeline, lag),
        )

    def _outcome(self, tally: Tally, pipeline: Pipeline, lag: LoopLag) -> dict[str, Any]:
        return {
            "timings": tally.timings(self._began, pipeline.rows, pipeline.forming_s, lag.seconds),
            "model": tally.model_of_all()._replace(output_name=self.client.model.output_name),
            "records": tally.records,
            "errors": tally.errors,
            "choices": Choices(self.client.wire.name, tally.usual_rows(), pipeline.pace.in_flight),
            "not_scored": pipeline.rows - tally.scored,
            "not_finite": pipeline.not_finite,
        }


async def _next(blocks: AsyncIterator[ScoredBlock]) -> ScoredBlock | None:
    return await anext(blocks, None)
