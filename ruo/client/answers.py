"""An answer to the predictions of a chunk, or the sentence that says why it cannot be that.

What is checked: its length, that it answers this request, how many rows it has and of what shape, and that numbers
are numbers.
"""

from __future__ import annotations

import math

import numpy as np

from ruo.client.records import Chunk, ModelInfo, RequestRecord
from ruo.wire import InferResponse, WireError
from ruo.wire.messages import Array

__all__ = ["most_bytes", "predictions_of", "read_server_timing", "request_id"]

_EXACT_IN_FLOAT32 = 2**24
# The longest answer that can be right. A number takes some 25 bytes in JSON, and more where it is indented.
_BYTES_PER_VALUE = 64
_BYTES_PER_ROW = 1 << 16  # where nobody knows how many outputs there are
_BYTES_BESIDE = 1 << 20  # names, shapes and whatever else a server adds


def request_id(chunk_start: int, rows: int) -> str:
    """The name of a request, by which an answer to another one is noticed."""
    return f"rows {chunk_start}-{chunk_start + rows - 1}"


def most_bytes(rows: int, row_shape: tuple[int, ...] | None) -> int:
    """The most bytes of an answer with so many rows, of the shape `row_shape` where that is known."""
    if row_shape is None or min(row_shape, default=1) < 0:
        return _BYTES_BESIDE + rows * _BYTES_PER_ROW + 64 * _BYTES_BESIDE
    return _BYTES_BESIDE + rows * math.prod(row_shape) * _BYTES_PER_VALUE


def predictions_of(
    answer: InferResponse, chunk: Chunk, model: ModelInfo, row_shape: tuple[int, ...] | None = None
) -> Array:
    """An answer as the predictions of a chunk.

    Parameters
    ----------
    answer : InferResponse
        What the server said.
    chunk : Chunk
        The rows that it was asked about.
    model : ModelInfo
        Names the output to take.
    row_shape : tuple of int, optional
        The shape of one row in earlier answers.

    Returns
    -------
    numpy.ndarray
        Of shape (rows, outputs) or (rows, ...), float32.

    Raises
    ------
    WireError
        Where the answer cannot be that of this chunk.
    """
    if answer.id and answer.id != request_id(chunk.start, chunk.rows):
        raise WireError(f"it answers another request, {answer.id!r:.60}")
    output = answer.outputs.get(model.output_name)
    if output is None:
        output = next(iter(answer.outputs.values()))
    if output.ndim == 0:
        raise WireError("the predictions are a single number")
    if len(output) != chunk.rows:
        raise WireError(f"it has {len(output):,} predictions for {chunk.rows:,} rows")
    predictions = _as_float32(output, chunk)
    if predictions.ndim == 1:
        predictions = predictions.reshape(-1, 1)
    shape = predictions.shape[1:]
    if row_shape is not None and shape != row_shape:
        raise WireError(f"each row has the shape {shape}, in earlier answers {row_shape}")
    return predictions


def _as_float32(output: Array, chunk: Chunk) -> Array:
    if output.dtype.kind in "iu" and output.size and max(abs(int(output.min())), int(output.max())) > _EXACT_IN_FLOAT32:
        raise WireError("it has whole numbers above 2**24, which float32 predictions cannot hold")
    with np.errstate(over="ignore"):
        rows = output.astype(np.float32, copy=False)
    wrong = ~np.isfinite(rows)
    if wrong.any():
        # of a row that holds NaN itself, NaN is what the model says
        known = np.isfinite(chunk.features).reshape(chunk.rows, -1).all(axis=1)
        lost = wrong.reshape(chunk.rows, -1).any(axis=1) & known
        if lost.any():
            row = int(lost.argmax())
            value = output.reshape(chunk.rows, -1)[row][wrong.reshape(chunk.rows, -1)[row]][0]
            raise WireError(f"row {chunk.start + row:,} has the prediction {value}, though its features are numbers")
    return rows


def read_server_timing(header: str, record: RequestRecord) -> None:
    """`Server-Timing: decode;dur=1.2, predict;dur=3.4` (milliseconds; W3C, "Server Timing")."""
    for entry in header.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if name in ("decode", "queue", "predict", "encode"):
            try:
                setattr(record, f"{name}_s", float(duration) / 1000)
            except ValueError:
                continue  # a proxy may add what it likes
