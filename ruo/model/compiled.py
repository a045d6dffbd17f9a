"""A Keras model as a compiled function for each backend: a list of arrays in, a list of arrays out.

TensorFlow traces the model once, for any number of rows. OpenVINO compiles the model's graph directly: Keras' own
`predict_on_batch` uses the CPU's fastest precision, which is bfloat16 on new CPUs and moves predictions by hundredths.

Some compiled activations turn NaN into a number (OpenVINO's, and TensorFlow's on CPUs with AVX-512), so that a row with
a missing value would get a plausible prediction. Here TensorFlow computes such a row operation by operation, as Keras
does, and OpenVINO returns NaN, which is the same for nearly every model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ruo.wire.messages import Array

__all__ = ["ROWS_PER_CALL", "Function", "compile_keras", "exported_dtype"]

Function = Callable[[list[Array]], list[Array]]

# So many rows still fit the CPU's cache. Calls of 50,000 rows of a convolutional model take twice as long per row, and
# gigabytes; Keras' own `predict`, with 32 rows per call, takes a hundred times as long.
ROWS_PER_CALL = 2048

_MOST_CONSTANTS = 16 << 20  # weights; 64 MB as float32


def exported_dtype(name: str) -> str:
    """The datatype of a model's output for the caller: neither numpy nor JSON has bfloat16."""
    return "float32" if name == "bfloat16" else name


def compile_keras(keras: Any, loaded: Any, precision: str) -> Function:
    """The model `loaded`, compiled by Keras' backend; only OpenVINO uses `precision`."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _compile_tensorflow(keras, loaded)
    if backend == "openvino":
        return _compile_openvino(keras, loaded, precision)
    return lambda arrays: [
        np.asarray(output) for output in keras.tree.flatten(loaded.predict_on_batch(_argument(arrays)))
    ]


def _compile_tensorflow(keras: Any, loaded: Any) -> Function:
    import tensorflow as tf

    def forward(*tensors: Any) -> list[Any]:
        outputs = keras.tree.flatten(loaded(_argument(tensors), training=False))
        return [tf.cast(output, exported_dtype(output.dtype.name)) for output in outputs]

    concrete = _traced(keras, loaded, forward)
    variables, dtypes = concrete.captured_inputs, [output.dtype for output in concrete.outputs]

    def function(arrays: list[Array]) -> list[Array]:
        # the operation behind a call of `concrete`, without its checks, which take longer than a model of few weights
        inputs = [*map(tf.constant, arrays), *variables]
        outputs = tf.raw_ops.StatefulPartitionedCall(args=inputs, Tout=dtypes, f=concrete)
        results = [tensor.numpy() for tensor in outputs]
        not_finite = _rows_not_finite(arrays)
        if not_finite.any():
            corrected = forward(*(tf.constant(array[not_finite]) for array in arrays))
            for output, rows in zip(results, corrected, strict=True):
                output[not_finite] = rows.numpy()
        return results

    return function


def _traced(keras: Any, loaded: Any, forward: Callable[..., Any]) -> Any:
    """The graph of `forward`, with the weights as constants.

    Every call fetches variables and lays them out for the CPU, which takes a sixth of the time of a model of few weights.
    Many weights stay variables, since constants are stored twice; and so do weights that calls change (random layers).
    """
    import tensorflow as tf

    def trace(function: Callable[..., Any]) -> Any:
        signature = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in loaded.inputs]
        return tf.function(function, input_signature=signature).get_concrete_function()

    if loaded.count_params() > _MOST_CONSTANTS:
        return trace(forward)
    values = [keras.ops.convert_to_numpy(weight) for weight in loaded.variables]
    changed: list[bool] = []

    def with_constants(*tensors: Any) -> Any:
        with keras.StatelessScope(list(zip(loaded.variables, map(tf.constant, values), strict=True))) as scope:
            before = [scope.get_current_value(weight) for weight in loaded.variables]
            outputs = forward(*tensors)
            after = [scope.get_current_value(weight) for weight in loaded.variables]
        changed.extend(old is not new for old, new in zip(before, after, strict=True))
        return outputs

    constant = trace(with_constants)
    return trace(forward) if any(changed) else constant


def _compile_openvino(keras: Any, loaded: Any, precision: str) -> Function:
    import openvino as ov
    from openvino import opset13 as graph

    nodes = [
        graph.parameter([-1 if size is None else size for size in tensor.shape], np.dtype(tensor.dtype))
        for tensor in loaded.inputs
    ]
    tensors = [keras.ops.convert_to_tensor(node.output(0)) for node in nodes]
    outputs = keras.tree.flatten(loaded(_argument(tensors), training=False))
    dtypes = [np.dtype(exported_dtype(keras.backend.standardize_dtype(output.dtype))).type for output in outputs]
    results = [graph.convert(output.output, dtype) for output, dtype in zip(outputs, dtypes, strict=True)]
    # with pinning, every worker would bind its threads to the same first CPUs
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
    if "OMP_NUM_THREADS" in os.environ:
        config["INFERENCE_NUM_THREADS"] = int(os.environ["OMP_NUM_THREADS"])
    request = ov.compile_model(ov.Model(results, nodes), "CPU", config).create_infer_request()

    def function(arrays: list[Array]) -> list[Array]:
        inferred = request.infer(arrays, share_inputs=True)
        outputs = [inferred[number] for number in range(len(results))]
        not_finite = _rows_not_finite(arrays)
        if not_finite.any():
            for output in outputs:
                if output.dtype.kind == "f":
                    output[not_finite] = np.nan
        return outputs

    return function


def _rows_not_finite(arrays: list[Array]) -> Array:
    """Which rows hold NaN or Infinity; a single False if the sums of the arrays, which are faster, show that none does."""
    not_finite: Array = np.zeros((), np.bool_)
    for array in arrays:
        if array.dtype.kind == "f":
            with np.errstate(over="ignore", invalid="ignore"):
                has_finite_sum = np.isfinite(array.sum())
            if not has_finite_sum:
                not_finite = not_finite | ~np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    return not_finite


def _argument(tensors: Sequence[Any]) -> Any:
    """The argument of a call of the model: a single input is not in a list."""
    return tensors[0] if len(tensors) == 1 else list(tensors)
