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

    A dense or convolutional layer's kernel is used once at each position of its output; all else (activations, pooling,
    normalisation) is left out, as it is small beside them. Needs Keras.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else TensorFlow tells of the CPU when it is imported
    import keras

    loaded = keras.saving.load_model(Path(model), compile=False)
    return 2 * sum(_multiply_adds(layer) for layer in _layers(loaded))


def _layers(model: Any) -> Iterator[Any]:
    """The layers that have a kernel, also those of models within the model."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer)
        elif getattr(layer, "kernel", None) is not None:
            yield layer


def _multiply_adds(layer: Any) -> int:
    shape = layer.output.shape
    # the last axis of the output is the kernel's own, or axis 1 where a model puts the channels first
    inner = shape[1:-1] if getattr(layer, "data_format", "channels_last") == "channels_last" else shape[2:]
    return int(math.prod(layer.kernel.shape) * math.prod(size or 1 for size in inner))
