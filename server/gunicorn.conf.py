"""Gunicorn's settings: workers and threads from the CPU limit, and the hooks that join the workers.

PORT (8000), WEB_CONCURRENCY (workers; default: one for each CPU that may be used) and LOG_LEVEL come from the
environment; `-b` and the other options of the command line override what stands here.
"""

import contextlib
import math
import os
import signal
import threading
from typing import Any

from ruo.cpus import cpu_limit
from server.board import Board

_cpus = cpu_limit()
_board = Board()

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", 0)) or max(1, math.floor(_cpus))
worker_class = "server.worker.LeastLoadedWorker"
threads = 16  # one computes; the others read, write and answer probes
keepalive = 65  # longer than the idle time of proxies in front, which close first then
timeout = 120
graceful_timeout = 60
loglevel = os.environ.get("LOG_LEVEL", "info").lower()
control_socket_disable = True
preload_app = False  # TensorFlow does not survive a fork: every worker loads its own

# The threads of all workers together are as many as the CPUs. TensorFlow sees the machine's CPUs, not the
# container's limit; it reads these before its first call.
_threads = str(max(1, math.floor(_cpus / workers)))
for _name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, _threads)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def when_ready(server: Any) -> None:
    """Stop when the process that started this server is gone, where it gave a pipe to tell by."""
    lifeline = os.environ.pop("RUO_LIFELINE_FD", None)
    if lifeline is not None:
        threading.Thread(target=_stop_at_end_of, args=(int(lifeline),), daemon=True).start()


def pre_fork(server: Any, worker: Any) -> None:
    worker.board = _board
    worker.line = _board.take_line()


def post_worker_init(worker: Any) -> None:
    worker.wsgi.extensions["ruo"].start(worker.board, worker.line)


def child_exit(server: Any, worker: Any) -> None:
    _board.clear(worker.line)


def _stop_at_end_of(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.read(pipe, 1)  # comes back when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
