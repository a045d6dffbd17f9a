"""The bound of any client with servers: other processes behind a socket, and nothing else.

One process per CPU holds the model. Rows and predictions are sent as they lie in memory, without HTTP, checks or retries.
"""

import multiprocessing
import os
import queue
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.peers import load
from ruo.compare.score import Model
from ruo.errors import RuoError
from ruo.machine import cpu_limit
from ruo.wire.messages import Array

CPUS = max(1, int(cpu_limit()))
CONNECTIONS = 2  # to each process: one sends while the other's rows are scored
_SIZE = struct.Struct("<q")  # comes before each array: its number of bytes


def _receive(connection: socket.socket) -> memoryview | None:
    """The bytes of an array; None where the other side has closed the connection."""
    size = connection.recv(_SIZE.size, socket.MSG_WAITALL)
    if len(size) < _SIZE.size:
        return None
    data = np.empty(_SIZE.unpack(size)[0], np.uint8).data
    return data if connection.recv_into(data, 0, socket.MSG_WAITALL) == len(data) else None


def _send(connection: socket.socket, array: Array) -> None:
    connection.sendall(_SIZE.pack(array.nbytes))
    connection.sendall(array.data.cast("B"))


def _serve(model: Path, connections: list[socket.socket]) -> None:
    """Run one process: answer what comes over the connections, once the model is warm, until killed."""
    os.environ.update(dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"))
    score, one_at_a_time = load(str(model)), threading.Lock()

    def answer(connection: socket.socket) -> None:
        while (data := _receive(connection)) is not None:
            with one_at_a_time:
                predictions = score(np.frombuffer(data, np.float32))
            _send(connection, predictions)

    for connection in connections:
        threading.Thread(target=answer, args=(connection,)).start()


@contextmanager
def processes(model: Path, features: int) -> Iterator[Model]:
    """Run a warm process on each CPU; yields a function that sends rows over a free connection and returns predictions."""
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()

    def score(x: Array) -> Array:
        connection = free.get()
        try:
            _send(connection, x)
            data = _receive(connection)
        except OSError:
            data = None
        finally:
            free.put(connection)
        if data is None:
            raise RuoError("A process has ended; its output above says why.")
        return np.frombuffer(data, np.float32).reshape(len(x), -1)

    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for _ in range(CPUS):
            theirs = []
            for _ in range(CONNECTIONS):
                connection = stack.enter_context(socket.create_connection(listener.getsockname()))
                free.put(connection)
                theirs.append(listener.accept()[0])
                for end in (connection, theirs[-1]):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            process = context.Process(target=_serve, args=(model, theirs), daemon=True)
            process.start()
            stack.callback(process.kill)
            for end in theirs:
                end.close()  # the process has its own copy; without this one, ours ends when the process does
        for _ in range(CPUS * CONNECTIONS):
            score(np.zeros((1, features), np.float32))
        yield score
