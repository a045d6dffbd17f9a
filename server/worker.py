"""Gunicorn's threaded worker, except that a busy worker leaves a new connection to a less busy one.

The thread that accepts connections never waits for a client. A connection without data waits in the poller, and so does
one whose client has not read its last answer; the one that is idle longest is closed when there is no room for another.
Probes have threads of their own, so that they are answered under any load. Every other thread waits for its client until
a deadline.
"""

import contextlib
import errno
import json
import re
import select
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from operator import itemgetter
from selectors import EVENT_READ
from typing import Any

from gunicorn import util
from gunicorn.workers.gthread import ThreadWorker

from server.slots import WorkerSlots

_GIVE_WAY_S = 0.0005  # how long to ignore a connection that another worker should take
_LONGEST_WAY_S = 0.1  # after which it is taken here: the other worker may be stuck
_HEAD_S = 10.0  # for a client to send something, for the rest of its headers, and for a whole probe
_STOPPING_S = 1.0  # for a client to send something when the worker is about to end
_LINGER_S = 2.0  # for a client to read its last answer and close
_SOON_MS = 5  # within which a client that sends small requests in a row sends the next
_IDLE_S = 0.1  # after which a connection may be closed to make room for another
_RESERVE = 50  # connections beyond worker_connections, for probes and for telling the others that there is no room
_PAUSE_S = 0.05  # before the next connection is tried where there is no file descriptor for it
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PROBE = re.compile(rb"GET (?!.*\r\n(?:content-length|transfer-encoding):).*?\r\n\r\n", re.IGNORECASE | re.DOTALL)
_HAS_NEXT = object()  # what a thread returns whose connection is ready for a request


class LeastLoadedWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """One process of the server. The hooks in gunicorn.conf.py give it `slots`, `slot` and `exchange_s`."""

    slots: WorkerSlots
    slot: int
    exchange_s: float  # the time limit of a request and its answer
    max_requests: int  # of Gunicorn
    _gave_way_since = _gave_way_last = 0.0
    _has_no_descriptor = _has_warned = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker_connections += _RESERVE
        # Gunicorn would end the worker at its last request, before there is another
        self._most_requests, self.max_requests = self.max_requests, sys.maxsize
        self._probes = ThreadPoolExecutor(8, thread_name_prefix="probe")
        self._load: set[Any] = set()  # connections with an unanswered request
        self._load_lock = threading.Lock()
        self._deadlines: dict[Any, float] = {}  # of connections that a thread works on
        self._lingering: list[Any] = []  # connections whose client has yet to close, oldest first
        self._current = threading.local()  # the connection that a thread works on

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

    def accept(self, listener: Any) -> None:
        """Take a new connection, or leave it to a less busy worker, or to a moment with a free file descriptor."""
        if self._should_give_way():
            time.sleep(_GIVE_WAY_S)
            return
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in _NO_DESCRIPTORS:
                raise
            self._has_no_descriptor = True
            if not self._has_warned:
                self._has_warned = True
                self.log.error("No connection can be accepted for now (%s); raise ulimit -n.", error.strerror)
            time.sleep(_PAUSE_S)

    def _should_give_way(self) -> bool:
        if self.slots.is_least_loaded(self.slot):
            return False
        if not self.slots.is_ready[self.slot]:
            return True  # it could only answer that it is not ready
        now = time.monotonic()
        if now - self._gave_way_last > 10 * _GIVE_WAY_S:
            self._gave_way_since = now  # for another connection than before
        self._gave_way_last = now
        return now - self._gave_way_since < _LONGEST_WAY_S

    def _count(self, conn: Any, is_load: bool) -> None:
        """Add a connection to this worker's load, or remove it."""
        with self._load_lock:
            (self._load.add if is_load else self._load.discard)(conn)
            self.slots.load[self.slot] = len(self._load)

    def enqueue_req(self, conn: Any) -> None:
        """Hand a connection to a thread, or wait in the poller until its client sends something."""
        self._count(conn, True)
        if (begin := _begin(conn)) is None:
            conn.sock.setblocking(False)
            conn.timeout = time.monotonic() + _HEAD_S
            self.pending_conns.append(conn)
            self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))
            return
        conn.data_ready = True
        # a probe has no body, and room for its answer, so its thread never waits for its client
        is_probe = _PROBE.match(begin) and _is_ready_for(conn, select.POLLOUT)
        if not is_probe and self.nr_conns > self.worker_connections - _RESERVE:
            self._refuse(conn)
            return
        pool = self._probes if is_probe else self.tpool
        done = pool.submit(self.handle, conn)
        done.add_done_callback(partial(self.method_queue.defer, self.finish_request, conn))

    def handle(self, conn: Any) -> Any:
        """Answer a request, and those that follow at once on its connection; runs in a thread."""
        try:
            while True:
                self._deadlines[conn] = time.monotonic() + _HEAD_S
                if self.cfg.is_ssl and not conn.initialized:
                    with contextlib.suppress(OSError):  # of a client that does not speak TLS, or has gone
                        conn.init()
                        return _HAS_NEXT  # or will have: it waits for its first request like any other
                    return False
                keeps = super().handle(conn)
                if keeps is not True or not self.alive or not _has_next(conn):
                    return keeps
                if _is_probe_thread():
                    return _HAS_NEXT
                self._count(conn, True)
        finally:
            self._deadlines.pop(conn, None)
            self._count(conn, False)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Answer a request after its headers have been read; runs in a thread."""
        if not _is_probe_thread():
            self._deadlines[conn] = time.monotonic() + self.exchange_s
        if not self.slots.is_ready[self.slot]:
            self.nr = 0
        elif self.nr + 1 >= self._most_requests and not self.slots.is_retiring[self.slot]:
            self.log.info("Ends after %d requests, when its successor is ready.", self._most_requests)
            self.slots.is_retiring[self.slot] = 1
        self._current.connection = conn
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """Keep the connection for the next request, or close it once its client has read the answer."""
        result = None if fs.cancelled() or fs.exception() else fs.result()
        if result is _HAS_NEXT:
            self.enqueue_req(conn)
        elif result is False:
            self._linger(conn)
        else:
            super().finish_request(conn, fs)

    def murder_pending(self) -> None:
        """Close connections past their deadlines; called by Gunicorn after all events and at least once a second."""
        now = time.monotonic()
        if self._has_no_descriptor or self._is_full():
            self._close_idle(now)
            self._has_no_descriptor = False
        patience_s = 0.0 if self.alive else _HEAD_S - _STOPPING_S
        for conn in [conn for conn in self.pending_conns if conn.timeout <= now + patience_s]:
            conn.timeout = 0.0
            self._count(conn, False)
        super().murder_pending()
        for conn in [conn for conn in self._lingering if conn.timeout <= now]:
            self._close(conn)
        for conn, deadline in list(self._deadlines.items()):
            if deadline <= now:
                # the waiting thread wakes as if the client had gone; TLS itself belongs to that thread
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Wait for events, but not long where a connection will soon have been idle long enough to be closed."""
        super().wait_for_and_dispatch_events(min(timeout, _IDLE_S) if self._is_full() else timeout)

    def _is_full(self) -> bool:
        return bool(self.nr_conns >= self.worker_connections)

    def _close_idle(self, now: float) -> None:
        """Let the connection that has been idle longest be closed."""
        queues = (self.keepalived_conns, self.pending_conns, self._lingering)
        with_limits = zip(queues, (self.cfg.keepalive, _HEAD_S, _LINGER_S), strict=True)
        idle = [(queue[0].timeout - limit_s, queue[0]) for queue, limit_s in with_limits if queue]
        for since, conn in sorted(idle, key=itemgetter(0))[:1]:
            if since <= now - _IDLE_S:
                conn.timeout = 0.0
                self.murder_keepalived()

    def _refuse(self, conn: Any) -> None:
        """Answer 503 from this thread; a client that would have to be waited for gets no answer."""
        self._count(conn, False)
        if not self.cfg.is_ssl:
            with contextlib.suppress(OSError):
                _write_error(conn.sock, 503, "Service Unavailable", "The server has no room for another connection.")
        self._linger(conn)

    def _linger(self, conn: Any) -> None:
        """Shut down sending, and discard data until the client closes: a reset could destroy the answer (RFC 9112, 9.6)."""
        self._lingering.append(conn)
        conn.timeout = time.monotonic() + _LINGER_S
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
        self._lingering.remove(conn)
        with contextlib.suppress(KeyError, ValueError):  # not registered
            self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()


