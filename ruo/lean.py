"""Keras without what it imports only because it happens to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["import_keras"]

# For its wrappers and plots; where a server shares its environment with notebooks, they are half of Keras' import time.
_NOT_FOR_SCORING = ("sklearn", "matplotlib", "scipy", "pandas", "IPython")


def import_keras() -> ModuleType:
    """Keras, for a process that only scores; what is imported already stays as it is."""
    try:
        with _hidden(*_NOT_FOR_SCORING):
            import keras
    except ImportError:  # the backend needs one of them: OpenVINO's computes with scipy
        for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
            del sys.modules[name]
        with _hidden(*set(_NOT_FOR_SCORING) - {"scipy"}):
            import keras
    return keras  # type: ignore[no-any-return]


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's word for "not to be had"
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
