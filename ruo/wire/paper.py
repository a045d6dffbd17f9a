"""The protocol of 2023: rows as JSON text inside a JSON string, answered by a bare JSON array.

The first client wrote ``requests.post(url, json=frame.to_json(orient="values"))``, so the body is JSON twice. A plain
array of rows is accepted as well.
"""

from collections.abc import Mapping

from ruo.wire.jsontext import dumps, encode_json, loads, require_finite, to_array
from ruo.wire.messages import ONLY, Buffer, Encoded, InferRequest, InferResponse, WireError


def encode_request(request: InferRequest) -> Encoded:
    """The only tensor, (rows, features), as JSON in a JSON string; raises WireError for NaN, Infinity and text."""
    require_finite(request.inputs)
    ((name, array),) = request.inputs.items()
    if array.dtype == object:
        raise WireError("text cannot be sent on this wire; take another one.", cell=(name, 0, 0))
    return encode_json(dumps(array).decode())


def decode_request(headers: Mapping[str, str], body: Buffer) -> InferRequest:
    """The array (rows, features) from either form of the body."""
    rows = loads(body)
    if isinstance(rows, str):
        rows = loads(rows)
    if not isinstance(rows, list):
        raise WireError("The body must be a JSON array of rows, or a JSON string that holds one.")
    return InferRequest({ONLY: to_array(rows, "rows")})


def encode_response(response: InferResponse, request: InferRequest) -> Encoded:
    """The only output as a JSON array of rows; raises WireError if there are several."""
    if len(response.outputs) > 1:
        names = ", ".join(response.outputs)
        raise WireError(f"The model has several outputs ({names}); this protocol carries one only.")
    return encode_json(next(iter(response.outputs.values())))


def decode_response(headers: Mapping[str, str], body: Buffer) -> InferResponse:
    """Predictions from a JSON array of rows."""
    rows = loads(body)
    if not isinstance(rows, list):
        raise WireError("The answer is not a JSON array of rows.")
    return InferResponse({ONLY: to_array(rows, "predictions")})
