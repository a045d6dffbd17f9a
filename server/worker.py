"""Gunicorn's threaded worker, except that a new connection goes to the least busy worker.

All workers of a server listen on one socket, and the first to wake accepts the connection, however busy it is: some
have three requests and some none. Here a busy worker leaves the connection to a less busy one.

The thread that accepts connections never waits for a client. A connection without data waits in the poller, and so does
one whose client has not read its last answer. Probes have threads of their own, so that they are answered under any load.
Every other thread waits for its client until a deadline.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from selectors import EVENT_READ
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from server.slots import WorkerSlots

_GIVE_WAY_S = 0.0005  # how long to ignore a connection that another worker should take
_LONGEST_WAY_S = 0.1  # after which it is taken here: the other worker may be stuck
_LONGEST_WAY_NOT_READY_S = 1.0  # the same for a worker that could only answer that it is not ready
_HEAD_S = 10.0  # for a client to send something, for the rest of its headers, and for a whole probe
_STOPPING_S = 1.0  # for a client to send something when the worker is about to end
_LINGER_S = 2.0  # for a client to read its last answer and close
_SOON_MS = 5  # within which a client that sends small requests in a row sends the next
_PROBE = re.compile(rb"GET (?!.*\r\n(?:content-length|transfer-encoding):).*?\r\n\r\n", re.IGNORECASE | re.DOTALL)


class LeastLoadedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """One process of the server. The hooks in gunicorn.conf.py give it `slots`, `slot` and `exchange_s`."""

    slots: WorkerSlots
    slot: int
    exchange_s: float  # the time limit of a request and its answer
    _gave_way_since = 0.0
    _gave_way_last = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._load: set[Any] = set()  # connections with an unanswered request
        self._load_lock = threading.Lock()
        self._deadlines: dict[Any, float] = {}  # of connections that a thread works on
        self._lingering: dict[Any, float] = {}  # connections whose client has yet to close, with their deadlines
        self._current = threading.local()  # the connection that a thread works on

    def init_process(self) -> None:
        """Run until the worker ends; called by Gunicorn in the new process."""
        self._probes = ThreadPoolExecutor(8, thread_name_prefix="probe")
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application, wrapped to count a request as done before its answer is sent.

        A client with its answer may send the next request at once, and must find this worker idle.
        """
        super().load_wsgi()
        application = self.wsgi.wsgi_app

        def answer(environ: Any, start_response: Any) -> Any:
            try:
                return application(environ, start_response)
            finally:
                self._count(self._current.connection, False)

        self.wsgi.wsgi_app = answer

    # --- which worker takes a connection

    def accept(self, listener: Any) -> None:
        """Take a new connection, or leave it to a less busy worker."""
        if self._should_give_way():
            time.sleep(_GIVE_WAY_S)
        else:
            super().accept(listener)

    def _should_give_way(self) -> bool:
        if self.slots.is_least_loaded(self.slot):
            return False
        now = time.monotonic()
        if now - self._gave_way_last > 10 * _GIVE_WAY_S:
            self._gave_way_since = now  # for another connection than before
        self._gave_way_last = now
        longest = _LONGEST_WAY_S if self.slots.is_ready(self.slot) else _LONGEST_WAY_NOT_READY_S
        return now - self._gave_way_since < longest

    def _count(self, conn: Any, is_load: bool) -> None:
        """Add a connection to this worker's load, or remove it."""
        with self._load_lock:
            (self._load.add if is_load else self._load.discard)(conn)
            self.slots.set(self.slot, "load", len(self._load))

    # --- the path of a connection

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, or wait in the poller until its client sends something."""
        self._count(conn, True)
        begin = _peek(conn)
        if begin is None:
            conn.sock.setblocking(False)
            conn.timeout = time.monotonic() + _HEAD_S
            self.pending_conns.append(conn)
            self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))
            return
        conn.data_ready = True
        # a probe has no body, so its thread never waits for its client
        pool = self._probes if _PROBE.match(begin) else self.tpool
        done = pool.submit(self.handle, conn)
        done.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow at once on its connection; runs in a thread."""
        try:
            while True:
                self._deadlines[conn] = time.monotonic() + _HEAD_S
                keeps = super().handle(conn)
                if keeps is not True or not self.alive or _is_probe_thread() or not _comes_soon(conn):
                    return keeps
                self._count(conn, True)
        finally:
            self._deadlines.pop(conn, None)
            self._count(conn, False)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request after its headers have been read; runs in a thread."""
        if not _is_probe_thread():
            self._deadlines[conn] = time.monotonic() + self.exchange_s
        self._current.connection = conn
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Keep the connection for the next request, or close it once its client has read the answer."""
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self._linger(conn)

    def murder_pending(self) -> None:
        """Close connections past their deadlines; called by Gunicorn after all events and at least once a second."""
        now = time.monotonic()
        patience_s = 0.0 if self.alive else _HEAD_S - _STOPPING_S
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now + patience_s]:
            conn.timeout = 0.0
            self._count(conn, False)
        super().murder_pending()
        for conn in [conn for conn, until in self._lingering.items() if until <= now]:
            self._close(conn)
        for conn, deadline in list(self._deadlines.items()):
            if deadline <= now:
                # the waiting thread wakes as if the client had gone; TLS itself belongs to that thread
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)

    # --- the end of a connection: RFC 9112, section 9.6

    def _linger(self, conn: Any) -> None:
        """Shut down sending, and discard data until the client closes: a reset could destroy the answer on its way."""
        self._lingering[conn] = time.monotonic() + _LINGER_S
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, EVENT_READ, partial(self._discard, conn))
        except (OSError, ValueError):  # it is closed already
            self._close(conn)

    def _discard(self, conn: Any, sock: socket.socket) -> None:
        try:
            is_open = bool(sock.recv(1 << 16))
        except OSError as error:
            is_open = isinstance(error, BlockingIOError)
        if not is_open:
            self._close(conn)

    def _close(self, conn: Any) -> None:
        del self._lingering[conn]
        with contextlib.suppress(KeyError, ValueError):  # not registered
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()


def _is_probe_thread() -> bool:
    return threading.current_thread().name.startswith("probe")


def _comes_soon(conn: Any) -> bool:
    """Whether the next request begins within a moment; through the poller it would cost two changes of threads."""
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(_SOON_MS))


def _peek(conn: Any) -> bytes | None:
    """The begin of the next request, left in the socket; None if nothing has arrived, b"" if that cannot be known."""
    if isinstance(conn.sock, ssl.SSLSocket) or (conn.initialized and conn.parser.unreader.buf.getvalue()):
        return b""  # encrypted, or already read together with the previous request
    try:
        return bytes(conn.sock.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return None
    except OSError:
        return b""  # the client is gone, as the thread will see
