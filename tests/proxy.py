"""A TCP proxy in front of a real server, which does to connections what networks do: it cuts, delays, and refuses."""

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_PIECE = 1 << 16


@dataclass
class Fault:
    """What happens to a connection: reset after so many bytes of the request or the answer, a late or another answer."""

    reset_request_after: int | None = None
    reset_answer_after: int | None = None
    delay_s: float = 0.0
    answer: bytes | None = None  # in place of the server's


UNAVAILABLE = Fault(answer=b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Proxy:
    """Passes connections on to the server at `url`; `fault(number)` says what happens to each. A context manager."""

    def __init__(
        self, url: str, fault: Callable[[int], Fault] = lambda number: Fault(), host: str = "127.0.0.1", port: int = 0
    ) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        self._fault = fault
        self._listening = socket.create_server((host, port), backlog=256)
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = f"http://{host}:{self._listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        starting = asyncio.start_server(self._serve, sock=self._listening, limit=_PIECE)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        await asyncio.sleep(0.01)  # connections that were just accepted become tasks
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)  # asyncio itself does not keep it
        task.add_done_callback(self._tasks.discard)
        fault = self._fault(self.connections)
        self.connections += 1
        if fault.answer is not None:
            await self._answer(reader, writer, fault.answer)
            return
        writers = [writer]
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target, limit=_PIECE)
            writers.append(server_writer)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, server_writer, fault.reset_request_after))
                pumps.create_task(_pump(server_reader, writer, fault.reset_answer_after, fault.delay_s))
        except* OSError:
            for open_writer in writers:
                _reset(open_writer)
        finally:
            for open_writer in writers:
                open_writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            await reader.readexactly(int(length[1]) if length else 0)
            writer.write(answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reset_after: int | None, delay_s: float = 0.0
) -> None:
    passed = 0
    while data := await reader.read(_PIECE):
        if delay_s and not passed:
            await asyncio.sleep(delay_s)
        passed += len(data)
        if reset_after is not None and passed > reset_after:
            raise ConnectionResetError
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End with RST, as a machine that fell over does: the other side sees a broken connection, not an end."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
