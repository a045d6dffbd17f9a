"""An event loop in its own thread, so that a synchronous call works under a running loop."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Self, TypeVar

T = TypeVar("T")


class LoopThread:
    """A context manager with a running event loop; `run` waits for a coroutine on it and can be interrupted."""

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ruo-loop", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Wait for the result of an awaitable on the loop; an interrupt cancels it."""
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
        except BaseException:
            future.cancel()
            ended.wait(5.0)  # let it clean up before anything else is cancelled
            raise

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
