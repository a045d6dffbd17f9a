"""Gunicorn's settings: workers and threads from the CPU limit, and the hooks that connect the workers.

The environment's settings are in server/settings.py. Command-line options such as `-b` override this file.
"""

import contextlib
import gc
import logging
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ruo.errors import SettingsError
from ruo.machine import cpu_limit, rewrite_stderr
from server.logs import IS_JSON, as_json
from server.scratch import make_scratch
from server.settings import Settings
from server.slots import WorkerSlots, manage_workers

_restore_stderr = rewrite_stderr(as_json) if IS_JSON else None
try:
    _settings = Settings.read()
except SettingsError as error:  # before any worker starts, and without the traceback that Gunicorn would print
    sys.exit(str(error))
_cpus = cpu_limit()

bind = f"0.0.0.0:{_settings.port}"
workers = _settings.web_concurrency or max(1, math.floor(_cpus))
worker_class = "server.worker.LeastLoadedWorker"
threads = _settings.max_waiting + 9  # one computes, some wait, and one is always free to refuse the next
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  a heartbeat, not a secret
forwarded_allow_ips = ""  # the server ignores a proxy's description of its client, so it trusts none
keepalive = 65  # longer than the idle time of proxies in front, so that they close first
timeout = 120
graceful_timeout = 60
loglevel = _settings.log_level
logger_class = "server.logs.ServerLogger"
control_socket_disable = True
_ENDS = (signal.SIGTERM, signal.SIGQUIT)
preload_app = False  # every worker loads its own model: TensorFlow does not survive a fork once it has computed

try:
    tempfile.gettempdir()
except FileNotFoundError:  # a container whose file system is read-only
    tempfile.tempdir = os.environ["TMPDIR"] = "/dev/shm"  # noqa: S108  with unique folders inside

# Every connection takes a file descriptor, and many systems start processes with 1,024.
_descriptors, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_descriptors, min(_most, 1 << 16)), _most))

# All workers together have as many threads as there are CPUs. TensorFlow sees the machine's CPUs, not the container's
# limit; it reads these before its first call.
_cores = _settings.worker_cores
_given, _, _ = os.environ.get("OMP_NUM_THREADS", "").partition(",")  # OpenMP has lists, too
_threads = _given or str(_cores or max(1, math.floor(_cpus / workers)))
os.environ["OMP_NUM_THREADS"] = _threads
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", _threads)
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# oneDNN's own pool never shrinks, so that a worker would hold the memory of every model it has had. The C library's
# settings (MALLOC_ARENA_MAX and the like) must be set before this process starts: see the Dockerfile.
os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = _settings.keras_backend  # which Keras would read from a file of the user's, too


def on_starting(server: Any) -> None:
    """Make a folder for temporary files, and an empty one for the workers' counters, before any worker starts."""
    # not of this module, which a reload makes anew; it starts as many workers again as there are
    server.slots = WorkerSlots(128 + 2 * server.num_workers)
    server.manage_workers = partial(manage_workers, server)
    try:
        server.scratch = make_scratch()
        os.chown(server.scratch, server.cfg.uid, server.cfg.gid)  # the workers', where Gunicorn is given -u
        folder = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR") or server.scratch / "counters")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _remove(folder.glob("*.db"))
    except OSError as error:
        cure = "set TMPDIR, and PROMETHEUS_MULTIPROC_DIR if there is one, to folders that can be written to"
        sys.exit(f"The server cannot write to {error.filename or 'any folder'} ({error.strerror}); {cure}.")


def pre_exec(server: Any) -> None:
    """Leave the next master (SIGUSR2) the standard error of this one, which no longer copies lines once it has ended."""
    if _restore_stderr:
        _restore_stderr()


def on_exit(server: Any) -> None:
    shutil.rmtree(server.scratch, ignore_errors=True)


def when_ready(server: Any) -> None:
    """Import Keras once for all workers, and stop at the end of the process that started this server with a lifeline.

    TensorFlow starts its threads at its first call, so it can be imported before a fork.
    """
    with contextlib.suppress(ImportError):  # every worker will report it as the reason why it is not ready
        import keras  # noqa: F401
    gc.freeze()  # the collector leaves these objects alone, so that their memory stays shared
    # a worker's copy of the master's handler would swallow a signal that comes before the worker has its own
    hold, let_go = (partial(signal.pthread_sigmask, how, _ENDS) for how in (signal.SIG_BLOCK, signal.SIG_UNBLOCK))
    os.register_at_fork(before=hold, after_in_parent=let_go, after_in_child=_end_at_signals)
    if lifeline := os.environ.pop("RUO_LIFELINE_FD", None):
        threading.Thread(target=_stop_at_end_of, args=[int(lifeline)], daemon=True).start()


def _end_at_signals() -> None:
    for number in _ENDS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)


def on_reload(server: Any) -> None:
    """Have every worker end when its successor is ready."""
    for worker in server.WORKERS.values():
        worker.slots.is_retiring[worker.slot] = 1
        worker.age = math.inf  # the reload waits, deaf to signals, for all that are not younger than this moment


def pre_fork(server: Any, worker: Any) -> None:
    worker.slots, worker.slot, worker.is_ending = server.slots, server.slots.take(), False
    worker.exchange_s = _settings.body_timeout + _settings.request_timeout + 300


def post_fork(server: Any, worker: Any) -> None:
    """Bind the worker to its WORKER_CORES CPUs, before TensorFlow counts them; take the room for its counters."""
    worker.app.callable = None  # that of --preload, which counts for one worker alone
    if _cores and hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[(worker.slot * _cores + core) % len(usable)] for core in range(_cores)})
    folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    try:
        # prometheus_client writes to its files as to memory, and a process that does so on a full disk is killed
        for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax"):
            with (folder / f"{kind}_{worker.slot}.db").open("ab") as file:
                os.fchown(file.fileno(), worker.cfg.uid, worker.cfg.gid)
                file.write(bytes(max(0, (1 << 17) - file.tell())))  # several times what all labels need
    except OSError as error:
        server.log.error("There is no room for metrics in %s (%s); /metrics is of one worker.", folder, error.strerror)
        _remove(folder.glob(f"*_{worker.slot}.db"))
        del os.environ["PROMETHEUS_MULTIPROC_DIR"]
    else:  # a worker counts on where the last one in its slot ended: a file for each process would fill the disk
        from prometheus_client import values  # which looks for the folder when it is imported

        values.ValueClass = values.MultiProcessValue(lambda: worker.slot)  # type: ignore[no-untyped-call]


def post_worker_init(worker: Any) -> None:
    worker.slots.pid[worker.slot] = os.getpid()
    worker.wsgi.extensions["ruo"].start(worker.slots, worker.slot)


def worker_exit(server: Any, worker: Any) -> None:
    """End the worker's process at once: a thread may be loading a model, and its C++ code can hang or abort at exit."""
    error = sys.exc_info()[1]  # the master calls this, too, without a SystemExit
    if isinstance(error, SystemExit):
        logging.shutdown()
        os._exit((error.code or 0) & 0xFF if isinstance(error.code, int | None) else 1)


def child_exit(server: Any, worker: Any) -> None:
    """Forget a worker that has ended, except for its totals."""
    worker.slots.clear(worker.slot)
    _remove(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{worker.slot}.db"))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _stop_at_end_of(pipe: int) -> None:
    with contextlib.suppress(OSError):
        os.read(pipe, 1)  # returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)
