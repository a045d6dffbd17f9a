"""A table through the servers: form chunks in a thread, send several at the same time, collect the answers.

A fixed set of tasks does the work, whatever the table's length: one forms chunks, the others send them. A window bounds
the chunks that were formed and not yet collected, so a slow server or a slow consumer slows the reading. An idle sender
sends a chunk that has been under way for too long once more, to an idle server; the first answer counts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from ruo.client.checkpoint import Checkpoint
from ruo.client.pace import Gate, Pace
from ruo.client.records import Answer, Chunk, Sent
from ruo.client.send import Client
from ruo.errors import TableError
from ruo.table import Block, Labels, Table
from ruo.wire import WireError
from ruo.wire.v2 import DATATYPES

__all__ = ["Pipeline"]

# Chunks that are ready to be sent: enough that no sender waits for the reader, few enough to cost no memory. Of small
# chunks there are more, formed several at a time: handing work to a thread costs as much as forming a hundred rows.
_READY, _ROWS_READY = 2, 20_000
_LOOK_S = 0.05  # how often an idle sender looks for a chunk whose answer is overdue


@dataclass(eq=False)
class _Formed:
    """A chunk on its way; `tries` are its senders' time-outs, cut short once another sender was answered."""

    chunk: Chunk
    labels: Labels | None
    tries: list[asyncio.Timeout] = field(default_factory=list)


class _Done(NamedTuple):
    """A chunk that came back: as one answer, or as several where it had to be split."""

    start: int
    rows: int
    sent: list[Sent]


