"""An event loop in its own thread, so that a synchronous call works where a loop is running; and the lag of a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

__all__ = ["LoopLag", "LoopThread"]

T = TypeVar("T")

_CLEAN_UP_S = 5.0
_LOOK_S = 0.02


class LoopThread:
    """A running event loop; `run` waits for a coroutine on it and can be interrupted. A context manager."""

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

    def run(
        self, coroutine: Coroutine[Any, Any, T], meanwhile: Callable[[], None] | None = None, every_s: float = 0.1
    ) -> T:
        """Wait for the coroutine's result; `meanwhile` is called in this thread every `every_s` seconds.

        An exception in this thread, such as KeyboardInterrupt, cancels the coroutine.
        """
        ended = threading.Event()

        async def watched() -> T:
            try:
                return await coroutine
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            while True:
                try:
                    return future.result(every_s if meanwhile else None)
                except TimeoutError:
                    if future.done() or meanwhile is None:
                        raise  # the coroutine's own
                    meanwhile()
        except BaseException:
            future.cancel()
            ended.wait(_CLEAN_UP_S)  # it cleans up before anything else is cancelled
            raise

    async def _wind_up(self) -> None:
        """Cancel all tasks and wait until they have cleaned up."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()


class LoopLag:
    """The longest delay of the running loop, in `seconds`, during an `async with` block.

    A loop that is late sends and receives late, and times that are measured on it are too long.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LOOK_S
            await asyncio.sleep(_LOOK_S)
            self.seconds = max(self.seconds, loop.time() - due)
