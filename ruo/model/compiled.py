"""A Keras model as a compiled function: a list of arrays in, a list of arrays out.

Some compiled activations turn NaN into a number (OpenVINO's, and TensorFlow's on CPUs with AVX-512), so that a row with
a missing value would get a plausible prediction. TensorFlow computes such a row without fusing operations, as Keras
does, and OpenVINO returns NaN, which is the same for nearly every model.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ruo.model.signature import Function
from ruo.wire import WireError
from ruo.wire.messages import Array, rows_not_finite


def exported_dtype(dtype: Any) -> str:
    """The name of a tensor's datatype for the caller: neither numpy nor JSON has bfloat16."""
    name = str(getattr(dtype, "name", dtype))
    return "float32" if name == "bfloat16" else name


def tensor_names(keras: Any, loaded: Any, side: str) -> list[str]:
    """The names of a Keras model's inputs or outputs: their keys where they are a dict; names that are not unique are numbered."""
    names = [tensor.name for tensor in loaded.inputs]
    if side == "output":
        # a Sequential model has one output, named after its last layer as in a functional model
        names = getattr(loaded, "output_names", None) or [loaded.layers[-1].name]
    paths = [path for path, _ in keras.tree.flatten_with_path(_nested(loaded, side))]
    keyed = [any(isinstance(part, str) for part in path) for path in paths]
    names = [".".join(map(str, path)) if key else name for path, key, name in zip(paths, keyed, names, strict=True)]
    numbered = [f"{name}_{index}" for index, name in enumerate(names)]
    unique = [name if names.count(name) == 1 else number for name, number in zip(names, numbered, strict=True)]
    return unique if len(set(unique)) == len(unique) else numbered  # a number may make the name of another tensor


def _nested(loaded: Any, side: str) -> Any:
    """A model's tensors as it nests them, in a dict or a list; a Sequential model does not say."""
    tensors = getattr(loaded, f"{side}s")
    return getattr(loaded, side, tensors[0] if len(tensors) == 1 else tensors)


def compile_keras(keras: Any, loaded: Any, precision: str) -> Function:
    """A Keras model, compiled by Keras' backend; only OpenVINO uses `precision`."""
    structure = _nested(loaded, "input")

    def forward(*tensors: Any) -> list[Any]:
        inputs = keras.tree.pack_sequence_as(structure, list(tensors))
        return list(keras.tree.flatten(loaded(inputs, training=False)))

    names = tensor_names(keras, loaded, "output")
    if keras.backend.backend() == "openvino":
        return _compile_openvino(keras, loaded, forward, names, precision)
    return _call_graph(_trace_keras(keras, loaded, forward), names, loaded)


