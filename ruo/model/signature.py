"""A model that is ready to score: the description of its tensors, and how a request's tensors become its inputs."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ruo.wire import ONLY, WireError
from ruo.wire.messages import Array
from ruo.wire.v1 import SIGNATURE
from ruo.wire.v2 import DATATYPES, datatype_of

Function = Callable[[list[Array]], list[Array]]

# So many rows still fit the CPU's cache. Calls of 50,000 rows of a convolutional model take twice as long per row, and
# gigabytes; Keras' own `predict`, with 32 rows per call, takes a hundred times as long.
ROWS_PER_CALL = 2048
BYTES_PER_CALL = 16 << 20


class TensorSpec(NamedTuple):
    """An input or output of the model; in `shape`, -1 means any size, and the first dimension is the rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is ready to score; `run` scores the arrays that `fit` returns, in one call."""

    platform: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    run: Function
    call_bytes: int = BYTES_PER_CALL  # of inputs in one call
    signature: str = SIGNATURE
    features: list[str] = field(default_factory=list)  # the names of its only input's columns, where it has them

    def rows_per_call(self, arrays: list[Array]) -> int:
        """How many rows to compute at once; an image or a long text takes the memory of many short rows."""
        row_bytes = sum(array[:1].nbytes for array in arrays)
        return max(1, min(ROWS_PER_CALL, self.call_bytes // max(1, row_bytes)))

    def fit(self, tensors: Mapping[str, Array]) -> list[Array]:
        """The arrays in the model's order, datatypes and shapes; raises WireError (400) for those that do not fit."""
        known = [spec.name for spec in self.inputs]
        if ONLY in tensors:
            if len(known) > 1:
                names = ", ".join(f'"{name}"' for name in known)
                raise WireError(f"The model takes {len(known)} inputs; name them: {names}.")
            tensors = {known[0]: tensors[ONLY]}
        for name in tensors:
            if name not in known:
                raise WireError(f'The model has no input "{name}"; its inputs are {", ".join(known)}.')
        for name in known:
            if name not in tensors:
                raise WireError(f'Input "{name}" is missing; the model takes {", ".join(known)}.')
        arrays = [_fit(tensors[spec.name], spec) for spec in self.inputs]
        counts = {len(array) for array in arrays}
        if len(counts) > 1:
            raise WireError(f"The inputs have different numbers of rows: {sorted(counts)}.")
        return arrays


def _fit(array: Array, spec: TensorSpec) -> Array:
    if (array.dtype == object) != (spec.dtype == object) and array.size:
        given, taken = ("text", "numbers") if array.dtype == object else ("numbers", "text")
        raise WireError(f'Input "{spec.name}" holds {given}, the model takes {taken} ({datatype_of(spec.dtype)}).')
    if array.ndim == 0:
        kind = "text" if array.dtype == object else "number"
        raise WireError(f'Input "{spec.name}" is a single {kind}; the first dimension must be the rows.')
    shape = [len(array), *spec.shape[1:]]
    fits = array.ndim == len(shape) and all(size in (-1, own) for size, own in zip(shape, array.shape, strict=True))
    if not fits:
        # a flat row may stand for an image of as many values, and a value for a row of one
        if -1 in spec.shape[1:] or array.ndim > 2 or math.prod(array.shape[1:]) != math.prod(spec.shape[1:]):
            raise WireError(f'Input "{spec.name}" has shape {list(array.shape)}, {_taken(spec)}.')
        array = array.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    # a float too large for FP32 becomes Infinity, which a model accepts; a truncated fraction is a wrong number
    if spec.dtype.kind in "iub" and converted.dtype != array.dtype and not np.array_equal(converted, array):
        raise WireError(f'Input "{spec.name}" holds a value that its datatype {datatype_of(spec.dtype)} cannot hold.')
    return converted


def _taken(spec: TensorSpec) -> str:
    return f"the model takes {[-1, *spec.shape[1:]]} ({datatype_of(spec.dtype)}; -1 is any size)"


def decode_raw(body: Array, spec: TensorSpec) -> Array:
    """The only tensor of a raw binary request, in the model's datatype and shape."""
    shape = spec.shape[1:]
    if not np.issubdtype(spec.dtype, np.number) or spec.dtype not in DATATYPES.values() or -1 in shape:
        raise WireError(f'Input "{spec.name}" cannot be sent as raw bytes; describe it: {_taken(spec)}.')
    row = math.prod(shape) * spec.dtype.itemsize
    if body.nbytes == 0 or body.nbytes % row:
        raise WireError(f'Input "{spec.name}" takes {row} bytes a row, the body has {body.nbytes}.')
    return body.view(spec.dtype).reshape(-1, *shape)
