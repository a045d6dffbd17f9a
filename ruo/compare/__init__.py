"""The system of 2023 and the bound without a network, beside ruo.

Its jobs run in processes of their own; nothing outside imports `paper/`. The names below are imported when they are
first used, since each job would import them all with its package, and the paper's client must come before any socket.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruo.compare.jobs import time_in_process
    from ruo.compare.results import SystemsCompared, read_systems
    from ruo.compare.run import compare_systems
    from ruo.compare.systems import Systems

__all__ = ["Systems", "SystemsCompared", "compare_systems", "read_systems", "time_in_process"]

_HOME = {
    "Systems": "systems",
    "SystemsCompared": "results",
    "compare_systems": "run",
    "read_systems": "results",
    "time_in_process": "jobs",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
