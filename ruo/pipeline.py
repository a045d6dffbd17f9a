"""The road of a table through the servers: form chunks in a thread, send several at once, collect the answers.

A fixed set of tasks does the work, whatever the table's length: one forms, `concurrency` send. A window bounds the
chunks that were formed and not yet collected, so a slow server or a slow reader of the answers slows the reading.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Self

from ruo.client import Answer, Chunk, Client
from ruo.errors import TableError
from ruo.reading import Block, Labels, Table
from ruo.wire import WireError

__all__ = ["Pipeline", "Sent"]

# Chunks that wait, ready, for a sender: enough that none waits for the reader, few enough to cost no memory.
_READY = 2


class Sent(NamedTuple):
    """A chunk of rows from `start` on that went out, its labels, and what came back."""

    start: int
    rows: int
    labels: Labels | None
    answer: Answer


class _Formed(NamedTuple):
    chunk: Chunk
    labels: Labels | None


class Pipeline:
    """One run of one table. `rows` counts what was read, `forming_s` the seconds of reading and encoding."""

    def __init__(self, table: Table, client: Client, chunk_size: int | None, pipelined: bool) -> None:
        self.rows = 0
        self.forming_s = 0.0
        self._table = table
        self._client = client
        self._pipelined = pipelined
        self._blocks = table.blocks(chunk_size)
        self._window = asyncio.Semaphore(client.concurrency + _READY)
        self._formed: asyncio.Queue[_Formed] = asyncio.Queue()
        self._results: asyncio.Queue[Sent | BaseException | None] = asyncio.Queue()
        self._chunks: int | None = None  # how many there are, once all are formed

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "ruo-form")
        work = [self._form(), *(self._send() for _ in range(self._client.concurrency))]
        self._tasks = [asyncio.create_task(self._report(task)) for task in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.submit(self._blocks.close)  # behind the block that may be in the making
        self._thread.shutdown()  # waits for that block at most; after a whole run there is none

    async def answers(self, in_order: bool = False) -> AsyncIterator[Sent]:
        """Every chunk once, as it is answered or in row order. Raises what reading the table raised."""
        answered, next_row = 0, 0
        early: dict[int, Sent] = {}
        while self._chunks is None or answered < self._chunks:
            result = await self._results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:  # all chunks are formed: look at the count again
                continue
            answered += 1
            early[result.start] = result
            while (sent := early.pop(next_row if in_order else result.start, None)) is not None:
                next_row = sent.start + sent.rows
                self._window.release()
                yield sent

    async def _report(self, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  it is raised again where the answers are awaited
            self._results.put_nowait(error)

    async def _form(self) -> None:
        loop = asyncio.get_running_loop()
        formed: list[_Formed] = []
        count = 0
        while True:
            if self._pipelined:
                await self._window.acquire()
            item = await loop.run_in_executor(self._thread, self._form_next)
            if item is None:
                break
            count += 1
            if self._pipelined:
                self._formed.put_nowait(item)
            else:
                formed.append(item)
        for item in formed:
            self._formed.put_nowait(item)
        self._chunks = count
        self._results.put_nowait(None)

    def _form_next(self) -> _Formed | None:
        began = time.perf_counter()
        block = next(self._blocks, None)
        if block is None:
            return None
        try:
            chunk = self._client.encode(block.start, block.features)
        except WireError as error:
            raise self._name_cell(error, block) from None
        self.rows += len(block.features)
        self.forming_s += time.perf_counter() - began
        return _Formed(chunk, block.labels)

    def _name_cell(self, error: WireError, block: Block) -> TableError:
        row = block.start + (error.row or 0)
        column = self._table.features[error.column or 0]
        return TableError(f'{self._table.name}, row {row:,}, column "{column}": {error}', row=row, column=column)

    async def _send(self) -> None:
        while True:
            chunk, labels = await self._formed.get()
            answer = await self._client.send(chunk)
            self._results.put_nowait(Sent(chunk.start, chunk.rows, labels, answer))
