"""What the protocols carry: tensors by name, and the one error for a message that breaks its protocol."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

Buffer = bytes | bytearray | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

# The name of a tensor on the wires that name none: the model's only input, or its only output.
ONLY = ""


class WireError(ValueError):
    """A message that breaks its protocol, with the status for the answer, and the cell at fault where it is one."""

    def __init__(self, message: str, status: int = 400, cell: tuple[str, int, int] | None = None) -> None:
        super().__init__(message)
        self.status, self.cell = status, cell  # its tensor, its row and its column


class Encoded(NamedTuple):
    """A message ready to send: its HTTP headers, and its body as buffers to be sent in this order."""

    headers: dict[str, str]
    buffers: list[Buffer]

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(memoryview(buffer).nbytes for buffer in self.buffers)


@dataclass(frozen=True)
class InferRequest:
    """Tensors to score. `outputs` names the requested outputs (None: all); True requests one as binary."""

    inputs: dict[str, Array]
    id: str | None = None
    outputs: dict[str, bool] | None = None
    binary: bool = False
    columnar: bool = False
    signature: str = ""  # of the model; empty for its default


@dataclass(frozen=True)
class InferResponse:
    """A model's outputs, with the name and version of the model."""

    outputs: dict[str, Array]
    model_name: str = ""
    model_version: str = ""
    id: str | None = None


@dataclass(frozen=True)
class Wire:
    """One protocol: its four pure functions, its address, and what it can do."""

    name: str
    path: str  # of predictions, with {model} to fill in: NAME, or NAME/versions/VERSION
    encode_request: Callable[[InferRequest], Encoded]
    decode_request: Callable[[Mapping[str, str], Buffer], InferRequest]
    encode_response: Callable[[InferResponse, InferRequest], Encoded]
    decode_response: Callable[[Mapping[str, str], Buffer], InferResponse]
    has_models: bool = True  # its paths name a model and a version
    has_metadata: bool = False  # a server describes the names, datatypes and shapes of a model's tensors
    is_binary: bool = False  # tensors travel as bytes
    fallback: str | None = None  # the wire for a server that does not take tensors as bytes


def rows_not_finite(*arrays: Array) -> Array:
    """The rows that hold NaN or Infinity in any of the arrays, in order."""
    masks = [np.isfinite(cells) for cells in arrays if cells.dtype.kind == "f"]
    rows = [np.nonzero(~is_finite)[0] for is_finite in masks if not is_finite.all()]
    return np.unique(np.concatenate(rows)) if rows else np.empty(0, np.int64)
