"""One loaded model: arrays in, arrays out, and the description of its tensors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ruo.errors import ModelError
from ruo.model.compiled import ROWS_PER_CALL, Function, compile_keras, compile_signature, exported_dtype, output_names
from ruo.model.store import SUFFIXES, is_saved_model
from ruo.wire import ONLY, WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import DATATYPES, datatype_of


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
    if (array.dtype == object) != (spec.dtype == object):
        raise WireError(
            f'Input "{spec.name}" takes {datatype_of(spec.dtype)}; text is not a number, nor a number text.'
        )
    if array.ndim == 0:
        raise WireError(f'Input "{spec.name}" is a single number; the first dimension must be the rows.')
    shape = [len(array), *spec.shape[1:]]
    fits = array.ndim == len(shape) and all(size in (-1, own) for size, own in zip(shape, array.shape, strict=True))
    if not fits:
        # a flat row may stand for an image of as many values
        if -1 in spec.shape[1:] or array.ndim != 2 or array.shape[1] != math.prod(spec.shape[1:]):
            raise WireError(
                f'Input "{spec.name}" has shape {list(array.shape)}, the model takes {[-1, *spec.shape[1:]]} '
                f"({datatype_of(spec.dtype)}; -1 is any size)."
            )
        array = array.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    # a float too large for FP32 becomes Infinity, which a model accepts; a truncated fraction is a wrong number
    if spec.dtype.kind in "iub" and converted.dtype != array.dtype and not np.array_equal(converted, array):
        raise WireError(f'Input "{spec.name}" holds a value that its datatype {datatype_of(spec.dtype)} cannot hold.')
    return converted


def load_model(
    path: Path,
    trusted: bool = False,
    origin: Path | None = None,
    precision: str = "f32",
    run: Callable[[Model, list[Array]], object] = lambda model, arrays: model.run(arrays),
) -> Model:
    """Load a model, compile it, and warm it up by `run`; errors say that it comes from `origin`.

    Every format but ``.keras`` can run code while it is loaded, so it is refused unless `trusted`.
    """
    origin = origin or path
    if path.suffix != ".keras" and not trusted:
        raise ModelError(
            f"The model at {origin} cannot be loaded: .h5 and SavedModel can run their author's code; "
            "set RUO_TRUST_MODEL=1 if you trust the author, or save the model as .keras."
        )
    try:
        model = _load_saved_model(path) if path.is_dir() else _load_keras(path, precision)
        # the first call takes long; and one row and many show whether there is one row of every output for each
        for rows in (1, ROWS_PER_CALL):
            shapes = [(rows, *(max(size, 1) for size in spec.shape[1:])) for spec in model.inputs]
            run(model, [np.zeros(shape, spec.dtype) for shape, spec in zip(shapes, model.inputs, strict=True)])
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace(str(path), str(origin))
        raise ModelError(f"The model at {origin} cannot be loaded: {reason}") from error
    return model


def _load_keras(path: Path, precision: str) -> Model:
    if path.suffix not in SUFFIXES:
        raise ModelError("it must end in .keras or .h5, or be a SavedModel directory.")
    import keras

    loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not getattr(loaded, "inputs", None):
        raise ModelError("it has no input shape; build it before it is saved, or export it as a SavedModel.")
    inputs = [_spec(tensor.name, tensor) for tensor in loaded.inputs]
    outputs = [_spec(name, tensor) for name, tensor in zip(output_names(loaded), loaded.outputs, strict=True)]
    platform = f"{keras.backend.backend()}_{'keras' if path.suffix == '.keras' else 'h5'}"
    return Model(platform, inputs, outputs, compile_keras(keras, loaded, precision))


def _load_saved_model(path: Path) -> Model:
    if not is_saved_model(path):
        raise ModelError("a SavedModel directory has a file saved_model.pb.")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    # TensorFlow names its default signature "serving_default", Keras' export "serve"
    signature = loaded.signatures.get("serving_default") or loaded.signatures.get("serve")
    if signature is None:
        raise ModelError("it has no signature serving_default; export it with model.export().")
    inputs, outputs = (
        [_spec(name, tensor) for name, tensor in tensors.items()]
        for tensors in (signature.structured_input_signature[1], signature.structured_outputs)
    )
    return Model("tensorflow_savedmodel", inputs, outputs, compile_signature(signature, loaded))


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = np.dtype(exported_dtype(tensor.dtype))
    return TensorSpec(name, dtype, tuple(-1 if size is None else int(size) for size in tensor.shape))


def decode_raw(body: Array, spec: TensorSpec) -> Array:
    """The only tensor of a raw binary request, in the model's datatype and shape."""
    if not np.issubdtype(spec.dtype, np.number) or spec.dtype not in DATATYPES.values():
        raise WireError(f'Input "{spec.name}" cannot be sent as raw bytes.')
    shape = [max(size, 1) for size in spec.shape[1:]]
    row = math.prod(shape) * spec.dtype.itemsize
    if body.nbytes == 0 or body.nbytes % row:
        raise WireError(f'Input "{spec.name}" takes {row} bytes a row, the body has {body.nbytes}.')
    return body.view(spec.dtype).reshape(-1, *shape)
