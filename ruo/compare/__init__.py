"""The system of 2023 and the bound without a network, beside ruo.

Its jobs run in processes of their own; nothing outside imports `paper/`. The names below are imported when they are
first used, since each job would import them all with its package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ruo.compare.systems import time_in_process

__all__ = ["time_in_process"]

_HOME = {"time_in_process": "systems"}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
