"""Gunicorn's threaded worker, but a new connection goes to the worker that has the least to do.

All workers of a server listen on one socket, and the first to wake gets the connection, whatever it is busy
with: some end up with three requests and some with none. Here a worker that has more to do than another leaves
the connection to that one.

Probes have threads of their own, so that they are answered however much work there is, and no thread waits for a
client that sends nothing: a connection waits in the poller until something comes, and its headers must come soon.

A small request that will take a few milliseconds is not handed to a thread at all where none is at work: the thread
that accepts connections answers it, once it is there as a whole.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from server import small
from server.slots import Board

__all__ = ["LeastLoadedWorker"]

_GIVE_WAY_S = 0.0005  # how long to look away from a connection that another worker should take
_LONGEST_WAY_S = 0.1  # after this long nobody has taken it: the other worker may be stuck
_LONGEST_WAY_NOT_READY_S = 1.0  # the same for a worker that could only answer that it is not ready
_HEADERS_S = 10.0  # for a client to send something, and again for the rest of its headers
_STOPPING_S = 1.0  # the same when the worker is to end
_QUICK_S = 0.005  # how long a request may keep the accepting thread from other connections
_WHOLE_S = 0.5  # for a small request to come as a whole; after that a thread waits for it
_PEEK_BYTES = 4096
_NOTIFY_S = 0.5
_PROBE_THREADS = 4
_CLOSING_THREADS = 64  # they only wait
_CLOSING_S = 2.0


def _having(result: bool) -> Future[bool]:
    done: Future[bool] = Future()
    done.set_result(result)
    return done


_KEPT, _ENDED = _having(True), _having(False)  # what a thread says of a connection when it is done with a request


class LeastLoadedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """One process of the server. `board` and `line` are given to it by the hooks in gunicorn.conf.py."""

    board: Board
    line: int
    longest_s = 600.0  # a whole exchange; whoever does not take the answer is cut off then
    _gave_way_since = 0.0
    _gave_way_last = 0.0
    _stopping_at = 0.0
    _notified = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._counted: set[Any] = set()  # connections that are this worker's load
        self._counting = threading.Lock()
        self._here = threading.local()  # the connection that a thread works on
        self._deadlines: dict[Any, float] = {}  # of connections that a thread works on
        self._at_work: dict[Any, int | None] = {}  # connections that threads answer; bytes of those that are small
        self._coming: dict[Any, float] = {}  # connections whose small request is not there as a whole, and until when

    def init_process(self) -> None:
        """Called by Gunicorn in the new process; runs until the worker ends."""
        self._probes = ThreadPoolExecutor(_PROBE_THREADS, thread_name_prefix="probe")
        self._closing = ThreadPoolExecutor(_CLOSING_THREADS, thread_name_prefix="close")
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application, and have each request count down this worker's load before its answer is sent.

        Whoever has an answer may come again at once, and must find the worker that gave it idle.
        """
        super().load_wsgi()
        answer = self.wsgi.wsgi_app

        def answer_and_discount(environ: Any, start_response: Any) -> Any:
            try:
                return answer(environ, start_response)
            finally:
                self._discount(self._here.connection)

        self.wsgi.wsgi_app = answer_and_discount

    def notify(self) -> None:
        """Tell the master that this worker lives: twice a second is enough, and events come by the thousand."""
        now = time.monotonic()
        if now - self._notified >= _NOTIFY_S:
            self._notified = now
            super().notify()

    def accept(self, listener: Any) -> None:
        """Take a new connection, or leave it to a worker that has less to do."""
        if self._should_give_way():
            time.sleep(_GIVE_WAY_S)
        else:
            super().accept(listener)

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, or wait in the poller until its client sends something."""
        with self._counting:
            if conn not in self._counted:
                self._counted.add(conn)
                self.board.add_load(self.line, 1)
        begin = _peek(conn)
        if begin is None:
            self._wait_for_begin(conn)
            return
        conn.data_ready = True
        size = small.whole_size(begin) if begin.startswith(b"POST ") else None
        if size is None or not self._is_quick(size):
            self._hand_over(conn, begin, size)
        elif small.has_come(conn.sock, size):
            self._answer_here(conn, small.is_last(begin))
        else:
            self._wait_for_rest(conn, size)

    def _is_quick(self, size: int) -> bool:
        """Whether a request of so many bytes takes little time, and so does all that it may have to wait for."""
        model = self.wsgi.extensions["ruo"]
        return all(other and model.seconds_for(other) < _QUICK_S for other in (size, *list(self._at_work.values())))

    def _hand_over(self, conn: Any, begin: bytes, size: int | None) -> None:
        """Have a thread answer the request."""
        # a whole question without a body: it never waits for its client, so these threads are always free soon
        pool = self._probes if begin.startswith(b"GET ") and b"\r\n\r\n" in begin else self.tpool
        if pool is self.tpool:
            self._at_work[conn] = size
        done = pool.submit(self.handle, conn)
        done.add_done_callback(lambda future: self._end_exchange(conn, future))

    def _answer_here(self, conn: Any, is_last: bool) -> None:
        """Answer a request that is all there in this thread, which accepts connections."""
        with small.in_one_piece(conn.sock):
            keeps = self.handle(conn)
        if keeps:
            self.finish_request(conn, _KEPT)  # which is for this thread, so nothing has to wake it
        elif is_last and not small.has_come(conn.sock, 1):
            self.nr_conns -= 1
            conn.close()  # nothing that the client sent is left, so it does get to see the answer
        else:
            self._end_exchange(conn, _ENDED)

    def handle(self, conn: Any) -> Any:
        """Read the headers of a request and answer it; as a rule in a thread."""
        self._deadlines[conn] = time.monotonic() + _HEADERS_S
        try:
            return super().handle(conn)
        finally:
            self._deadlines.pop(conn, None)
            self._discount(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request whose headers are there."""
        self._deadlines[conn] = time.monotonic() + self.longest_s
        self._here.connection = conn
        return super().handle_request(req, conn)

    def _end_exchange(self, conn: Any, done: Future[Any]) -> None:
        """Keep the connection for the next request, or close it once the client has read the answer.

        Gunicorn waits for that in the thread that accepts connections, which over a slow network would take no other
        one meanwhile; here a thread waits that has nothing else to do.
        """
        finish = partial(self.method_queue.defer, self.finish_request, conn, done)
        if done.cancelled() or done.exception() is not None or done.result() is not False:
            finish()
            return
        with contextlib.suppress(RuntimeError):  # the worker has ended
            self._closing.submit(_wait_for_end, conn.sock).add_done_callback(lambda _: finish())

    def murder_pending(self) -> None:
        """Close connections that sent nothing for too long, and cut off those that are too slow; once a second."""
        now = time.monotonic()
        for conn in [conn for conn, until in self._coming.items() if until <= now]:
            self._end_wait_for_rest(conn)
            self._hand_over(conn, b"", None)
        if not self.alive and not self._stopping_at:
            self._stopping_at = now + _STOPPING_S
        for conn in self.pending_conns:
            if self._stopping_at:
                conn.timeout = min(conn.timeout, self._stopping_at)
            if conn.timeout <= now:
                self._discount(conn)
        super().murder_pending()
        for conn, deadline in list(self._deadlines.items()):
            if deadline <= now:
                # the thread that waits for this client wakes as if the client had gone
                with contextlib.suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RDWR)

    def _wait_for_begin(self, conn: Any) -> None:
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + _HEADERS_S
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def _wait_for_rest(self, conn: Any, size: int) -> None:
        conn.sock.setblocking(False)
        small.tell_when_whole(conn.sock, size)
        self._coming[conn] = time.monotonic() + _WHOLE_S
        self.poller.register(conn.sock, EVENT_READ, partial(self._rest_is_there, conn, size))

    def _rest_is_there(self, conn: Any, size: int, sock: socket.socket) -> None:
        self._end_wait_for_rest(conn)
        begin = _peek(conn) or b""
        if small.has_come(sock, size) and self._is_quick(size):
            self._answer_here(conn, small.is_last(begin))
        else:  # or the client has gone
            self._hand_over(conn, begin, None)

    def _end_wait_for_rest(self, conn: Any) -> None:
        del self._coming[conn]
        self.poller.unregister(conn.sock)
        small.tell_when_whole(conn.sock, 1)

    def _discount(self, conn: Any) -> None:
        self._at_work.pop(conn, None)
        with self._counting:
            if conn in self._counted:
                self._counted.remove(conn)
                self.board.add_load(self.line, -1)

    def _should_give_way(self) -> bool:
        if self.board.is_least_loaded(self.line):
            return False
        now = time.monotonic()
        if now - self._gave_way_last > 10 * _GIVE_WAY_S:
            self._gave_way_since = now  # another connection than the one before
        self._gave_way_last = now
        longest = _LONGEST_WAY_S if self.board.is_ready(self.line) else _LONGEST_WAY_NOT_READY_S
        return now - self._gave_way_since < longest


def _wait_for_end(connection: socket.socket) -> None:
    """Say that nothing more comes, and read on until the client has closed; RFC 9112, section 9.6."""
    until = time.monotonic() + _CLOSING_S
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(1 << 16):
                return
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # so that Gunicorn, which now closes it, does not wait again


def _peek(conn: Any) -> bytes | None:
    """How the next request begins, without taking it; None where nothing has come yet."""
    if conn.initialized and conn.parser.unreader.buf.getvalue():
        return b"?"  # it was read together with the request before it
    if isinstance(conn.sock, ssl.SSLSocket):
        return b"?"
    try:
        return bytes(conn.sock.recv(_PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return None
    except OSError:
        return b""  # it is gone: the thread will see the same
