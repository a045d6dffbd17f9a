"""A model from disk, compiled and warmed up. ``python -m ruo.model.loading PATH`` tries whether it can be served."""

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ruo.errors import ModelError
from ruo.model.compiled import compile_keras, compile_signature, exported_dtype, in_order, tensor_names
from ruo.model.features import read_features
from ruo.model.formats import is_saved_model, reason_of, refuse_foreign
from ruo.model.keras2 import without_old_arguments
from ruo.model.signature import BYTES_PER_CALL, ROWS_PER_CALL, Model, TensorSpec
from ruo.wire import WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import datatype_of

_SHORT_S = 0.05  # a call that takes no longer than this delays nobody
_LENGTHS = (32, 64, 128, 256, 16, 8, 4, 2, 1)  # of inputs of any length, until one is right for the model's windows

Run = Callable[[Model, list[Array]], tuple[list[Array], float]]  # with the seconds that it waited


def load_model(
    path: Path,
    trusted: bool = False,
    origin: Path | None = None,
    precision: str = "f32",
    run: Run = lambda model, arrays: (model.run(arrays), 0.0),
    modules: str = "",
    signature: str = "",
) -> Model:
    """Load a model, compile it, and warm it up by `run`; errors say that it comes from `origin`.

    Every format but ``.keras`` can run code while it is loaded, and so can Lambda layers and `modules`, which are imported
    first (names with commas between them); so they are refused unless `trusted`. `signature` is the one of a SavedModel.
    """
    origin = origin or path
    try:
        refuse_foreign(path)
        is_keras = not is_saved_model(path) and (path.suffix == ".keras" or (path / "config.json").is_file())
        if not is_keras and not trusted:
            raise ModelError(
                ".h5 and SavedModel can run their author's code; set RUO_TRUST_MODEL=1 if you trust the author, "
                "or save the model as .keras."
            )
        defined = _import(modules) if trusted else {}
        if is_saved_model(path):
            model = _load_saved_model(path, signature)
        else:
            model = _load_keras(path, precision, trusted, defined)
        names = read_features(path)
        if names and [spec.shape[1:] for spec in model.inputs] != [(len(names),)]:
            raise ModelError(f"it has the names of {len(names)} columns, which do not fit its inputs; save it anew.")
        return _warm_up(replace(model, features=names), run)
    except Exception as error:
        raise ModelError(f"The model at {origin} cannot be loaded: {reason_of(error, path, origin)}") from error


def _import(modules: str) -> dict[str, Any]:
    """What the modules define, for models that were saved without registering it."""
    defined: dict[str, Any] = {}
    for name in filter(None, map(str.strip, modules.split(","))):
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ModelError(f"MODEL_MODULES names {name}, which cannot be imported ({error}).") from error
        defined |= {key: value for key, value in vars(module).items() if callable(value) and not key.startswith("_")}
    return defined


def _load_keras(path: Path, precision: str, trusted: bool, custom_objects: Mapping[str, Any]) -> Model:
    import keras

    with without_old_arguments(path) as readable:
        loaded = keras.saving.load_model(readable, custom_objects, compile=False, safe_mode=not trusted)
    if not getattr(loaded, "inputs", None):
        cure = "build it before it is saved, and name the output_shape of Lambda layers, or export it as a SavedModel."
        raise ModelError(f"it has no input shape; {cure}")
    inputs = _inputs(zip(tensor_names(keras, loaded, "input"), loaded.inputs, strict=True))
    outputs = _specs(zip(tensor_names(keras, loaded, "output"), loaded.outputs, strict=True))
    backend = keras.backend.backend()
    if backend == "openvino" and any(spec.dtype == object for spec in inputs):
        raise ModelError("it takes text, which OpenVINO cannot; set KERAS_BACKEND=tensorflow.")
    kind = "h5" if path.suffix in (".h5", ".hdf5") else "keras"
    return Model(f"{backend}_{kind}", inputs, outputs, compile_keras(keras, loaded, precision))


def _load_saved_model(path: Path, wanted: str) -> Model:
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    names = list(loaded.signatures)
    # TensorFlow names its default signature "serving_default", Keras' export "serve"
    preferred = [wanted] if wanted else ["serving_default", "serve", *(names if len(names) == 1 else [])]
    name = next((name for name in preferred if name in names), None)
    if not names:
        raise ModelError("it has no signature; export it with model.export().")
    if name is None:
        raise ModelError(f"it has the signatures {', '.join(names)}; name one of them in MODEL_SIGNATURE.")
    signature = loaded.signatures[name]
    inputs, outputs = in_order(signature.structured_input_signature[1]), in_order(signature.structured_outputs)
    specs = _inputs(inputs.items()), _specs(outputs.items())
    function = compile_signature(signature, inputs, list(outputs), loaded)
    return Model("tensorflow_savedmodel", *specs, function, signature=name)


def _specs(tensors: Iterable[tuple[str, Any]]) -> list[TensorSpec]:
    specs = []
    for name, tensor in tensors:
        kind = exported_dtype(tensor.dtype)
        shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
        specs.append(TensorSpec(name, np.dtype(object if kind == "string" else kind), shape))
        datatype_of(specs[-1].dtype)  # raises for one that cannot be sent
    return specs


