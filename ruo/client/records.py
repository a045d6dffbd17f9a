"""What is sent and what comes back: a chunk, the record of its request, its answer, the model; and how two runs differ."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import polars as pl

from ruo.errors import ScoringError
from ruo.tables import Block, Labels
from ruo.wire import ONLY, Encoded
from ruo.wire.messages import Array

_WHAT = {
    "shard": "another part of the data",
    "version": "another version of the model",
    "sha256": "another model file",
    "of": "another number of parts",
    "names": "other prediction_names",
}  # for the rest, the name


class TensorInfo(NamedTuple):
    """An input of a model; its shape has -1 where a size is free, and the rows first."""

    name: str = ONLY
    datatype: str = "FP32"
    shape: tuple[int, ...] | None = None

    @property
    def width(self) -> int | None:
        """The columns of a table that it takes, None for any number."""
        return math.prod(self.shape[1:]) if self.shape and -1 not in self.shape[1:] else None


class ModelInfo(NamedTuple):
    """The model that answers: `platform` names its format; the shapes have -1 where a size is free.

    `sha256` (of its file), `max_request_bytes`, `output_shape` and `features` (the names of the columns that its only
    input takes) are empty or None where the server does not give them.
    """

    name: str
    version: str
    platform: str
    inputs: tuple[TensorInfo, ...] = (TensorInfo(),)
    output_name: str = ONLY
    sha256: str = ""
    max_request_bytes: int | None = None
    output_shape: tuple[int, ...] | None = None
    features: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """What says that one model answered every row: "sha256", "version", or "name" where the server tells neither."""
        return "sha256" if self.sha256 else "version" if self.version else "name"

    def version_named(self) -> str:
        """Name the version in a message, such as `version 3 (sha256 5f2c...)`."""
        return f"version {self.version or 'unknown'}" + (f" (sha256 {self.sha256[:12]}...)" if self.sha256 else "")


@dataclass(eq=False)
class Chunk:
    """Rows in the model's datatype, and the `body` that encodes them."""

    block: Block
    body: Encoded


@dataclass
class RequestRecord:
    """One chunk's request: when its last try began (by `time.perf_counter`) and how many `seconds` that took.

    `decode_s` to `encode_s` are the server's times, NaN where it gives none; `resumed` marks a chunk of an earlier run.
    """

    start: int
    rows: int
    bytes: int
    attempts: int = 0
    server: str = ""
    worker: str = ""
    version: str = ""
    sha256: str = ""
    status: int | None = None
    began_s: float = float("nan")
    seconds: float = 0.0
    decode_s: float = float("nan")
    queue_s: float = float("nan")
    predict_s: float = float("nan")
    encode_s: float = float("nan")
    resumed: bool = False


class Answer(NamedTuple):
    """The predictions of rows that were sent together, (rows, outputs), or the error in their place.

    `labels` and `kept` columns are those of the same rows.
    """

    record: RequestRecord
    predictions: Array | None
    error: ScoringError | None = None
    labels: Labels | None = None
    kept: pl.DataFrame | None = None


def rows_named(start: int, rows: int) -> str:
    """Name rows in a message, such as `Rows 20 to 29`."""
    return f"Row {start:,}" if rows == 1 else f"Rows {start:,} to {start + rows - 1:,}"


def difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """What differs first between two runs, such as `another wire (v2, not v1)`; None if nothing does."""
    for name in {**one, **other}:
        if one.get(name) != other.get(name):
            what = _WHAT.get(name, f"{'other' if name.endswith(('s', 'data')) else 'another'} {name}")
            return f"{what} ({_short(one.get(name))}, not {_short(other.get(name))})"
    return None


def _short(value: object) -> str:
    text = str(value) if value not in (None, "") else "none"
    return text if len(text) <= 16 else text[:12] + "..."
