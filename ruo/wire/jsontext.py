"""JSON text to arrays and back, the same for every protocol that writes numbers as text.

RFC 8259, section 6: "Numeric values that cannot be represented in the grammar below (such as Infinity and NaN) are not
permitted." Reading accepts `null` as NaN, as pandas writes it, and the words NaN and Infinity, as TensorFlow Serving
writes them. Writing keeps a value or refuses it, and never writes null instead.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson

from ruo.wire.messages import Array, Buffer, Encoded, WireError


def loads(text: Buffer | str) -> Any:
    """Parse JSON; the WireError for text that is not JSON says where it breaks."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        first = error
    try:
        return json.loads(text if isinstance(text, str) else bytes(text))  # accepts NaN and Infinity
    except (ValueError, RecursionError):
        raise WireError(f"The body is not JSON: {first}.") from None


def dumps(message: dict[str, Any] | list[Any] | Array) -> bytes:
    """Write JSON with arrays as nested lists, and NaN and Infinity as these words."""
    try:
        return orjson.dumps(message, default=_array_text)
    except orjson.JSONEncodeError:  # orjson would write null
        return json.dumps(message, default=np.ndarray.tolist, separators=(",", ":")).encode()


def _array_text(array: Array) -> orjson.Fragment:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TypeError
    return orjson.Fragment(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY, default=np.ndarray.tolist))


def encode_json(message: dict[str, Any] | list[Any] | Array) -> Encoded:
    """A message whose whole body is JSON."""
    return Encoded({"Content-Type": "application/json"}, [dumps(message)])


def require_finite(array: Array) -> None:
    """Raise WireError with the row and column of the first NaN or Infinity in a float array (rows, ...)."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    row, *rest = (int(index) for index in np.argwhere(~np.isfinite(array))[0])
    column = int(np.ravel_multi_index(rest, array.shape[1:])) if rest else 0
    value = array[(row, *rest)]
    raise WireError(f"{value} cannot be written as JSON; use the binary wire v2.", row=row, column=column)


def to_array(data: object, name: str) -> Array:
    """A nested list of numbers as an array; the WireError for anything else says which element of `name` it is."""
    try:
        array = np.asarray(data)
    except ValueError:  # lists of unequal length
        raise WireError(_ragged(data, name)) from None
    if array.dtype == object:
        try:
            array = np.asarray(data, dtype=np.float64)  # None, which was null, becomes NaN
        except (TypeError, ValueError, OverflowError):
            raise WireError(_not_a_number(data, name)) from None
    if array.dtype.kind not in "biuf":
        raise WireError(_not_a_number(data, name))
    return array


def _ragged(data: object, name: str) -> str:
    if isinstance(data, list) and isinstance(data[0], list):
        for index, item in enumerate(data):
            if not isinstance(item, list) or len(item) != len(data[0]):
                count = f"{len(item)} values" if isinstance(item, list) else "a single value"
                return f"{name} is not rectangular: element {index} has {count}, element 0 has {len(data[0])}."
    return f"{name} is not rectangular: its lists are of unequal length."


def _not_a_number(data: object, name: str) -> str:
    stack = [(data, name)]
    while stack:
        item, path = stack.pop()
        if isinstance(item, list):
            stack.extend((item[index], f"{path}[{index}]") for index in reversed(range(len(item))))
        elif item is not None and not isinstance(item, (bool, int, float)):
            return f"{path} is {json.dumps(item)[:60]}, which is not a number."
    return f"{name} holds a number that is too large."
