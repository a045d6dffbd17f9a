"""How much a model computes for one row, counted from its layers."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["flops_per_row"]


def flops_per_row(model: str | os.PathLike[str]) -> int:
    """Floating-point operations of the matrix products of a ``.keras`` model for one row: two for each multiply-add.

    Activations, pooling and normalisation are left out, being small beside the dense and convolutional layers.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow otherwise reports on the CPU when it is imported
    import keras

    loaded = keras.saving.load_model(Path(model), compile=False)
    return 2 * sum(_multiply_adds(layer) for layer in _layers(loaded))


def _layers(model: Any) -> Iterator[Any]:
    """The layers that have a kernel, including those of nested models."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        elif getattr(layer, "kernel", None) is not None:
            yield layer


def _multiply_adds(layer: Any) -> int:
    """The kernel is used once at each position of the output."""
    shape = layer.output.shape
    # the last axis of the output is the kernel's own, or axis 1 where a model puts the channels first
    positions = shape[1:-1] if getattr(layer, "data_format", "channels_last") == "channels_last" else shape[2:]
    return int(math.prod(layer.kernel.shape) * math.prod(size or 1 for size in positions))