def _inputs(tensors: Iterable[tuple[str, Any]]) -> list[TensorSpec]:
    """Their specs; each must take any number of rows."""
    specs = _specs(tensors)
    if not specs:
        raise ModelError("it takes no input.")
    for name, _, shape in specs:
        if shape[:1] != (-1,):
            cure = "build it with any number of rows (batch_size=None)."
            raise ModelError(f'its input "{name}" takes the shape {list(shape)} only; {cure}')
    return specs


def _warm_up(model: Model, run: Run) -> Model:
    """Call the model with one row and more, since the first call takes long; and learn how many rows a call should have."""
    has_any_length = any(-1 in spec.shape[1:] for spec in model.inputs)
    is_choosy = has_any_length or any(spec.dtype.kind in "iuO" for spec in model.inputs)
    for length in _LENGTHS if has_any_length else (1,):
        try:
            return _measure(model, length, run)
        except WireError as error:
            if not is_choosy or error.status == 500:
                raise
    return model  # which values it takes is known to its clients only


def _measure(model: Model, length: int, run: Run) -> Model:
    """The model with its bytes per call: more rows as long as a call is short, or each row takes less than before."""
    row_shapes = [[length if size == -1 else size for size in spec.shape[1:]] for spec in model.inputs]

    def blank(rows: int) -> list[Array]:
        kinds = [(b"" if spec.dtype == object else 0, spec.dtype) for spec in model.inputs]
        return [np.full((rows, *shape), *kind) for shape, kind in zip(row_shapes, kinds, strict=True)]

    def cost_of(rows: int) -> float:
        seconds = []
        for _ in range(2):  # the first of a size is slower
            began = time.perf_counter()
            _, waited = run(model, blank(rows))
            seconds.append(time.perf_counter() - began - waited)
        return min(seconds)

    row_bytes = max(1, sum(array.nbytes for array in blank(1)))
    cost = cost_of(1)
    _require_independent_rows(model, row_shapes, run)  # before more rows, which such a model may refuse
    rows, most = 1, max(1, min(ROWS_PER_CALL, BYTES_PER_CALL // row_bytes))
    while rows < most:
        more = min(4 * rows, most)
        longer = cost_of(more)
        if longer > max(_SHORT_S, 0.9 * cost * more / rows):
            break
        rows, cost = more, longer
    measured = replace(model, call_bytes=rows * row_bytes)
    run(measured, blank(rows))
    return measured


def _require_independent_rows(model: Model, row_shapes: list[list[int]], run: Run) -> None:
    """Refuse a model whose answer for a row changes with the rows beside it: it would change with the request's size."""
    for most in (2e4, 2.0):  # the first is 80 dB more than the other row: a spectrogram may keep as much of its batch
        numbers = np.random.default_rng(0)
        rows = [_unlike(numbers, shape, spec.dtype, most) for shape, spec in zip(row_shapes, model.inputs, strict=True)]
        with contextlib.suppress(WireError):  # which values it takes is known to its clients only
            for pair in (rows, [array[[1, 0]] for array in rows]):  # sums so far, say, show in the smaller row only
                if _depends(model, pair, 0, run) or _depends(model, pair, 1, run):
                    cure = "compute each row by itself, and give TimeDistributed a fixed length."
                    raise ModelError(f"its answer for a row depends on the other rows of its batch; {cure}")
            return


def _depends(model: Model, pair: list[Array], place: int, run: Run) -> bool:
    """Whether the answer for one of two rows changes with the other one, and not by chance."""
    row = [array[place : place + 1] for array in pair]
    alone, beside = run(model, row)[0], run(model, pair)[0]
    changed = [index for index, one in enumerate(alone) if not _are_near(one, beside[index][place : place + 1])]
    again = [run(model, row)[0] for _ in range(9 if changed else 0)]
    return any(all(_are_near(alone[index], other[index]) for other in again) for index in changed)


def _unlike(numbers: np.random.Generator, shape: list[int], dtype: np.dtype[Any], most: float) -> Array:
    """Two rows of other sizes: a normalisation over the batch would change one with the other."""
    if dtype.hasobject:
        return np.stack([np.full(shape, text, dtype) for text in (b"a", b"a b c d")])
    sizes = [2, min(most, np.iinfo(dtype).max) if dtype.kind in "iu" else most]
    return np.stack([numbers.random(shape) * size for size in sizes]).astype(dtype)


def _are_near(one: Array, other: Array) -> bool:
    """Whether they differ by rounding alone, even by that of float16; whole numbers and text have to be equal."""
    if one.dtype.kind != "f" or one.shape != other.shape:
        return np.array_equal(one, other)
    one, other = np.nan_to_num(one), np.nan_to_num(other)
    return bool((np.abs(one - other) <= 1e-3 + 0.1 * np.abs(one).max(initial=0)).all())


if __name__ == "__main__":
    trusted = os.environ.get("RUO_TRUST_MODEL", "").lower() in ("1", "true", "yes", "on")
    modules, signature = (os.environ.get(name, "") for name in ("MODEL_MODULES", "MODEL_SIGNATURE"))
    try:
        load_model(Path(sys.argv[1]), trusted, Path(sys.argv[2]), modules=modules, signature=signature)
    except ModelError as error:
        sys.exit(str(error))
