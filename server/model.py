"""One loaded model: arrays in, arrays out.

The model is compiled once, for any number of rows, and called in pieces of `ROWS_PER_CALL`: a call of 50,000 rows of a
convolutional model takes twice as long per row as a few thousand do (they no longer fit the cache), and gigabytes.
`predict` is not used: at its default batch size of 32 it takes a hundred times as long.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ruo.errors import RuoError
from ruo.wire import ONLY, WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import DATATYPES, datatype_of

__all__ = ["ROWS_PER_CALL", "Model", "ModelError", "TensorSpec", "load_model"]

ROWS_PER_CALL = 4096


class ModelError(RuoError):
    """The model cannot be loaded: what is wrong with the file, and what to do."""


class TensorSpec(NamedTuple):
    """A tensor that the model takes or gives: `shape` has -1 where any size will do; the first is the rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


Function = Callable[[list[Array]], list[Array]]


class Model:
    """A model that is ready to score: call it with arrays by input name, get arrays by output name."""

    def __init__(self, platform: str, inputs: list[TensorSpec], outputs: list[TensorSpec], function: Function) -> None:
        self.platform = platform
        self.inputs = inputs
        self.outputs = outputs
        self._function = function
        # one call at a time: the threads inside a call use the CPUs that this process may use
        self._lock = threading.Lock()

    def __call__(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Score rows; raises WireError (400) where names, shapes or datatypes do not fit the model."""
        return self.run(self.fit(tensors))

    def run(self, arrays: list[Array]) -> dict[str, Array]:
        """Score rows that `fit` has made fit."""
        rows = len(arrays[0])
        if rows <= ROWS_PER_CALL:
            return self._named(self._call(arrays))
        results: list[Array] = []
        for start in range(0, rows, ROWS_PER_CALL):
            pieces = self._call([array[start : start + ROWS_PER_CALL] for array in arrays])
            if start == 0:
                results = [np.empty((rows, *piece.shape[1:]), piece.dtype) for piece in pieces]
            for result, piece in zip(results, pieces, strict=True):
                result[start : start + len(piece)] = piece
        return self._named(results)

    def warm_up(self) -> None:
        """Call the model at both sizes that it will see, so that no request pays for the first call."""
        for rows in (1, ROWS_PER_CALL):
            shapes = [(rows, *(max(size, 1) for size in spec.shape[1:])) for spec in self.inputs]
            self.run([np.zeros(shape, spec.dtype) for shape, spec in zip(shapes, self.inputs, strict=True)])

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

    def _call(self, arrays: list[Array]) -> list[Array]:
        with self._lock:
            return self._function(arrays)

    def _named(self, arrays: list[Array]) -> dict[str, Array]:
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}


def _fit(array: Array, spec: TensorSpec) -> Array:
    if array.ndim == 0:
        raise WireError(f'Input "{spec.name}" is a single number; the first dimension must be the rows.')
    free = [size for size in spec.shape[1:] if size < 0]
    wanted = [len(array), *spec.shape[1:]]
    fits = array.ndim == len(wanted) and all(want in (-1, have) for want, have in zip(wanted, array.shape, strict=True))
    if not fits:
        # a row may come flat where the model takes an image, never with another number of values
        flat = int(np.prod(spec.shape[1:]))
        if free or array.ndim != 2 or array.shape[1] != flat:
            shape = [-1, *spec.shape[1:]]
            raise WireError(
                f'Input "{spec.name}" has shape {list(array.shape)}, the model takes {shape} '
                f"({datatype_of(spec.dtype)}; -1 is any size)."
            )
        array = array.reshape(wanted)
    return np.ascontiguousarray(array, dtype=spec.dtype)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a ``.keras`` or ``.h5`` file or a SavedModel directory, compile it and warm it up.

    Raises ModelError where there is no such model, or where it cannot be loaded.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(
            f"There is no model at {path}; set MODEL_PATH to a .keras or .h5 file or a SavedModel directory."
        )
    try:
        model = _load_saved_model(path) if path.is_dir() else _load_keras(path)
        model.warm_up()
    except ModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The model at {path} cannot be loaded: {reason}") from error
    return model


def _load_keras(path: Path) -> Model:
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelError(f"{path} is not a model: it must end in .keras or .h5, or be a SavedModel directory.")
    import keras

    loaded = keras.saving.load_model(path, compile=False)
    if not getattr(loaded, "inputs", None):
        raise ModelError(f"The model at {path} does not say what it takes; build it, or export it as a SavedModel.")
    # a Sequential model has one output, named after its last layer as in a functional model
    names = _unique(getattr(loaded, "output_names", None) or [loaded.layers[-1].name])
    inputs = [_spec(tensor.name, tensor.dtype, tensor.shape) for tensor in loaded.inputs]
    outputs = [_spec(name, tensor.dtype, tensor.shape) for name, tensor in zip(names, loaded.outputs, strict=True)]
    backend = keras.backend.backend()
    function = _compile(loaded, inputs) if backend == "tensorflow" else _batch_function(loaded)
    kind = "keras" if path.suffix == ".keras" else "h5"
    return Model(f"{backend}_{kind}", inputs, outputs, function)


def _compile(loaded: Any, inputs: list[TensorSpec]) -> Function:
    import tensorflow as tf

    signature = [tf.TensorSpec([None if size < 0 else size for size in spec.shape], spec.dtype) for spec in inputs]

    def forward(*tensors: Any) -> list[Any]:
        given = tensors[0] if len(tensors) == 1 else list(tensors)
        return _as_list(loaded(given, training=False))

    concrete = tf.function(forward, input_signature=signature).get_concrete_function()
    return lambda arrays: [tensor.numpy() for tensor in concrete(*map(tf.convert_to_tensor, arrays))]


def _batch_function(loaded: Any) -> Function:
    def function(arrays: list[Array]) -> list[Array]:
        given = arrays[0] if len(arrays) == 1 else arrays
        return [np.asarray(output) for output in _as_list(loaded.predict_on_batch(given))]

    return function


def _load_saved_model(path: Path) -> Model:
    if not (path / "saved_model.pb").is_file():
        raise ModelError(f"{path} is not a SavedModel directory: it has no saved_model.pb.")
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    # Keras' export names its endpoint "serve", TensorFlow itself "serving_default"
    signatures = dict(loaded.signatures)
    signature = signatures.get("serving_default") or signatures.get("serve")
    if signature is None:
        raise ModelError(f"The SavedModel at {path} has no signature serving_default; export it with model.export().")
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


def _as_list(outputs: Any) -> list[Any]:
    if isinstance(outputs, dict):
        return list(outputs.values())
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _unique(names: list[str]) -> list[str]:
    """Output names; Keras names an output after its layer, and one layer may give two."""
    return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)]


def decode_raw(body: Array, spec: TensorSpec) -> Array:
    """The only tensor of a raw binary request: its datatype and shape are the model's."""
    if not np.issubdtype(spec.dtype, np.number) or spec.dtype not in DATATYPES.values():
        raise WireError(f'Input "{spec.name}" cannot be sent as raw bytes.')
    row = int(np.prod([max(size, 1) for size in spec.shape[1:]])) * spec.dtype.itemsize
    if body.nbytes == 0 or body.nbytes % row:
        raise WireError(f'Input "{spec.name}" takes {row} bytes a row, the body has {body.nbytes}.')
    return body.view(spec.dtype).reshape(-1, *(max(size, 1) for size in spec.shape[1:]))