def in_order(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a signature by their names, output_2 before output_10: TensorFlow's order changes with every process."""
    return dict(sorted(tensors.items(), key=lambda item: re.sub(r"\d+", lambda number: number[0].zfill(9), item[0])))


def compile_signature(signature: Any, inputs: Mapping[str, Any], outputs: Sequence[str], loaded: Any) -> Function:
    """A signature of a SavedModel, with inputs and outputs in the order that is given."""

    def forward(*tensors: Any) -> list[Any]:
        results = signature(**dict(zip(inputs, tensors, strict=True)))
        return [results[name] for name in outputs]

    return _call_graph(_trace(forward, inputs.values()), outputs, loaded)


def _checked(names: Sequence[str], call: Function, careful: Function) -> Function:
    """`call`, and `careful` for rows that are not finite; an answer without one row for each row is an error."""

    def function(arrays: list[Array]) -> list[Array]:
        outputs, rows = call(arrays), len(arrays[0])
        for name, output in zip(names, outputs, strict=True):
            if output.shape[:1] != (rows,):
                message = f'Output "{name}" of the model has the shape {list(output.shape)} for {rows} rows'
                raise WireError(f"{message}; serve a model that gives one row for each row.", 500)
        not_finite = rows_not_finite(*arrays)
        if not_finite.size:
            corrected = careful([array[not_finite] for array in arrays])
            for output, theirs in zip(outputs, corrected, strict=True):
                output[not_finite] = theirs
        return outputs

    return function


def _trace(forward: Callable[..., list[Any]], inputs: Iterable[Any]) -> Any:
    """TensorFlow's graph of a function of tensors, for any number of rows."""
    import tensorflow as tf

    inputs = list(inputs)

    def exported(*tensors: Any) -> list[Any]:
        given = [tf.cast(tensor, own.dtype) for tensor, own in zip(tensors, inputs, strict=True)]
        return [tf.cast(output, exported_dtype(output.dtype)) for output in forward(*given)]

    signature = [tf.TensorSpec(tensor.shape, exported_dtype(tensor.dtype)) for tensor in inputs]
    # autograph would leave a file with the function's code in the temporary folder
    return tf.function(exported, input_signature=signature, autograph=False).get_concrete_function()


def _trace_keras(keras: Any, loaded: Any, forward: Callable[..., list[Any]]) -> Any:
    """The graph of a model with its weights as constants, unless there are many or calls change them: a sixth faster."""
    if loaded.count_params() > 16 << 20:  # 64 MB as float32
        return _trace(forward, loaded.inputs)
    values, is_changed = [keras.ops.convert_to_numpy(weight) for weight in loaded.variables], False

    def with_constants(*tensors: Any) -> list[Any]:
        nonlocal is_changed
        constants = list(zip(loaded.variables, map(keras.ops.convert_to_tensor, values), strict=True))
        with keras.StatelessScope(constants) as scope:
            outputs = forward(*tensors)
            is_changed = any(scope.get_current_value(weight) is not constant for weight, constant in constants)
        return outputs

    constant = _trace(with_constants, loaded.inputs)
    return _trace(forward, loaded.inputs) if is_changed else constant


def _call_graph(concrete: Any, names: Sequence[str], loaded: Any) -> Function:
    """A call of TensorFlow's graph; it keeps the model, whose variables the graph does not keep."""
    import tensorflow as tf

    variables, dtypes = concrete.captured_inputs, [output.dtype for output in concrete.outputs]
    unfused = tf.compat.v1.ConfigProto()
    unfused.graph_options.rewrite_options.disable_meta_optimizer = True

    def call(arrays: list[Array], config: bytes = b"", loaded: Any = loaded) -> list[Array]:
        # the operation behind a call of `concrete`, without its checks, which take longer than a model of few weights
        inputs = [*map(tf.constant, arrays), *variables]
        try:
            outputs = tf.raw_ops.StatefulPartitionedCall(args=inputs, Tout=dtypes, f=concrete, config_proto=config)
        except tf.errors.InvalidArgumentError as error:
            raise _refusal(error) from error
        return [tensor.numpy() for tensor in outputs]

    return _checked(names, call, lambda arrays: call(arrays, unfused.SerializeToString()))


def _compile_openvino(
    keras: Any, loaded: Any, forward: Callable[..., list[Any]], names: Sequence[str], precision: str
) -> Function:
    """OpenVINO's own request: `predict_on_batch` may compute in bfloat16, which moves predictions by hundredths."""
    import openvino as ov
    from openvino import opset13 as graph

    inputs = loaded.inputs
    # as described: OpenVINO computes FP64 as FP32
    types, dtypes = ([np.dtype(exported_dtype(tensor.dtype)) for tensor in side] for side in (inputs, loaded.outputs))
    shapes = [[-1 if size is None else size for size in tensor.shape] for tensor in inputs]
    nodes = [graph.parameter(shape, dtype) for shape, dtype in zip(shapes, types, strict=True)]
    given = [keras.ops.convert_to_tensor(node.output(0)) for node in nodes]
    outputs = forward(*(keras.ops.cast(tensor, own.dtype) for tensor, own in zip(given, inputs, strict=True)))
    results = [graph.convert(output.output, dtype.type) for output, dtype in zip(outputs, dtypes, strict=True)]
    lookups = _lookups(ov.Model(results, nodes))
    results += [graph.result(indices) for indices, _ in lookups]
    # with pinning, every worker would bind its threads to the same first CPUs
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "ENABLE_CPU_PINNING": False}
    if (threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]).isdecimal():  # OpenMP has lists, too
        config["INFERENCE_NUM_THREADS"] = int(threads)
    request = ov.compile_model(ov.Model(results, nodes), "CPU", config).create_infer_request()

    def call(arrays: list[Array]) -> list[Array]:
        if any(0 in array.shape[1:] for array in arrays):  # OpenVINO would answer with what is in memory
            raise WireError("OpenVINO cannot compute an empty sequence; leave its row out, or pad it.")
        try:
            # the arrays' memory is not shared, since an output that equals an input would outlive it
            inferred = list(request.infer(arrays).values())
        except RuntimeError as error:
            raise _refusal(error) from error
        for (_, size), indices in zip(lookups, inferred[len(names) :], strict=True):
            outside = indices[(indices < -size) | (indices >= size)]
            if len(outside):  # OpenVINO would take a row of zeros
                raise WireError(f"The model looks up the index {outside[0]} in a table of {size} rows.")
        return inferred[: len(names)]

    def careful(arrays: list[Array]) -> list[Array]:
        return [np.full_like(output, np.nan) if output.dtype.kind == "f" else output for output in call(arrays)]

    return _checked(names, call, careful)


def _lookups(model: Any) -> list[tuple[Any, int]]:
    """What an OpenVINO model looks up in tables, as an embedding does: the indices, and the number of a table's rows."""
    lookups = []
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Gather" and node.input_value(1).get_node().get_type_name() != "Constant":
            shape, axis = node.input_value(0).get_partial_shape(), node.input_value(2).get_node().get_data().item()
            if shape.is_static:
                lookups.append((node.input_value(1), shape[axis].get_length()))
    return lookups


def _refusal(error: Exception) -> WireError:
    """The error for values that a runtime refuses; its reason without nodes of the graph and places in its source."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    reason = re.sub(r"\{\{.*?\}\}|\[Op:.*| at \S+:\d+:?", "", lines[0] if lines else type(error).__name__)
    return WireError(f"The model cannot compute these values: {reason.strip()}.")
