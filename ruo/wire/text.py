"""Tensors of text, which V2 calls BYTES: arrays of `bytes`, or of `str` where they are written."""

import struct

import numpy as np

from ruo.wire.messages import Array, WireError

_LENGTH = struct.Struct("<I")


def as_tensor(cells: list[str | bytes]) -> Array:
    """The texts as a tensor, (elements,)."""
    array = np.empty(len(cells), object)
    array[:] = [cell.encode() if isinstance(cell, str) else cell for cell in cells]
    return array


def to_bytes(array: Array) -> bytes:
    """Each element behind its length, in four bytes."""
    pieces: list[bytes] = []
    for element in map(_checked, array.ravel().tolist()):
        data = element.encode() if isinstance(element, str) else element
        pieces += _LENGTH.pack(len(data)), data
    return b"".join(pieces)


def from_bytes(body: memoryview, count: int) -> Array | None:
    """The elements that `to_bytes` wrote; None for bytes that are not so many elements."""
    array, place = np.empty(count if 4 * count <= len(body) else 0, object), 0
    for index in range(len(array)):
        begin = place + 4
        if begin > len(body):
            return None
        place = begin + _LENGTH.unpack_from(body, place)[0]
        array[index] = bytes(body[begin:place])
    return array if len(array) == count and place == len(body) else None


def as_texts(array: Array) -> Array:
    """The elements as `str`, which JSON can write; raises WireError for bytes that are no text, with their row."""
    texts = np.empty(array.shape, object)
    for index, element in enumerate(map(_checked, array.ravel().tolist())):
        try:
            texts.flat[index] = element if isinstance(element, str) else element.decode()
        except UnicodeDecodeError:
            row, column = divmod(index, array.size // len(array))
            message = "bytes that are not UTF-8 cannot be written as JSON; use the binary wire v2."
            raise WireError(message, row=row, column=column) from None
    return texts


def _checked(element: object) -> str | bytes:
    if isinstance(element, str | bytes):
        return element
    raise WireError(f"A tensor of text holds {element!r:.40}, which is not text.")
