"""How a worker's memory is held and given back, where the C library is glibc; elsewhere nothing is done.

TensorFlow with oneDNN would keep a pool of its own that never shrinks: after a swap of models a worker would hold the
memory of both for ever. The C library's memory can be given back; so that it is not, between one call of the model and
the next, and every page does not have to be asked for again, it is told to hold on to what is freed.
Source: glibc, mallopt(3) and malloc_trim(3).
"""

from __future__ import annotations

import ctypes
import gc
import os

__all__ = ["give_back", "hold_on"]

# <malloc.h>: parameters of mallopt
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
_SETTINGS = {
    _ARENA_MAX: 1,  # one heap for all threads, since only one computes
    _MMAP_THRESHOLD: 32 << 20,  # the largest there is
    _TOP_PAD: 64 << 20,
    _TRIM_THRESHOLD: 1 << 30,
}


def hold_on() -> None:
    """Use the C library's memory for tensors, and keep what is freed for the next call; before TensorFlow is imported."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
        for parameter, value in _SETTINGS.items():
            mallopt(parameter, value)


def give_back() -> None:
    """Give the system what is no longer used: a model is full of cycles, and glibc keeps what it has been given back."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
