"""Keras without what it imports only because it happens to be installed."""

from __future__ import annotations

import sys
from types import ModuleType

__all__ = ["import_keras"]

# For its wrappers and plots; where a server shares its environment with notebooks, they are half of Keras' import time.
_NOT_FOR_SCORING = ("sklearn", "matplotlib", "scipy", "pandas", "IPython")


def import_keras() -> ModuleType:
    """Keras, for a process that only scores; what is imported already stays as it is."""
    hidden = [name for name in _NOT_FOR_SCORING if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is Python's word for "not to be had"
    try:
        import keras
    finally:
        for name in hidden:
            del sys.modules[name]
    return keras  # type: ignore[no-any-return]
