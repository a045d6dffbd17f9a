"""A table through the servers: encode chunks in a thread, send several at the same time, collect the answers.

One task encodes chunks, the others send them. A window bounds the chunks between encoding and collection, so a slow server
or consumer slows the reading.
"""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Self

from ruo.client.checkpoint import Checkpoint
from ruo.client.pace import Gate, Pace
from ruo.client.records import Answer, Chunk
from ruo.client.send import Client
from ruo.errors import TableError
from ruo.tables import Block, Table
from ruo.wire import WireError
from ruo.wire.messages import rows_not_finite

# Chunks ready to be sent: enough that no sender waits for the reader, few enough to cost no memory. Small chunks are
# formed several at a time, since handing work to a thread costs as much as forming a hundred rows.
_READY, _ROWS_READY = 2, 20_000
_PATIENCE_S = 5.0  # with a source that is waited for as the run ends


# A chunk's answers (several if it had to be split), an error that ends the run, or None once all chunks are formed.
_Result = list[Answer] | BaseException | None


class Pipeline:
    """One run of one table; an async context manager. The client has learnt its model already."""

    def __init__(self, table: Table, client: Client, checkpoint: Checkpoint | None) -> None:
        options = client.options
        pace = Pace(options.chunk_size, options.concurrency, len(client.servers), *client.bounds(table))
        self.rows = 0  # read so far
        self.not_finite = 0  # of them with NaN or Infinity
        self.forming_s = 0.0  # spent on reading and encoding
        self.loop_lag_s = 0.0  # the longest delay of the event loop: the requests' times err by as much
        self.pace = pace
        self._table = table
        self._client = client
        self._checkpoint = checkpoint
        self._blocks = table.blocks(self._rows_at, client.dtypes())
        self._in_flight = Gate(lambda: pace.in_flight)
        self._window = Gate(lambda: pace.in_flight + self._ready() if options.pipelined else sys.maxsize)
        self._formed: asyncio.Queue[Chunk] = asyncio.Queue()
        self._may_send = asyncio.Event()
        if options.pipelined:
            self._may_send.set()
        self._results: asyncio.Queue[_Result] = asyncio.Queue()
        client.on_overload = pace.overloaded

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "ruo-form")
        work = [self._watch_loop(), self._form(), *(self._send() for _ in range(self.pace.most_in_flight))]
        self._tasks = [asyncio.create_task(task) for task in work]
        for task in self._tasks:
            task.add_done_callback(self._report)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        self._table.stop()
        closed = asyncio.get_running_loop().run_in_executor(self._thread, self._blocks.close)
        self._thread.shutdown(wait=False)
        ended = asyncio.gather(*self._tasks, closed, return_exceptions=True)
        # the thread has to finish the current piece first, also where this is cancelled once more, but may never get it
        await asyncio.wait([ended], timeout=_PATIENCE_S)
        if ended.done():
            self._thread.shutdown()

    async def answers(self, in_order: bool = False) -> AsyncGenerator[Answer, None]:
        """Yield every row once, as it is answered or in row order; raises what reading, sending or storing raised."""
        collected, is_formed = 0, False
        early: dict[int, list[Answer]] = {}
        while not is_formed or collected < self.rows:
            result = await self._results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                is_formed = True
                continue
            start = result[0].record.start
            early[start] = result
            while chunk := early.pop(collected if in_order else start, None):
                collected += sum(answer.record.rows for answer in chunk)
                await self._window.leave()
                for answer in chunk:
                    yield answer

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 0.02
            await asyncio.sleep(0.02)
            self.loop_lag_s = max(self.loop_lag_s, loop.time() - due)

    def _report(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()):
            self._results.put_nowait(error)

    def _ready(self) -> int:
        rows = self.pace.rows
        return _READY if rows is None else max(_READY, min(self.pace.in_flight, _ROWS_READY // rows))

    async def _form(self) -> None:
        is_whole = False
        while not is_whole:
            count = self._ready() // 2
            await self._window.enter(count)
            items = await asyncio.get_running_loop().run_in_executor(self._thread, self._form_some, count)
            for item in items:
                if isinstance(item, Chunk):
                    self._formed.put_nowait(item)
                else:
                    self._results.put_nowait(item)
            is_whole = len(items) < count
        self._results.put_nowait(None)
        self._may_send.set()

    def _rows_at(self, start: int) -> int | None:
        expected = self._table.expected_rows()
        rows = self.pace.next_rows(None if expected is None else expected - start)
        return self._checkpoint.chunk_rows(start, rows) if self._checkpoint else rows

    def _form_some(self, count: int) -> list[Chunk | _Result]:
        """The next `count` chunks, fewer at the end of the table; answers in place of stored ones, an error last."""
        began = time.perf_counter()
        items: list[Chunk | _Result] = []
        try:
            items.extend(map(self._form_one, islice(self._blocks, count)))
        except BaseException as error:  # noqa: BLE001  handed on: raised here, a table's SystemExit would end the event loop
            items.append(error)
        self.forming_s += time.perf_counter() - began
        return items

    def _form_one(self, block: Block) -> Chunk | list[Answer]:
        start, rows = block.start, block.rows
        self.rows += rows
        self.not_finite += len(rows_not_finite(*block.inputs.values()))
        if self._checkpoint and (answer := self._checkpoint.stored(start, rows)):
            return [answer._replace(labels=block.labels, kept=block.kept)]
        try:
            return self._client.encode(block)
        except WireError as error:
            if error.cell is None:
                raise TableError(f"{self._table.name}: {error}") from None
            tensor, place, number = error.cell
            row, column = start + place, self._table.inputs.get(tensor, self._table.features)[number]
            message = f'{self._table.name}, row {row:,}, column "{column}": {error}'
            raise TableError(message, row=row, column=column) from None

    async def _send(self) -> None:
        await self._may_send.wait()
        while True:
            await self._in_flight.enter()
            chunk = await self._formed.get()
            answers = await self._hedged(chunk)
            await self._in_flight.leave()
            for answer in answers:
                if answer.error is None:
                    self.pace.observe(answer.record)
                    if self._checkpoint:
                        self._checkpoint.add(answer)
            self._results.put_nowait(answers)
            if self._checkpoint:
                self._checkpoint.require_written()

    async def _hedged(self, chunk: Chunk) -> list[Answer]:
        """Send a chunk, and to an idle server once more when it is overdue; the first good answers count."""
        if len(self._client.servers) == 1:
            return await self._client.send(chunk)
        began = time.perf_counter()
        tries = [asyncio.create_task(self._client.send(chunk))]
        try:
            while len(tries) == 1 and not (await asyncio.wait(tries, timeout=0.05))[0]:
                if self._is_overdue(time.perf_counter() - began, chunk.block.rows):
                    tries.append(asyncio.create_task(self._client.send(chunk)))
            for answered in asyncio.as_completed(tries):
                answers = await answered
                if not any(answer.error for answer in answers):
                    break
        finally:
            for task in tries:
                task.cancel()
            await asyncio.gather(*tries, return_exceptions=True)
        answers[0].record.attempts += len(tries) - 1
        return answers

    def _is_overdue(self, seconds: float, rows: int) -> bool:
        """Whether there is nothing else to send, and an idle server could have scored these rows twice by now."""
        servers = self._client.servers
        has_place = self._formed.empty() and servers.outstanding() < self.pace.in_flight
        is_late = any(not s.outstanding and seconds > 2 * rows * s.seconds_per_row for s in servers.available())
        return has_place and is_late and self._client.options.retries > 0
