"""What goes out and what comes back: a chunk of rows, the record of its request, its answer, the model that gave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ruo.errors import ScoringError
from ruo.wire import ONLY, Encoded
from ruo.wire.messages import Array

if TYPE_CHECKING:
    from ruo.table import Labels

__all__ = ["Answer", "Chunk", "ModelInfo", "RequestRecord", "Sent", "rows_named"]


class ModelInfo(NamedTuple):
    """The model that answers: `platform` names its format; `input_shape` has -1 where a size is free.

    `sha256` is that of its file, `max_request_bytes` what a request may hold, and `output_shape` is like `input_shape`,
    all three where the server tells them.
    """

    name: str
    version: str
    platform: str
    input_name: str = ONLY
    input_datatype: str = "FP32"
    input_shape: tuple[int, ...] | None = None
    output_name: str = ONLY
    sha256: str = ""
    max_request_bytes: int | None = None
    output_shape: tuple[int, ...] | None = None


class Chunk(NamedTuple):
    """Rows `start` to `start + rows`: `features` (rows, features) as the model takes them, and encoded, ready to send."""

    start: int
    rows: int
    features: Array
    body: Encoded


@dataclass
class RequestRecord:
    """What one chunk's request did: `began_s` on the clock of `time.perf_counter`, `seconds` of its last try.

    `server` is the address, `worker` the process or pod behind it; `decode_s`, `queue_s`, `predict_s` and `encode_s` are
    the server's own times, NaN where it tells none. `resumed` marks a chunk that an earlier run scored.
    """

    start: int
    rows: int
    bytes: int
    attempts: int = 0
    server: str = ""
    worker: str = ""
    version: str = ""
    status: int | None = None
    began_s: float = float("nan")
    seconds: float = 0.0
    decode_s: float = float("nan")
    queue_s: float = float("nan")
    predict_s: float = float("nan")
    encode_s: float = float("nan")
    resumed: bool = False


class Answer(NamedTuple):
    """A chunk's predictions, (rows, outputs), or the error that took their place."""

    record: RequestRecord
    predictions: Array | None
    error: ScoringError | None = None


def rows_named(start: int, rows: int) -> str:
    """`Rows 20 to 29`, for sentences."""
    return f"Row {start:,}" if rows == 1 else f"Rows {start:,} to {start + rows - 1:,}"


class Sent(NamedTuple):
    """Rows from `start` on that were answered together, their labels, and their answer."""

    start: int
    rows: int
    labels: Labels | None
    answer: Answer
