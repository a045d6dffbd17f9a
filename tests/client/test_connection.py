"""Exchanges over a connection, against a server that sends the very bytes that a test names."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from ruo.client.connection import ConnectError, Connection, HttpAnswer, Peer, StaleError

from ruo.client.http import Session
from ruo.wire import Encoded

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class BytesServer:
    """Answers the requests of each connection with one of `answers` after the other, and then closes it."""

    def __init__(self, *answers: bytes, reads: bool = True) -> None:
        self.connections = 0
        self._answers = answers
        self._reads = reads
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.peer = Peer("127.0.0.1", self._listener.getsockname()[1], None, "127.0.0.1")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection:
                    for answer in self._answers:
                        if self._reads and not _read_request(connection):
                            break  # the client has gone
                        connection.sendall(answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


def _read_request(connection: socket.socket) -> bytes:
    asked, whole = b"", 0
    while (not whole or len(asked) < whole) and (piece := connection.recv(1 << 20)):
        asked += piece
        if not whole and (end := asked.find(b"\r\n\r\n")) >= 0:
            length = re.search(rb"Content-Length: (\d+)", asked[:end])
            whole = end + 4 + (int(length[1]) if length else 0)
    return asked


@pytest.fixture
def serving() -> Iterator[Callable[..., BytesServer]]:
    """Start a server of bytes."""
    servers: list[BytesServer] = []

    def start(*answers: bytes, **how: Any) -> BytesServer:
        servers.append(BytesServer(*answers, **how))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask(server: BytesServer, times: int = 1, body: bytes = b"", timeout_s: float = 10.0) -> list[HttpAnswer]:
    """The answers to so many requests on one connection."""

    async def talk() -> list[HttpAnswer]:
        connection = await Connection.open(server.peer, 5)
        answers = [await connection.exchange(ASK, [body], timeout_s) for _ in range(times)]
        connection.close()
        await asyncio.sleep(0)
        return answers

    return asyncio.run(talk())


@pytest.mark.parametrize(
    ("sent", "status", "body"),
    [
        (OK, 200, b"hi"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", 404, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n", 200, b"one two"),
        (b"HTTP/1.0 200 OK\r\n\r\nall until the end", 200, b"all until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, 200, b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + bytes(300_000), 200, bytes(300_000)),
    ],
)
def test_the_answer_is_whole(serving: Callable, sent: bytes, status: int, body: bytes) -> None:
    """By its length, in chunks, until the connection ends, or behind a word in between."""
    [answer] = ask(serving(sent))
    assert (answer.status, answer.body) == (status, body)


def test_headers_are_written_alike(serving: Callable) -> None:
    """However the server writes their names."""
    [answer] = ask(serving(b"HTTP/1.1 200 Fine\r\nRETRY-after: 3\r\ncontent-length: 0\r\n\r\n"))
    assert answer.headers == {"Retry-After": "3", "Content-Length": "0"}
    assert answer.reason == "Fine"


def test_one_exchange_after_the_other(serving: Callable) -> None:
    """A connection that is kept alive takes the next request, and each answer is of its own request."""
    server = serving(OK, OK.replace(b"hi", b"ho"), OK)
    assert [answer.body for answer in ask(server, 3)] == [b"hi", b"ho", b"hi"]
    assert server.connections == 1


def test_a_connection_that_was_closed_meanwhile_is_stale(serving: Callable) -> None:
    """It has served before and says nothing to the next request: that can be sent again elsewhere."""
    with pytest.raises(StaleError):
        ask(serving(OK), 2)
    with pytest.raises(StaleError):
        ask(serving(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK), 2)


@pytest.mark.parametrize(
    "sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-x\r\n"]
)
def test_half_an_answer_is_an_error(serving: Callable, sent: bytes) -> None:
    """What breaks off, and what is not HTTP, is no answer, and not stale."""
    with pytest.raises(ConnectionError) as caught:
        ask(serving(sent))
    assert not isinstance(caught.value, StaleError)


def test_half_of_a_second_answer_is_not_stale(serving: Callable) -> None:
    """The server had begun to answer."""
    with pytest.raises(ConnectionError):
        ask(serving(OK, OK[:-1]), 2)


def test_an_answer_may_come_before_the_request_is_whole(serving: Callable) -> None:
    """A server that refuses a large body without reading it is heard."""
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    answers = ask(serving(refusal, b"", reads=False), body=bytes(1000))
    assert [answer.status for answer in answers] == [413]


def test_silence_is_told_in_time(serving: Callable) -> None:
    """A server that takes the request and says nothing."""
    with pytest.raises(TimeoutError):
        ask(serving(b"HTTP/1.1 200 OK\r\n", OK, OK), timeout_s=0.1)


def test_nobody_there() -> None:
    """No connection comes about, and the reason is the cause."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(ConnectError) as caught:
        asyncio.run(Connection.open(Peer("127.0.0.1", port, None, "127.0.0.1"), 5))
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def post(server: BytesServer, *sizes: int) -> None:
    """Post bodies of so many bytes, one after the other."""

    async def talk() -> None:
        session = Session(f"http://127.0.0.1:{server.peer.port}", "", 10.0, None, None)
        for size in sizes:
            assert (await session.ask("POST", "/", Encoded({}, [bytes(size)])))[1] == b"hi"
        session.close()
        await asyncio.sleep(0)

    asyncio.run(talk())


def test_small_requests_share_a_connection_and_large_ones_do_not(serving: Callable) -> None:
    """A server that would keep either open: the small ones come on one connection, a large one on its own."""
    small, large = serving(*[OK] * 9), serving(*[OK] * 9)
    post(small, 4, 4, 1000, 4)
    assert small.connections == 1
    post(large, 2 << 20, 2 << 20)
    assert large.connections == 2


def test_a_stale_connection_is_no_failure(serving: Callable) -> None:
    """A server that closes after each answer, without saying so, is asked on another connection."""
    server = serving(OK)
    post(server, 4, 4, 4)
    assert server.connections == 3
