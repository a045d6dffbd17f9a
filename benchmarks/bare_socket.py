"""The bound of any client with servers: the same job in several processes, with a socket in between and nothing else.

``python -m benchmarks.bare_socket testset.csv model.keras``. One process per CPU holds the model. Rows and predictions
are sent as they lie in memory, without HTTP, checks or retries. Label columns are read too; the rest is as in the
command ``bound`` of `ruo.compare.score`.
"""

import multiprocessing
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np

from ruo.compare.score import Model, columns_of, compile_model, report, score_in_process
from ruo.errors import RuoError
from ruo.machine import cpu_limit
from ruo.wire.messages import Array

_ROWS_PER_CALL = 2048  # as ruo's server calls a model
_CONNECTIONS = 2  # to each process: one sends while the other's rows are scored
_SIZE = struct.Struct("<q")  # comes before each array: its number of bytes


def _receive(connection: socket.socket) -> memoryview | None:
    """The bytes of an array; None where the other side has closed the connection."""
    size = connection.recv(_SIZE.size, socket.MSG_WAITALL)
    if len(size) < _SIZE.size:
        return None
    data = np.empty(_SIZE.unpack(size)[0], np.uint8).data
    at = 0
    while at < len(data):
        count = connection.recv_into(data[at:], 0, socket.MSG_WAITALL)
        if not count:
            return None
        at += count
    return data


def _send(connection: socket.socket, array: Array) -> None:
    connection.sendall(_SIZE.pack(array.nbytes))
    connection.sendall(array.data.cast("B"))


def _serve(model: Path, features: int, rows: int, port: Connection) -> None:
    """Run one process: send the port once the model is warm, and answer until killed."""
    os.environ.update(dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"))
    function = compile_model(model, features, rows, _ROWS_PER_CALL)
    one_at_a_time = threading.Lock()

    def answer(connection: socket.socket) -> None:
        while (data := _receive(connection)) is not None:
            x = np.frombuffer(data, np.float32).reshape(-1, features)
            with one_at_a_time:
                answers = [function(x[start : start + _ROWS_PER_CALL]) for start in range(0, len(x), _ROWS_PER_CALL)]
            _send(connection, np.concatenate(answers))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port.send(listener.getsockname()[1])
        while True:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()


@contextmanager
def _processes(count: int, *arguments: Any) -> Iterator[Model]:
    """Run `count` processes; yields a function that sends rows over a free connection and returns predictions."""
    context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
    free: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
    with ExitStack() as stack:
        receivers = []
        for _ in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(*arguments, sender), daemon=True)
            process.start()
            stack.callback(process.kill)
            sender.close()  # the process has its own copy; without this one, recv() ends when the process does
            receivers.append(receiver)
        try:
            ports = [receiver.recv() for receiver in receivers]
        except EOFError:
            raise RuoError("A process did not start; its output above says why.") from None
        for port in ports * _CONNECTIONS:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            free.put(connection)

        def score(x: Array) -> Array:
            connection = free.get()
            try:
                _send(connection, x)
                data = _receive(connection)
            finally:
                free.put(connection)
            if data is None:
                raise RuoError("A process has ended while scoring; its output above says why.")
            return np.frombuffer(data, np.float32).reshape(len(x), -1)

        yield score


@click.command()
@click.argument("testset", type=click.Path(path_type=Path))
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--rows", default=10_000, show_default=True, help="Rows per message.")
@click.option("--answers", type=click.Path(path_type=Path), help="Write the predictions here, as .npy.")
def main(testset: Path, model: Path, rows: int, answers: Path | None) -> None:
    """Score TESTSET with MODEL and print what it took as one line of JSON."""
    count = max(1, int(cpu_limit()))
    try:
        features, labels, _ = columns_of(testset)
        with _processes(count, model, len(features), rows) as score:
            began = time.perf_counter()
            predictions = score_in_process(testset, features, labels, score, rows, threads=_CONNECTIONS * count)
            report(predictions, answers, total_s=time.perf_counter() - began)
    except RuoError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