def _is_probe_thread() -> bool:
    return threading.current_thread().name.startswith("probe")


def _is_ready_for(conn: Any, event: int, wait_ms: int = 0) -> bool:
    poll = select.poll()
    poll.register(conn.sock, event)
    return bool(poll.poll(wait_ms))


def _has_next(conn: Any) -> bool:
    """Whether the next request begins within a moment; through the poller it would cost two changes of threads."""
    is_decrypted = isinstance(conn.sock, ssl.SSLSocket) and conn.sock.pending()  # which no poller sees
    return bool(is_decrypted) or _is_ready_for(conn, select.POLLIN, _SOON_MS)


def _begin(conn: Any) -> bytes | None:
    """The begin of the next request, which its thread reads again; None if nothing has arrived, b"" at the end."""
    if conn.initialized and (read := conn.parser.unreader.buf.getvalue()):
        return bytes(read)
    try:
        if not isinstance(conn.sock, ssl.SSLSocket):
            return bytes(conn.sock.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        conn.sock.setblocking(False)
        begin = conn.sock.recv(4096)
    except (BlockingIOError, ssl.SSLWantReadError):
        return None
    except OSError:
        return b""  # the client is gone, as the thread will see
    conn.parser.unreader.unread(begin)
    return begin


def _write_error(sock: Any, status: int, reason: str, sentence: str) -> None:
    body = json.dumps({"error": sentence or reason})
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    retry = "Retry-After: 1\r\n" if status == 503 else ""
    util.write_nonblock(sock, f"{head}{retry}Content-Length: {len(body)}\r\n\r\n{body}".encode())


util.write_error = _write_error  # Gunicorn's answer to what is not HTTP would be a page in HTML
