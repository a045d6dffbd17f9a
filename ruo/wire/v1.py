"""The V1 predict protocol of TensorFlow Serving and KServe: one JSON object each way.

``instances`` is a list with one element per row and is answered by ``predictions``; ``inputs`` is columnar (a tensor, or
tensors by name) and is answered by ``outputs``. The comments quote the rule beside each decision: [TFS] is TensorFlow
Serving, "RESTful API"; KServe's "V1 protocol" is the same with ``instances`` only.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ruo.wire.jsontext import as_texts, encode_json, loads, require_finite, to_array
from ruo.wire.messages import ONLY, Array, Buffer, Encoded, InferRequest, InferResponse, WireError
from ruo.wire.v2 import TENSORS

SIGNATURE = "serving_default"  # TensorFlow Serving's name for a model's default function
# [TFS] types.proto: its name of each of V2's datatypes
DATATYPES = {name: f"DT_{name}" for name in TENSORS}
DATATYPES |= {"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", "BYTES": "DT_STRING"}


def encode_request(request: InferRequest) -> Encoded:
    """The tensors as `instances`, in rows that name them where there are several, or columnar as `inputs`.

    Raises WireError for NaN and Infinity.
    """
    require_finite(request.inputs)
    inputs = request.inputs
    return encode_json({"inputs": _columns(inputs)} if request.columnar else {"instances": _rows(inputs)})


def decode_request(headers: Mapping[str, str], body: Buffer) -> InferRequest:
    """Tensors from `instances` (rows) or from `inputs` (columns)."""
    message = loads(body)
    if re.search(rb'"b64"', body):
        try:
            message = _binary(message)
        except RecursionError:
            raise WireError("The body is nested too deeply.") from None
    # [TFS] 'Input Tensors in row ("instances") or columnar ("inputs") format. A request can have either of them but NOT both.'
    if not isinstance(message, dict) or ("instances" in message) == ("inputs" in message):
        raise WireError('The body must be a JSON object with either "instances" or "inputs".')
    # [TFS] "If unspecifed default serving signature is used."
    signature = message.get("signature_name") or ""
    if not isinstance(signature, str):
        raise WireError('"signature_name" must be a string.')
    if "inputs" in message:
        inputs = _by_name(message["inputs"], "inputs")
        return InferRequest(inputs, columnar=True, signature=signature)
    if not isinstance(message["instances"], list):
        raise WireError('"instances" must be a list with one element per row.')
    return InferRequest(_by_row(message["instances"], "instances"), signature=signature)


def encode_response(response: InferResponse, request: InferRequest) -> Encoded:
    """The outputs in the request's format: a single one without its name, several with their names."""
    outputs = response.outputs
    return encode_json({"outputs": _columns(outputs)} if request.columnar else {"predictions": _rows(outputs)})


def decode_response(headers: Mapping[str, str], body: Buffer) -> InferResponse:
    """Predictions from `predictions` or `outputs`."""
    message = loads(body)
    if isinstance(message, dict) and isinstance(message.get("predictions"), list):
        return InferResponse(_by_row(message["predictions"], "predictions"))
    if isinstance(message, dict) and "outputs" in message:
        return InferResponse(_by_name(message["outputs"], "outputs"))
    raise WireError('The answer is not a JSON object with "predictions".')


def _columns(tensors: dict[str, Array]) -> Any:
    """The only tensor, or several by their names."""
    named = {name: _nested(array) for name, array in tensors.items()}
    return next(iter(named.values())) if len(named) == 1 else named


def _rows(tensors: dict[str, Array]) -> Any:
    """The only tensor, or rows that hold one object each."""
    # [TFS] "If the output of the model contains only one named tensor, we omit the name [...]. If the model outputs
    # multiple named tensors, we output a list of objects instead"; and so for inputs
    columns = _columns(tensors)
    if len(tensors) == 1:
        return columns
    arrays = [map(np.asarray, column) if isinstance(column, np.ndarray) else column for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*arrays, strict=True)]


def _nested(array: Array) -> Array | list[Any]:
    """What JSON holds: an array of numbers, or lists of text."""
    return as_texts(array).tolist() if array.dtype == object else array


def _binary(value: Any) -> Any:
    """[TFS] "use a JSON object with key b64 and the base64 encoded string as the value"; here it becomes bytes."""
    if isinstance(value, list):
        return [_binary(part) for part in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {"b64"}:
        return {key: _binary(part) for key, part in value.items()}
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, ValueError):
        raise WireError(f'{{"b64": {value["b64"]!r:.40}}} is not base64.') from None


def _by_name(tensors: object, what: str) -> dict[str, Array]:
    if isinstance(tensors, dict):
        if not tensors:
            raise WireError(f'"{what}" names no tensor.')
        return {name: to_array(data, f'{what}["{name}"]', may_be_text=True) for name, data in tensors.items()}
    return {ONLY: to_array(tensors, what, may_be_text=True)}


def _by_row(rows: list[Any], what: str) -> dict[str, Array]:
    # [TFS] "For multiple named inputs, each item is expected to be an object containing input name/tensor value pair"
    if not rows or not all(isinstance(row, dict) for row in rows):
        return {ONLY: to_array(rows, what, may_be_text=True)}
    first = rows[0]
    if not first:
        raise WireError("Row 0 names no tensor.")
    for index, row in enumerate(rows):
        if row.keys() != first.keys():
            raise WireError(f"Row {index} names {sorted(row)}, row 0 names {sorted(first)}.")
    return {name: to_array([row[name] for row in rows], f'"{name}"', may_be_text=True) for name in first}
