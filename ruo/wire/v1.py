"""The V1 predict protocol of TensorFlow Serving and KServe: one JSON object each way.

``instances`` is a list with one element a row and is answered by ``predictions``; ``inputs`` is columnar (a tensor, or
tensors by name) and is answered by ``outputs``. The comments quote the rule beside each decision: [TFS] is TensorFlow
Serving, "RESTful API"; KServe's "V1 protocol" is the same with ``instances`` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ruo.wire.jsontext import dumps, loads, require_finite, to_array
from ruo.wire.messages import ONLY, Array, Buffer, Encoded, InferRequest, InferResponse, WireError

__all__ = ["SIGNATURE", "decode_request", "decode_response", "encode_request", "encode_response"]

# TensorFlow Serving's name for what a model does unless it is told otherwise
SIGNATURE = "serving_default"

_JSON = {"Content-Type": "application/json"}


def encode_request(request: InferRequest) -> Encoded:
    """The only tensor, (rows, ...), as `instances`; raises WireError for NaN and Infinity."""
    (array,) = request.inputs.values()
    require_finite(array)
    return Encoded(_JSON, [dumps({"instances": array})])


def decode_request(headers: Mapping[str, str], body: Buffer) -> InferRequest:
    """Tensors from `instances` (rows) or from `inputs` (columns)."""
    message = loads(body)
    # [TFS] 'Input Tensors in row ("instances") or columnar ("inputs") format. A request can have either of them but NOT both.'
    if not isinstance(message, dict) or ("instances" in message) == ("inputs" in message):
        raise WireError('The body must be a JSON object with either "instances" or "inputs".')
    # [TFS] "If unspecifed default serving signature is used."
    if message.get("signature_name", SIGNATURE) != SIGNATURE:
        raise WireError(f'There is no signature {message["signature_name"]!r:.60}; the only one is "{SIGNATURE}".')
    if "inputs" in message:
        return InferRequest(_by_name(message["inputs"], "inputs"), columnar=True)
    instances = message["instances"]
    if not isinstance(instances, list):
        raise WireError('"instances" must be a list with one element a row.')
    # [TFS] "For multiple named inputs, each item is expected to be an object containing input name/tensor value pair"
    if instances and all(isinstance(instance, dict) for instance in instances):
        return InferRequest(_rows_by_name(instances))
    return InferRequest({ONLY: to_array(instances, "instances")})


def encode_response(response: InferResponse, request: InferRequest) -> Encoded:
    """The answer in the request's form: a single output is unnamed, several are named."""
    outputs = response.outputs
    if request.columnar:
        return Encoded(_JSON, [dumps({"outputs": _single(outputs)})])
    # [TFS] "If the output of the model contains only one named tensor, we omit the name [...]. If the model outputs
    # multiple named tensors, we output a list of objects instead"
    if len(outputs) == 1:
        return Encoded(_JSON, [dumps({"predictions": _single(outputs)})])
    rows = [dict(zip(outputs, values, strict=True)) for values in zip(*outputs.values(), strict=True)]
    return Encoded(_JSON, [dumps({"predictions": [{k: np.asarray(v) for k, v in row.items()} for row in rows]})])


def decode_response(headers: Mapping[str, str], body: Buffer) -> InferResponse:
    """Predictions from `predictions` or `outputs`."""
    message = loads(body)
    if isinstance(message, dict) and isinstance(message.get("predictions"), list):
        rows = message["predictions"]
        if rows and all(isinstance(row, dict) for row in rows):
            return InferResponse(_rows_by_name(rows))
        return InferResponse({ONLY: to_array(rows, "predictions")})
    if isinstance(message, dict) and "outputs" in message:
        return InferResponse(_by_name(message["outputs"], "outputs"))
    raise WireError('The answer is not a JSON object with "predictions".')


def _single(tensors: dict[str, Array]) -> Any:
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def _by_name(tensors: object, what: str) -> dict[str, Array]:
    if isinstance(tensors, dict):
        if not tensors:
            raise WireError(f'"{what}" names no tensor.')
        return {name: to_array(data, f'{what}["{name}"]') for name, data in tensors.items()}
    return {ONLY: to_array(tensors, what)}


def _rows_by_name(rows: list[dict[str, Any]]) -> dict[str, Array]:
    names = list(rows[0])
    for index, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise WireError(f"Row {index} names {sorted(row)}, row 0 names {sorted(names)}.")
    return {name: to_array([row[name] for row in rows], f'"{name}"') for name in names}
