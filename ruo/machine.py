"""CPUs, load and memory of this machine and of its processes. Load is read from Linux' /proc; elsewhere it is None."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = [
    "busy_cpu_s",
    "busy_share",
    "cpu_limit",
    "peak_rss_mb",
    "session_cpu_s",
    "session_rss_mb",
    "wait_until_quiet",
]

_PROC = Path("/proc")


def cpu_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """CPUs this process may use at the same time, at least a fraction of one.

    The scheduler's affinity mask gives whole CPUs; a container's limit is a cgroup quota, which the mask
    does not show (Linux, "Control Group v2", cpu.max; in version 1 cpu.cfs_quota_us and cpu.cfs_period_us).
    """
    visible = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return min(visible, _quota(cgroup) or visible)


def _quota(cgroup: Path) -> float | None:
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def busy_cpu_s() -> float | None:
    """Seconds that all CPUs together have worked since the machine started."""
    try:
        ticks = [int(field) for field in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def busy_share(seconds: float = 0.1) -> float | None:
    """The share of all CPUs (0 to 1) that is in use, over the next `seconds`."""
    before, began = busy_cpu_s(), time.monotonic()
    time.sleep(seconds)
    after, ended = busy_cpu_s(), time.monotonic()
    if before is None or after is None:
        return None
    return (after - before) / (ended - began) / (os.cpu_count() or 1)


def wait_until_quiet(limit: float, patience_s: float) -> tuple[float | None, float]:
    """Wait until at most `limit` of the CPUs is in use, for no longer than `patience_s`: the share, and the seconds waited."""
    began = time.monotonic()
    share = busy_share()
    while share is not None and share > limit and time.monotonic() - began < patience_s:
        share = busy_share()
    return share, time.monotonic() - began


def session_cpu_s(session: int) -> float | None:
    """CPU seconds of all processes of a session, those that have ended included."""
    if not (_PROC / "stat").exists():
        return None
    # a process' own time and that of its children which have ended
    ticks = sum(sum(map(int, fields[11:15])) for fields in _session(session))
    return ticks / os.sysconf("SC_CLK_TCK")


def session_rss_mb(session: int) -> float:
    """Resident memory of all processes of a session, in megabytes; shared pages count once per process."""
    return sum(int(fields[21]) for fields in _session(session)) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _session(session: int) -> Iterator[list[str]]:
    """The processes of a session: of each, the fields of proc(5)'s stat that come after the name."""
    for process in _PROC.glob("[0-9]*"):
        try:
            # the name, in brackets, may hold blanks; the session is the fourth field after it
            fields = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            yield fields


def peak_rss_mb() -> float:
    """The largest resident memory of this process until now, in megabytes.

    Linux keeps getrusage's maximum across exec, so a small process that a large one started would report its
    parent's; VmHWM starts anew.
    """
    try:
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        match = None
    if match:
        return int(match[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
