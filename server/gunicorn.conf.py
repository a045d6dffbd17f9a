"""Gunicorn's settings: workers and threads from the CPU limit, and the hooks that join the workers.

PORT (8000), WEB_CONCURRENCY (workers; default: one for each CPU that may be used), WORKER_CORES (how many CPUs each
worker is kept to; default: all, shared), LOG_LEVEL (info; warning leaves out the line for every request) and LOG_FORMAT
(text, json) come from the environment, as do the application's settings (server/settings.py). The options of the command
line, such as `-b`, override this file.
"""

import contextlib
import gc
import math
import os
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from typing import Any

from ruo.machine import cpu_limit
from server.settings import Settings
from server.slots import WorkerSlots

_settings = Settings.read()  # a wrong one ends the server at once, before any worker starts
_cpus = cpu_limit()
_slots = WorkerSlots()

bind = f"0.0.0.0:{os.environ.get('PORT', '8000')}"
workers = int(os.environ.get("WEB_CONCURRENCY", "0")) or max(1, math.floor(_cpus))
worker_class = "server.worker.LeastLoadedWorker"
threads = _settings.max_waiting + 9  # one computes, some wait, and there is always one to refuse the next
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  a file that beats, not a secret
forwarded_allow_ips = ""  # the server does not use what a proxy says of its client, so it trusts none
keepalive = 65  # longer than the idle time of proxies in front, which close first then
timeout = 120
graceful_timeout = 60
loglevel = os.environ.get("LOG_LEVEL", "info").lower()
logger_class = "server.logs.ServerLogger"
control_socket_disable = True
preload_app = False  # every worker has its own application and model: TensorFlow at work does not survive a fork

try:
    tempfile.gettempdir()
except FileNotFoundError:  # a container whose file system is read-only
    tempfile.tempdir = os.environ["TMPDIR"] = "/dev/shm"  # noqa: S108  named folders are made below it

# The threads of all workers together are as many as the CPUs. TensorFlow sees the machine's CPUs, not the
# container's limit; it reads these before its first call.
_cores = int(os.environ.get("WORKER_CORES", "0"))
_threads = str(_cores or max(1, math.floor(_cpus / workers)))
for _name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, _threads)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# oneDNN's own pool never shrinks, so that after a swap of models a worker would hold the memory of both for ever. What the
# C library does with memory (MALLOC_ARENA_MAX and the like) has to be set before this process starts: see the Dockerfile.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def on_starting(server: Any) -> None:
    """Make the folder in which the workers' counters are added up, empty; before any worker imports its half."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for counters in Path(folder).glob("*.db"):
            counters.unlink()
    else:
        server.counters = os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="ruo-counters-")


def on_exit(server: Any) -> None:
    """Leave nothing behind."""
    if hasattr(server, "counters"):
        shutil.rmtree(server.counters, ignore_errors=True)


def when_ready(server: Any) -> None:
    """Import what the workers share, and stop when the process that started this server is gone, where it gave a pipe.

    TensorFlow starts its threads at the first call. Imported before that, it is imported once for all workers, and a
    worker that replaces another is ready in less than a second.
    """
    with contextlib.suppress(ImportError):  # which every worker will tell of, as the reason why it is not ready
        import keras  # noqa: F401
    gc.freeze()  # the collector leaves these objects alone, so their memory stays shared
    lifeline = os.environ.pop("RUO_LIFELINE_FD", None)
    if lifeline is not None:
        threading.Thread(target=_stop_at_end_of, args=(int(lifeline),), daemon=True).start()


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker its slot."""
    worker.slots, worker.slot = _slots, _slots.take()
    worker.exchange_s = _settings.body_timeout + _settings.request_timeout + 300


def post_fork(server: Any, worker: Any) -> None:
    """Keep the worker to CPUs of its own, with WORKER_CORES; before TensorFlow counts the CPUs."""
    if _cores and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        first = worker.slot * _cores
        os.sched_setaffinity(0, {usable[(first + core) % len(usable)] for core in range(_cores)})


def post_worker_init(worker: Any) -> None:
    """Begin to load the model in the new process."""
    worker.slots.set(worker.slot, "pid", os.getpid())
    worker.wsgi.extensions["ruo"].start(worker.slots, worker.slot)


def child_exit(server: Any, worker: Any) -> None:
    """Forget a worker that has ended; its totals stay counted."""
    from prometheus_client.multiprocess import mark_process_dead

    worker.slots.clear(worker.slot)  # not _slots, which is another object where the settings were read again
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]


def _stop_at_end_of(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.read(pipe, 1)  # comes back when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
