"""Keras without what it imports only because it happens to be installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

__all__ = ["import_keras"]

# For its wrappers and plots; where a server shares its environment with notebooks, they are half of Keras' import time.
_NOT_FOR_SCORING = ("sklearn", "matplotlib", "pandas", "IPython")
# OpenVINO's backend imports these for its operations on sound, which is more than half of its time.
_SELDOM = ("scipy", "scipy.signal")


def import_keras() -> ModuleType:
    """Keras, for a process that only scores; what is imported already stays as it is."""
    with _in_place({**dict.fromkeys(_NOT_FOR_SCORING), **{name: _WhenUsed(name) for name in _SELDOM}}):
        import keras
    return keras  # type: ignore[no-any-return]


class _WhenUsed(ModuleType):
    """Stands in for a module where that is imported, and for its names goes to the module itself afterwards."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def _in_place(stand_ins: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Have modules that are not imported yet stood in for by others; by None, which says that they are not to be had."""
    missing = {name: module for name, module in stand_ins.items() if name not in sys.modules}
    sys.modules.update(missing)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
