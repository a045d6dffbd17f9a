"""One loaded model: arrays in, arrays out, and what it says of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ruo.errors import ModelError
from ruo.model.compiled import ROWS_PER_CALL, Function, compile_keras, exported_dtype
from ruo.model.store import SUFFIXES
from ruo.wire import ONLY, WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import DATATYPES, datatype_of

__all__ = ["Model", "TensorSpec", "decode_raw", "load_model"]


class TensorSpec(NamedTuple):
    """A tensor that the model takes or gives: `shape` has -1 where any size will do; the first is the rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Model:
    """A model that is ready to score: call it with arrays by input name, get arrays by output name."""

    def __init__(self, platform: str, inputs: list[TensorSpec], outputs: list[TensorSpec], function: Function) -> None:
        self.platform = platform
        self.inputs = inputs
        self.outputs = outputs
        self._function = function

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Score rows in one call; raises WireError (400) where names, shapes or datatypes do not fit the model."""
        return self.by_name(self.run(self.fit(tensors)))

    def run(self, arrays: list[Array]) -> list[Array]:
        """Score rows that `fit` has made fit, in one call."""
        return self._function(arrays)

    def by_name(self, outputs: list[Array]) -> dict[str, Array]:
        """Outputs as `run` gives them, with their names."""
        return {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}

    def warm_up(self, run: Callable[[Model, list[Array]], object]) -> None:
        """Score one row and a full call, so that no request pays for the first call."""
        for rows in (1, ROWS_PER_CALL):
            shapes = [(rows, *(max(size, 1) for size in spec.shape[1:])) for spec in self.inputs]
            run(self, [np.zeros(shape, spec.dtype) for shape, spec in zip(shapes, self.inputs, strict=True)])

    def fit(self, tensors: Mapping[str, Array]) -> list[Array]:
        """The arrays in the order and with the datatypes and shapes that the model takes."""
        if ONLY in tensors:
            if len(self.inputs) > 1:
                names = ", ".join(f'"{spec.name}"' for spec in self.inputs)
                raise WireError(f"The model takes {len(self.inputs)} inputs; name them: {names}.")
            tensors = {self.inputs[0].name: tensors[ONLY]}
        known = [spec.name for spec in self.inputs]
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
    if array.ndim == 0:
        raise WireError(f'Input "{spec.name}" is a single number; the first dimension must be the rows.')
    is_free = any(size < 0 for size in spec.shape[1:])
    shape = [len(array), *spec.shape[1:]]
    fits = array.ndim == len(shape) and all(size in (-1, own) for size, own in zip(shape, array.shape, strict=True))
    if not fits:
        # a row may come flat where the model takes an image, never with another number of values
        if is_free or array.ndim != 2 or array.shape[1] != math.prod(spec.shape[1:]):
            raise WireError(
                f'Input "{spec.name}" has shape {list(array.shape)}, the model takes {[-1, *spec.shape[1:]]} '
                f"({datatype_of(spec.dtype)}; -1 is any size)."
            )
        array = array.reshape(shape)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = np.ascontiguousarray(array, dtype=spec.dtype)
    # a float too large for FP32 is Infinity there, which a model can take; a fraction cut off is another number
    if spec.dtype.kind in "iub" and converted.dtype != array.dtype and not np.array_equal(converted, array):
        raise WireError(
            f'Input "{spec.name}" holds a value that {datatype_of(spec.dtype)}, which it takes, cannot hold.'
        )
    return converted


def load_model(
    path: Path,
    trusted: bool = False,
    origin: Path | None = None,
    precision: str = "f32",
    run: Callable[[Model, list[Array]], object] = Model.run,
) -> Model:
    """Load a model, compile it and warm it up.

    Parameters
    ----------
    path : Path
        A ``.keras`` or ``.h5`` file, or a SavedModel directory.
    trusted : bool
        Whether formats are taken that can run code of their maker while they are loaded: all but ``.keras``.
    origin : Path, optional
        Where `path` was copied from, to be named in errors.
    precision : {"f32", "bf16"}
        What OpenVINO computes in.
    run : callable
        How the warm-up calls the model.

    Raises
    ------
    ModelError
        When it cannot be loaded or called.
    """
    origin = origin or path
    if path.suffix != ".keras" and not trusted:
        raise ModelError(
            f"The model at {origin} cannot be loaded: .h5 and SavedModel can run code of whoever made them; "
            "set RUO_TRUST_MODEL=1 if you know who did, or save the model as .keras."
        )
    try:
        model = _load_saved_model(path) if path.is_dir() else _load_keras(path, precision)
        model.warm_up(run)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        reason = reason.replace(str(path), str(origin))
        raise ModelError(f"The model at {origin} cannot be loaded: {reason}") from error
    return model


def _load_keras(path: Path, precision: str) -> Model:
    if path.suffix not in SUFFIXES:
        raise ModelError("it must end in .keras or .h5, or be a SavedModel directory.")
    import keras

    loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
    if not getattr(loaded, "inputs", None):
        raise ModelError("it does not say what it takes; build it before it is saved, or export it as a SavedModel.")
    # a Sequential model has one output, named after its last layer as in a functional model
    names = _unique(getattr(loaded, "output_names", None) or [loaded.layers[-1].name])
    inputs = [_spec(tensor.name, tensor.dtype, tensor.shape) for tensor in loaded.inputs]
    outputs = [
        _spec(name, exported_dtype(tensor.dtype), tensor.shape)
        for name, tensor in zip(names, loaded.outputs, strict=True)
    ]
    kind = "keras" if path.suffix == ".keras" else "h5"
    return Model(f"{keras.backend.backend()}_{kind}", inputs, outputs, compile_keras(keras, loaded, precision))


def _load_saved_model(path: Path) -> Model:
    if not (path / "saved_model.pb").is_file():
        raise ModelError("a SavedModel directory has a file saved_model.pb.")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    # Keras' export names its endpoint "serve", TensorFlow itself "serving_default"
    signatures = dict(loaded.signatures)
    signature = signatures.get("serving_default") or signatures.get("serve")
    if signature is None:
        raise ModelError("it has no signature serving_default; export it with model.export().")
    inputs = [
        _spec(name, t.dtype.as_numpy_dtype, t.shape) for name, t in signature.structured_input_signature[1].items()
    ]
    outputs = [_spec(name, t.dtype.as_numpy_dtype, t.shape) for name, t in signature.structured_outputs.items()]

    def function(arrays: list[Array]) -> list[Array]:
        given = {spec.name: tf.convert_to_tensor(array) for spec, array in zip(inputs, arrays, strict=True)}
        results = signature(**given)
        return [results[spec.name].numpy() for spec in outputs]

    function.__dict__["loaded"] = loaded  # a signature does not keep its variables alive
    return Model("tensorflow_savedmodel", inputs, outputs, function)


def _spec(name: str, dtype: Any, shape: Any) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), tuple(-1 if size is None else int(size) for size in shape))


def _unique(names: list[str]) -> list[str]:
    """Output names; Keras names an output after its layer, and one layer may give two."""
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


def decode_raw(body: Array, spec: TensorSpec) -> Array:
    """The only tensor of a raw binary request: its datatype and shape are the model's."""
    if not np.issubdtype(spec.dtype, np.number) or spec.dtype not in DATATYPES.values():
        raise WireError(f'Input "{spec.name}" cannot be sent as raw bytes.')
    shape = [max(size, 1) for size in spec.shape[1:]]
    row = math.prod(shape) * spec.dtype.itemsize
    if body.nbytes == 0 or body.nbytes % row:
        raise WireError(f'Input "{spec.name}" takes {row} bytes a row, the body has {body.nbytes}.')
    return body.view(spec.dtype).reshape(-1, *shape)
