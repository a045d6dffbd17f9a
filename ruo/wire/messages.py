"""What the protocols carry: tensors by name, and the one error for a message that breaks its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

__all__ = ["ONLY", "Buffer", "Encoded", "InferRequest", "InferResponse", "Wire", "WireError"]

Buffer = bytes | bytearray | memoryview
Array = np.ndarray[Any, np.dtype[Any]]

# The name of a tensor on the wires that name none: the model's only input, or its only output.
ONLY = ""


class WireError(ValueError):
    """A message that breaks its protocol, with the HTTP status that a server should answer.

    `row` and `column` (from 0, within the message) say where, when the fault is in one cell.
    """

    def __init__(self, message: str, status: int = 400, row: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.row = row
        self.column = column


class Encoded(NamedTuple):
    """A message ready to send: its HTTP headers, and its body as buffers to be sent one after the other."""

    headers: dict[str, str]
    buffers: list[Buffer]

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return sum(memoryview(buffer).nbytes for buffer in self.buffers)


@dataclass(frozen=True)
class InferRequest:
    """Tensors to score. `outputs` names the outputs wanted (None: all), True where one is wanted as binary."""

    inputs: dict[str, Array]
    id: str | None = None
    outputs: dict[str, bool] | None = None
    binary: bool = False
    columnar: bool = False


@dataclass(frozen=True)
class InferResponse:
    """Tensors that came out of a model, and which version of which model they came from."""

    outputs: dict[str, Array]
    model_name: str = ""
    model_version: str = ""
    id: str | None = None


@dataclass(frozen=True)
class Wire:
    """One protocol: its four pure functions, where it is spoken, and what it has.

    Parameters
    ----------
    name : str
        What `wire=` calls it.
    path : str
        Where predictions are asked for, with ``{model}`` to fill in.
    encode_request, decode_request, encode_response, decode_response : callable
        Tensors to headers and buffers, and back.
    versioned_path : str, optional
        Where one version of the model is asked, with ``{model}`` and ``{version}`` to fill in.
    has_models : bool
        Whether a server may have several models, each with a name.
    has_metadata : bool
        Whether a server can be asked for the names, types and shapes of a model's tensors.
    has_request_id : bool
        Whether an answer names the request that it belongs to.
    is_binary : bool
        Whether tensors are sent and asked for as bytes.
    fallback : str, optional
        The wire for a server that does not take tensors as bytes.
    """

    name: str
    path: str
    encode_request: Callable[[InferRequest], Encoded]
    decode_request: Callable[[Mapping[str, str], Buffer], InferRequest]
    encode_response: Callable[[InferResponse, InferRequest], Encoded]
    decode_response: Callable[[Mapping[str, str], Buffer], InferResponse]
    versioned_path: str | None = None
    has_models: bool = True
    has_metadata: bool = False
    has_request_id: bool = False
    is_binary: bool = False
    fallback: str | None = None
