"""CPUs, load, memory and locks of this machine and its processes. What needs psutil imports it, since a server has none."""

import atexit
import ctypes
import fcntl
import math
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any


def when_told_to_end(handler: Callable[[int, Any], Any]) -> None:
    """Handle SIGTERM, which the first process of a container ignores by default, and SIGHUP, but under nohup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPUs that this process may use at the same time; a container's quota may be a fraction of one."""
    visible = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Linux, "Control Group v2": cpu.max; in version 1 the quota and its period have a file each
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return visible if quota in ("max", "-1") else min(visible, int(quota) / int(period))
    return visible


def busy_cpu_s() -> float:
    """CPU seconds that all processes together have used since the machine started."""
    import psutil

    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))


def wait_until_quiet(limit: float, patience_s: float) -> tuple[float, float]:
    """Wait up to `patience_s` until at most a share `limit` of all CPUs is in use; return the share and the wait."""
    import psutil

    began = time.monotonic()
    while (share := psutil.cpu_percent(0.1) / 100) > limit and time.monotonic() - began < patience_s:
        pass
    return share, time.monotonic() - began


def session_cpu_s(session: int) -> float:
    """CPU seconds of all processes of a session, including those that have ended."""
    import psutil

    total = 0.0
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if os.getsid(process.pid) == session:
                total += sum(process.cpu_times()[:4])  # its own, and that of its children that have ended
    return total


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in megabytes."""
    # getrusage's maximum outlives exec on Linux, so a small process would report that of its parent; VmHWM does not
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def reset_peak_rss(process: Path = Path("/proc/self")) -> float:
    """Begin the peak of memory anew, with nothing kept that is free; return the memory in megabytes, NaN if it cannot."""
    with suppress(OSError, AttributeError):  # AttributeError: a C library without it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        (process / "clear_refs").write_text("5")  # Linux, proc(5)
        return peak_rss_mb()
    return math.nan


def lock(descriptor: int) -> bool:
    """Whether nobody else has this open file or folder locked; then it is locked until it is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # any other is of a file system without locks
        return not isinstance(error, BlockingIOError)
    return True


@contextmanager
def discarded_stderr() -> Iterator[None]:
    """Discard what this process writes to standard error during the block, libraries in C included."""
    stderr = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


@cache  # a second time would read what the first has written
def rewrite_stderr(rewrite: Callable[[bytes], bytes]) -> Callable[[], int]:
    """Rewrite each line of standard error, of children and libraries in C, too; what it returns ends that, as before exec."""
    (lines, pipe), stderr = os.pipe(), os.dup(2)
    restore = partial(os.dup2, stderr, 2)

    def copy() -> None:
        for line in os.fdopen(lines, "rb"):
            with suppress(OSError):  # a full disk loses lines; whoever writes them must not wait for ever
                os.write(stderr, rewrite(line))

    def end() -> None:
        restore()  # the last copy of the pipe's end, so the thread sees its end
        thread.join(5)

    os.dup2(pipe, 2)
    os.close(pipe)
    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    atexit.register(end)
    return restore
