"""JSON text to arrays and back, the same for every protocol that writes numbers as text.

RFC 8259 has no NaN and Infinity. Reading accepts `null` as NaN, as pandas writes it, and the words NaN and Infinity, as
TensorFlow Serving writes them. Writing keeps a value or refuses it, and never writes null instead.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from ruo.wire.messages import Array, Buffer, Encoded, WireError

MAX_DIMENSIONS = 32
_NUMBERS = {bool, int, float, type(None)}


def loads(text: Buffer | str) -> Any:
    """Parse JSON; the WireError for text that is not JSON says where it breaks."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        first = error
    try:
        text = text if isinstance(text, str) else bytes(text).decode()
        value = json.loads(text)  # accepts NaN and Infinity
        if "\\u" in text:  # half of a surrogate pair, which no answer can name, cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise WireError(f"The body is not JSON: {first}.") from None
    return value


def dumps(message: dict[str, Any] | list[Any] | Array | str) -> bytes:
    """Write JSON with arrays as nested lists, and NaN and Infinity as these words."""
    try:
        return orjson.dumps(message, default=_array_text)
    except orjson.JSONEncodeError:  # orjson would write null
        return json.dumps(message, default=np.ndarray.tolist, separators=(",", ":")).encode()


def _array_text(array: Array) -> orjson.Fragment:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TypeError
    return orjson.Fragment(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY, default=np.ndarray.tolist))


def encode_json(message: dict[str, Any] | list[Any] | Array | str) -> Encoded:
    """A message whose whole body is JSON."""
    return Encoded({"Content-Type": "application/json"}, [dumps(message)])


def require_finite(tensors: Mapping[str, Array]) -> None:
    """Raise WireError with the row and column of the first NaN or Infinity in arrays (rows, ...)."""
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            place = int(np.isfinite(array).argmin())  # the first that is not
            message = f"{array.flat[place]} cannot be written as JSON; use the binary wire v2."
            raise WireError(message, 400, (name, *divmod(place, array[0].size)))


def as_bytes(text: Array) -> list[bytes]:
    """The elements of a tensor of text in UTF-8; raises WireError for one that is no text."""
    cells = text.ravel().tolist()
    if others := [cell for cell in cells if not isinstance(cell, str | bytes)]:
        raise WireError(f"A tensor of text holds {others[0]!r:.40}, which is not text.")
    return [cell.encode() if isinstance(cell, str) else cell for cell in cells]


def as_texts(text: Array) -> Array:
    """A tensor of text as `str`, which JSON can write; raises WireError for bytes that are no text."""
    try:
        cells = [cell.decode() for cell in as_bytes(text)]
    except UnicodeDecodeError:
        raise WireError("bytes that are not UTF-8 cannot be written as JSON; use the binary wire v2.") from None
    return np.array(cells, object).reshape(text.shape)


def to_array(data: object, name: str, may_be_text: bool = False) -> Array:
    """A nested list of numbers, or of text, as an array; the WireError for others says which element of `name` it is."""
    cells: list[Any] = [data]
    shape: list[int] = []
    while cells and isinstance(cells[0], list):
        if len(shape) == MAX_DIMENSIONS:
            raise WireError(f"{name} is nested deeper than {MAX_DIMENSIONS} lists.")
        if set(map(type, cells)) != {list} or len(set(map(len, cells))) > 1:
            raise WireError(_unequal(cells, shape, name))
        shape.append(len(cells[0]))
        cells = list(itertools.chain.from_iterable(cells)) if len(cells) > 1 else cells[0]
    is_whole = False
    try:
        is_whole = isinstance(sum(cells), int)  # the fastest way to see that all are numbers
    except (TypeError, OverflowError):
        kinds = set(map(type, cells))
        if list in kinds:
            raise WireError(_unequal(cells, shape, name)) from None
        if may_be_text and kinds <= {str, bytes}:
            return np.array(as_bytes(np.array(cells, object)), object).reshape(shape)
        if not kinds <= _NUMBERS:  # beside a text, numpy would give each number as much memory as the text
            index, cell = next((index, cell) for index, cell in enumerate(cells) if type(cell) not in _NUMBERS)
            path = "".join(f"[{number}]" for number in np.unravel_index(index, shape))
            shown = json.dumps(cell[:60]) if isinstance(cell, str) else "an object"
            raise WireError(f"{name}{path} is {shown}, which is not a number.") from None
    try:
        array = np.asarray(cells)
        if is_whole and array.dtype.kind == "f" and array.size and array.min() >= 0:
            array = np.asarray(cells, np.uint64)  # numpy makes floats of whole numbers on both sides of 2**63
        return (array if array.dtype != object else array.astype(np.float64)).reshape(shape)  # null becomes NaN
    except OverflowError:
        raise WireError(f"{name} holds a number that is too large.") from None


def _unequal(cells: list[Any], shape: list[int], name: str) -> str:
    """Which elements of nested lists are not alike, at the depth where these are no longer rectangular."""
    counts = [f"{len(cell)} values" if isinstance(cell, list) else "a single value" for cell in cells]
    index = next(index for index, count in enumerate(counts) if count != counts[0])
    position, first = (", ".join(map(str, np.unravel_index(number, shape))) for number in (index, 0))
    return f"{name} is not rectangular: element {position} has {counts[index]}, element {first} has {counts[0]}."