class Pipeline:
    """One run of one table; an async context manager.

    The client knows its model already. `pipelined=False` forms all chunks before the first is sent.

    Attributes
    ----------
    rows : int
        How many rows were read.
    forming_s : float
        Seconds of reading and encoding.
    """

    def __init__(
        self, table: Table, client: Client, pace: Pace, *, pipelined: bool, checkpoint: Checkpoint | None
    ) -> None:
        self.rows = 0
        self.forming_s = 0.0
        self._table = table
        self._client = client
        self._pace = pace
        self._pipelined = pipelined
        self._checkpoint = checkpoint
        self._blocks = table.blocks(self._rows_at, DATATYPES.get(client.model.input_datatype, DATATYPES["FP32"]))
        self._in_flight = Gate(lambda: pace.in_flight)
        self._window = Gate(lambda: pace.in_flight + self._ready)
        self._formed: asyncio.Queue[_Formed] = asyncio.Queue()
        self._under_way: dict[int, _Formed] = {}
        self._results: asyncio.Queue[_Done | BaseException | None] = asyncio.Queue()
        self._is_formed = False
        client.on_overload = pace.overloaded

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "ruo-form")
        work = [self._form(), *(self._send() for _ in range(self._pace.most_in_flight))]
        self._tasks = [asyncio.create_task(self._report(task)) for task in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._table.stop()
        # after the piece that is being read, also where this is cancelled
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._blocks.close))
        self._thread.shutdown()

    async def answers(self, in_order: bool = False) -> AsyncIterator[Sent]:
        """Yield every row once, as it is answered or in row order. Raises what reading, sending and storing raised."""
        collected, next_row = 0, 0
        early: dict[int, _Done] = {}
        while not self._is_formed or collected < self.rows:
            result = await self._results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:  # all chunks are formed, so the number of rows is known
                continue
            early[result.start] = result
            while (done := early.pop(next_row if in_order else result.start, None)) is not None:
                next_row = done.start + done.rows
                collected += done.rows
                if self._pipelined:
                    await self._window.leave()
                for sent in done.sent:
                    yield sent

    async def _report(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it is raised again where the answers are awaited
            self._results.put_nowait(error)

    @property
    def _ready(self) -> int:
        rows = self._pace.rows
        return _READY if rows is None else max(_READY, min(self._pace.in_flight, _ROWS_READY // rows))

    async def _form(self) -> None:
        loop = asyncio.get_running_loop()
        formed: list[_Formed] = []
        is_more = True
        while is_more:
            count = self._ready // 2
            if self._pipelined:
                await self._window.enter(count)
            items, error = await loop.run_in_executor(self._thread, self._form_some, count)
            is_more = len(items) == count
            for item in items:
                if isinstance(item, _Done):
                    self._results.put_nowait(item)
                elif self._pipelined:
                    self._formed.put_nowait(item)
                else:
                    formed.append(item)
            if error:
                raise error
        for item in formed:
            self._formed.put_nowait(item)
        self._is_formed = True
        self._results.put_nowait(None)

    def _rows_at(self, start: int) -> int | None:
        """How many rows the chunk has that begins at row `start`; all of them are in the checkpoint, or none."""
        stored = self._checkpoint.stored_rows(start) if self._checkpoint else None
        if stored is not None:
            return stored
        expected = self._table.expected_rows()
        rows = self._pace.next_rows(None if expected is None else expected - start)
        border = self._checkpoint.next_stored(start) if self._checkpoint else None
        return rows if border is None else min(border - start, rows or border)

    def _form_some(self, count: int) -> tuple[list[_Formed | _Done], Exception | None]:
        """The next `count` chunks; fewer at the end of the table, or before an error, which comes along."""
        items: list[_Formed | _Done] = []
        try:
            while len(items) < count and (item := self._form_next()):
                items.append(item)
        except Exception as error:  # noqa: BLE001  it is raised once the chunks before it are on their way
            return items, error
        return items, None

    def _form_next(self) -> _Formed | _Done | None:
        began = time.perf_counter()
        block = next(self._blocks, None)
        if block is None:
            return None
        rows = len(block.features)
        self.rows += rows
        if self._checkpoint and self._checkpoint.stored_rows(block.start) == rows:
            answer = self._checkpoint.stored(block.start)
            return _Done(block.start, rows, [Sent(block.start, rows, block.labels, answer)])
        try:
            chunk = self._client.encode(block.start, block.features)
        except WireError as error:
            raise self._name_cell(error, block) from None
        self.forming_s += time.perf_counter() - began
        return _Formed(chunk, block.labels)

    def _name_cell(self, error: WireError, block: Block) -> TableError:
        row = block.start + (error.row or 0)
        column = self._table.features[error.column or 0]
        return TableError(f'{self._table.name}, row {row:,}, column "{column}": {error}', row=row, column=column)

    async def _send(self) -> None:
        while True:
            async with self._in_flight:
                item = await self._next()
                await self._deliver(item)

    async def _next(self) -> _Formed:
        """The next chunk to send: a new one, or one whose answer is overdue."""
        while len(self._client.servers) > 1:
            try:
                async with asyncio.timeout(_LOOK_S):
                    return await self._formed.get()
            except TimeoutError:
                for item in self._under_way.values():
                    if len(item.tries) == 1 and self._client.is_straggling(item.chunk.start):
                        return item
        return await self._formed.get()

    async def _deliver(self, item: _Formed) -> None:
        start = item.chunk.start
        self._under_way[start] = item
        try:
            async with asyncio.timeout(None) as own:
                item.tries.append(own)
                answers = await self._client.send(item.chunk)
        except TimeoutError:
            return  # another sender was answered first
        item.tries.remove(own)
        if self._under_way.get(start) is not item:
            return  # another sender was answered in the same moment
        if item.tries and any(answer.error for answer in answers):
            return  # the other one may do better
        for other in item.tries:
            other.reschedule(0)
            answers[0].record.attempts += 1
        del self._under_way[start]
        for answer in answers:
            if answer.error is None:
                self._pace.observe(answer.record)
                if self._checkpoint:
                    self._checkpoint.add(answer)
        self._results.put_nowait(_Done(start, item.chunk.rows, [_sent(answer, item) for answer in answers]))
        if self._checkpoint:
            self._checkpoint.require_written()


def _sent(answer: Answer, item: _Formed) -> Sent:
    start, rows = answer.record.start, answer.record.rows
    first = start - item.chunk.start
    return Sent(start, rows, None if item.labels is None else item.labels[first : first + rows], answer)
