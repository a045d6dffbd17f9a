"""A server's answer as the predictions of a chunk, or the reason why it cannot be that.

It has to name this request, with one finite prediction per row, all of the same shape, in no more bytes than that takes.
"""

import math
import re
from collections.abc import Iterable

import numpy as np

from ruo.client.records import Chunk, ModelInfo, RequestRecord
from ruo.wire import InferResponse, WireError
from ruo.wire.messages import Array, rows_not_finite

_EXACT_IN_FLOAT32 = 2**24
# The longest answer that can be right. A number takes about 25 bytes in JSON, and more where it is indented.
_BYTES_PER_VALUE = 64
_BYTES_PER_ROW = 1 << 16  # where the number of outputs is unknown
_BYTES_BESIDE = 1 << 20  # names, shapes and whatever else a server adds


def request_id(chunk_start: int, rows: int) -> str:
    """The id of a request, which its answer must repeat if it has one."""
    return f"rows {chunk_start}-{chunk_start + rows - 1}"


def most_bytes(rows: int, row_shape: tuple[int, ...] | None) -> int:
    """The most bytes that an answer can have, given the number of rows and, where it is known, the shape of one."""
    if row_shape is None or any(size < 0 for size in row_shape):
        return 65 * _BYTES_BESIDE + rows * _BYTES_PER_ROW
    return _BYTES_BESIDE + rows * math.prod(row_shape) * _BYTES_PER_VALUE


def chosen_output(names: Iterable[str], wanted: str) -> str:
    """The output to take: the one that is wanted, or the only one; raises WireError, which lists them, otherwise."""
    known = list(names)
    if wanted in known:
        return wanted
    if wanted or len(known) > 1:
        what = f"no output {wanted!r}" if wanted else "several outputs"
        listed = f"choose one of {', '.join(known)}, as in output={known[0]!r}" if known[0] else "leave `output` out"
        raise WireError(f"the model has {what}; {listed}")
    return known[0]


def predictions_of(
    answer: InferResponse, chunk: Chunk, model: ModelInfo, row_shape: tuple[int, ...] | None = None
) -> Array:
    """A chunk's predictions, (rows, ...) in float32 with rows of a known shape; WireError where they cannot be that."""
    if answer.id and answer.id != request_id(chunk.block.start, chunk.block.rows):
        raise WireError(f"it answers another request, {answer.id!r:.60}")
    output = answer.outputs[chosen_output(answer.outputs, model.output_name)]
    if output.dtype == object:
        raise WireError("the predictions are text")
    if output.ndim == 0:
        raise WireError("the predictions are a single number")
    if len(output) != chunk.block.rows:
        raise WireError(f"it has {len(output):,} predictions for {chunk.block.rows:,} rows")
    predictions = _as_float32(output, chunk)
    if predictions.ndim == 1:
        predictions = predictions[:, np.newaxis]
    shape = predictions.shape[1:]
    if row_shape is not None and shape != row_shape:
        raise WireError(f"each row has the shape {shape}, in earlier answers {row_shape}")
    return predictions


def _as_float32(output: Array, chunk: Chunk) -> Array:
    if output.dtype.kind in "iu" and output.size and max(abs(int(output.min())), int(output.max())) > _EXACT_IN_FLOAT32:
        raise WireError("it has whole numbers above 2**24, which float32 predictions cannot hold")
    with np.errstate(over="ignore"):
        predictions = output.astype(np.float32, copy=False)
    wrong = rows_not_finite(predictions)
    if wrong.size:  # for a row with NaN among its features, NaN is a right answer
        wrong = np.setdiff1d(wrong, rows_not_finite(*chunk.block.inputs.values()))
    if wrong.size:
        row = int(wrong[0])
        value = output[row][~np.isfinite(predictions[row])].flat[0]
        raise WireError(f"row {chunk.block.start + row:,} has the prediction {value}, though its features are numbers")
    return predictions


def read_server_timing(header: str, record: RequestRecord) -> None:
    """Read `decode;dur=1.2, predict;dur=3.4` (in milliseconds; W3C, "Server Timing")."""
    for name, duration in re.findall(r"(?<![^, ])(decode|queue|predict|encode);dur=(\d+(?:\.\d+)?)(?![\w.])", header):
        setattr(record, f"{name}_s", float(duration) / 1000)
