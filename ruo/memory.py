"""How much memory this process has needed at most."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

__all__ = ["peak_rss_mb"]


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
