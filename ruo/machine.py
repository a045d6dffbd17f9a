"""CPUs, load and memory of this machine and its processes. Load is read from /proc on Linux and is None elsewhere."""

import atexit
import ctypes
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """The CPUs that this process may use at the same time; a container's quota may be a fraction of one."""
    visible = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    # Linux, "Control Group v2": cpu.max; in version 1 the quota and its period have a file each
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return visible if quota in ("max", "-1") else min(visible, int(quota) / int(period))
    return visible


def busy_cpu_s() -> float | None:
    """CPU seconds that all processes together have used since the machine started."""
    with suppress(OSError):
        ticks = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks)
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return None


def _busy_share() -> float | None:
    """The share of all CPUs (0 to 1) in use over the next tenth of a second."""
    before, began = busy_cpu_s(), time.monotonic()
    time.sleep(0.1)
    after, ended = busy_cpu_s(), time.monotonic()
    if before is None or after is None:
        return None
    return (after - before) / (ended - began) / (os.cpu_count() or 1)


def wait_until_quiet(limit: float, patience_s: float) -> tuple[float | None, float]:
    """Wait up to `patience_s` until the share of CPUs in use is at most `limit`; return it and the seconds waited."""
    began = time.monotonic()
    while (share := _busy_share()) is not None and share > limit and time.monotonic() - began < patience_s:
        pass
    return share, time.monotonic() - began


def session_cpu_s(session: int) -> float | None:
    """CPU seconds of all processes of a session, including those that have ended."""
    if not (_PROC / "stat").exists():
        return None
    # a process's own time and that of its children that have ended
    ticks = sum(sum(map(int, fields[11:15])) for fields in _session(session))
    return ticks / os.sysconf("SC_CLK_TCK")


def session_rss_mb(session: int) -> float:
    """Resident memory of all processes of a session, in megabytes; shared pages count once per process."""
    return sum(int(fields[21]) for fields in _session(session)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _session(session: int) -> Iterator[list[str]]:
    """For each process of a session, the fields of proc(5)'s stat that come after its name."""
    for process in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            # the name, in brackets, may contain blanks; the session is the fourth field after it
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session:
                yield fields


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in megabytes."""
    # getrusage's maximum outlives exec on Linux, so a small process would report that of its parent; VmHWM does not
    with suppress(OSError):
        if match := re.search(r"^VmHWM:\s+(\d+) kB", (_PROC / "self/status").read_text(), re.MULTILINE):
            return int(match[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


@cache  # a second time would read what the first has written
def rewrite_stderr(rewrite: Callable[[bytes], bytes]) -> None:
    """Rewrite each line that this process and its children write to standard error, libraries in C included."""
    (lines, pipe), stderr = os.pipe(), os.dup(2)

    def copy() -> None:
        for line in os.fdopen(lines, "rb"):
            os.write(stderr, rewrite(line))

    def end() -> None:
        os.dup2(stderr, 2)  # the last copy of the pipe's end, so the thread sees its end
        thread.join(5)

    os.dup2(pipe, 2)
    os.close(pipe)
    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    atexit.register(end)


def reset_peak_rss() -> float:
    """Begin the peak of memory anew (Linux, proc(5)), with nothing kept that is free; return the memory in megabytes."""
    with suppress(OSError, AttributeError):  # AttributeError: a C library without it
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        (_PROC / "self/clear_refs").write_text("5")
    return peak_rss_mb()
