"""An event loop in its own thread, so that a synchronous call works under a running loop."""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self, TypeVar

from ruo.errors import ScoringError

T = TypeVar("T")

FORKED = 'This process was forked from one that had scored a table; start it with multiprocessing.get_context("spawn").'
_PATIENCE_S = 5.0  # for what was interrupted to clean up


class LoopThread:
    """A context manager with a running event loop, which ends with `last`; `run` waits for a coroutine on it.

    Only the thread that used it last waits for its end: the garbage collector may end a generator in any, with any lock.
    """

    def __init__(self, last: Callable[[], Awaitable[None]] | None = None) -> None:
        self._last = last
        self._is_over = False

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._user = threading.current_thread()
        self._thread = threading.Thread(target=self._work, name="ruo-loop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if sys.is_finalizing() or not self._thread.is_alive():  # as in a forked process
            return
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop)
        if self._user is threading.current_thread():
            self._thread.join(_PATIENCE_S)

    def run(self, awaitable: Awaitable[T]) -> T:
        """Wait for the result of an awaitable on the loop; an interrupt cancels it."""
        if not self._thread.is_alive():
            raise ScoringError(FORKED)
        self._user = threading.current_thread()
        ended = threading.Event()

        async def watched() -> T:
            try:
                return await awaitable
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            while not ended.wait(0.1):  # in short waits, since polars' handler of SIGINT lets none end a long one
                pass
            return future.result()
        except BaseException as error:
            future.cancel()
            ended.wait(_PATIENCE_S)  # let it clean up before anything else is cancelled
            if isinstance(error, RuntimeError) and not threading.main_thread().is_alive():
                raise ScoringError("The main thread ended before this run; let it join this thread.") from None
            raise

    def _work(self) -> None:
        while not self._is_over:
            with suppress(KeyboardInterrupt, SystemExit):  # a task's, which `run` raises; asyncio ends its loop, too
                self._loop.run_forever()
        self._loop.close()

    async def _wind_up(self) -> None:
        if self._last is not None:
            await asyncio.gather(self._last(), return_exceptions=True)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        self._is_over = True
        self._loop.stop()
