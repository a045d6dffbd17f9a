"""An answer to the predictions of a chunk, or the sentence that says why it cannot be that.

What is checked: that it answers this request, how many rows it has and of what shape, and that numbers are numbers.
"""

from __future__ import annotations

import numpy as np

from ruo.client.records import Chunk, ModelInfo, RequestRecord
from ruo.wire import InferResponse, WireError
from ruo.wire.messages import Array

__all__ = ["predictions_of", "read_server_timing", "request_id"]

_EXACT_IN_FLOAT32 = 2**24


def request_id(chunk_start: int, rows: int) -> str:
    """What names a request, so that an answer to another one is found out."""
    return f"rows {chunk_start}-{chunk_start + rows - 1}"


def predictions_of(answer: InferResponse, chunk: Chunk, model: ModelInfo) -> Array:
    """The predictions (rows, outputs) float32; raises WireError where the answer cannot be that of this chunk."""
    if answer.id and answer.id != request_id(chunk.start, chunk.rows):
        raise WireError(f"it answers another request, {answer.id!r:.60}")
    output = answer.outputs.get(model.output_name)
    if output is None:
        output = next(iter(answer.outputs.values()))
    if output.ndim == 0:
        raise WireError("the predictions are a single number")
    if len(output) != chunk.rows:
        raise WireError(f"it has {len(output):,} predictions for {chunk.rows:,} rows")
    rows = _as_float32(output, chunk)
    return rows.reshape(-1, 1) if rows.ndim == 1 else rows


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
