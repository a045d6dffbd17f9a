"""How many CPUs this process may use: what is visible, less what a container's quota takes away."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_limit"]


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
