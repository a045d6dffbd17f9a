"""Predictions to a file while they come: in row order, in bounded memory, and the same bytes however they were cut."""

import asyncio
import queue
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from ruo.client.layout import Layout, require_fit
from ruo.client.records import Answer
from ruo.client.scores import METADATA, Outcome
from ruo.errors import OutputError

_WAITING = 2  # chunks
_SLICE_ROWS = 10_000  # the text of so many rows at once is in memory, for each thread of polars
_GROUP_ROWS = 100_000  # of Parquet, fewer where they are wide; set by the columns alone, so that the bytes are
_GROUP_CELLS = 4_000_000


@dataclass(repr=False, eq=False)
class ScoredFile(Outcome):
    """A file of predictions that `score_to_file` wrote; `row_shape` is that of one row's. The rest is as in `Scores`."""

    path: Path
    rows: int
    row_shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return self._summary(self.rows, self.row_shape)


class Writer(AbstractAsyncContextManager["Writer"]):
    """Writes the answers that are `put` during an `async with` block, in a thread."""

    def __init__(self, path: Path, suffix: str, layout: Layout, row_shape: tuple[int, ...] | None) -> None:
        self.row_shape = row_shape
        self._path = path
        self._suffix = suffix
        self._layout = layout
        self._facts = ""
        self._held: list[Answer] = []  # not scored, and the shape of a prediction is not known yet
        self._queue: queue.Queue[pl.DataFrame | None] = queue.Queue(_WAITING)
        self._schema: pl.Schema | None = None
        self._sink: asyncio.Task[None] | None = None
        self._is_stopped = False

    async def __aexit__(self, error: object, *_: object) -> None:
        self._is_stopped = True
        if error is not None and self._sink is not None:
            with suppress(Exception):
                await asyncio.shield(self._sink)

    async def put(self, answer: Answer) -> None:
        """Write the rows of an answer next; waits while too many wait, and raises what the writing raised."""
        self._held.append(answer)
        if answer.predictions is not None:
            self.row_shape = answer.predictions.shape[1:]
        if self.row_shape is not None:
            await self._release(self.row_shape)

    async def finish(self, facts: str) -> None:
        """Write the end of the file, with the facts as its metadata."""
        row_shape = self.row_shape or (0,)
        await self._release(row_shape)
        if self._sink is None:
            await self._queue_frame(self._layout.frame(np.empty((0, *row_shape), np.float32), None, None))
        self._facts = facts
        await self._queue_frame(None)
        assert self._sink is not None
        await self._sink

    async def _release(self, row_shape: tuple[int, ...]) -> None:
        for record, predictions, error, labels, kept in self._held:
            if predictions is None:
                predictions = np.full((record.rows, *row_shape), np.nan, np.float32)
            frame = self._layout.frame(predictions, labels, kept)
            if error and not frame.width:  # no row was scored, and the server does not tell how many outputs there are
                raise error
            if self._schema not in (None, frame.schema) and self._suffix == ".parquet":
                what = f"The labels from row {record.start:,} on are text, and all above are missing"
                raise OutputError(f"{what}, which Parquet cannot hold; write a .csv, or put a labelled row first.")
            self._schema = frame.schema
            await self._queue_frame(frame)
        self._held.clear()

    async def _queue_frame(self, frame: pl.DataFrame | None) -> None:
        if self._sink is None:
            assert frame is not None  # which is the end
            require_fit(frame.schema, self._suffix)
            self._sink = asyncio.create_task(asyncio.to_thread(self._write, frame.schema))
        while not self._sink.done():
            with suppress(queue.Full):
                self._queue.put_nowait(frame)
                return
            await asyncio.sleep(0.002)
        self._sink.result()

    # --- the methods below run in the thread

    def _write(self, schema: pl.Schema) -> None:
        frames = register_io_source(self._frames, schema=schema)
        rows = max(1, min(_GROUP_ROWS, _GROUP_CELLS // max(1, len(schema))))
        try:
            if self._suffix == ".csv":
                frames.sink_csv(self._path)
            else:
                frames.sink_parquet(self._path, row_group_size=rows, metadata=lambda _: {METADATA: self._facts})
        except KeyboardInterrupt:  # polars raises it in each of its threads, and here it would end the event loop
            raise InterruptedError("interrupted") from None

    def _frames(self, *_: Any) -> Iterator[pl.DataFrame]:
        while not self._is_stopped:
            with suppress(queue.Empty):
                if (frame := self._queue.get(timeout=0.05)) is None:
                    return
                yield from frame.iter_slices(_SLICE_ROWS)
        raise InterruptedError("the run ended before the file was whole")
