"""The result of a run: the predictions in row order, and how they came about."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from ruo.client.records import ModelInfo, RequestRecord
from ruo.errors import ScoringError
from ruo.table import Labels, Span
from ruo.wire.messages import Array

if TYPE_CHECKING:
    import pandas as pd

Predictions = np.ndarray[Any, np.dtype[np.float32]]

METADATA = "ruo"  # the key of the metadata in a Parquet file of predictions


def rows_of(errors: list[ScoringError]) -> int:
    """The number of rows that were not scored."""
    return sum((error.stop or 0) - (error.start or 0) for error in errors)


class Timings(NamedTuple):
    """Where the time went, in seconds."""

    forming_s: float  # reading and encoding
    sending_s: float  # from the first request to the last answer; overlaps with `forming_s` unless `pipelined=False`
    total_s: float  # the whole call
    rows_per_s: float
    first_result_s: float = math.nan  # from the call to the first answer; NaN if none came
    loop_lag_s: float = 0.0  # the longest delay of the client's event loop


class Choices(NamedTuple):
    """How the table was sent: the wire, the rows of a typical request, the requests in flight, which columns are labels."""

    wire: str
    chunk_size: int
    concurrency: int
    label_prefix: str = "Label_"


@dataclass(repr=False)
class Scores:
    """The predictions of a table, in row order, and how they came about.

    Attributes
    ----------
    predictions : numpy.ndarray
        (rows, outputs) float32; NaN where a row was not scored.
    labels : numpy.ndarray or None
        (rows,) int64 class indices; None if the table has no labels, or a row does not name exactly one class.
    timings : Timings
        Where the time went.
    model : ModelInfo
        The model that answered, one version for the whole run.
    records : list of RequestRecord
        The rows of `requests`.
    errors : list of ScoringError
        The rows of `failures`.
    choices : Choices or None
        How the table was sent, with the sizes that "auto" led to.
    span : Span or None
        The part of the table that was scored; None for all of it.
    fingerprint : str
        The SHA-256 of the whole table, where a part of it was scored.
    not_finite : int
        How many rows have NaN or Infinity among their features, in the model's datatype.
    index : pandas.Index or None
        The index of a pandas source, which `to_pandas` keeps.

    Examples
    --------
    >>> scores = score_csv("testset.csv", "http://localhost:8000")  # doctest: +SKIP
    >>> scores.predictions.argmax(axis=1)  # doctest: +SKIP
    >>> scores.to_parquet("predictions.parquet")  # doctest: +SKIP
    """

    predictions: Predictions
    labels: Labels | None
    timings: Timings
    model: ModelInfo
    records: list[RequestRecord] = field(default_factory=list)
    errors: list[ScoringError] = field(default_factory=list)
    choices: Choices | None = None
    span: Span | None = None
    fingerprint: str = ""
    not_finite: int = 0
    index: pd.Index | None = None

    @cached_property
    def requests(self) -> pd.DataFrame:
        """A row per request, with its clock in seconds; `resumed` marks requests of an earlier run, without a clock."""
        import pandas as pd

        frame = pd.DataFrame([vars(record) for record in self.records], columns=list(RequestRecord.__annotations__))
        frame = frame.sort_values("start", ignore_index=True)
        frame["began_s"] -= frame["began_s"].min()
        return frame

    @cached_property
    def failures(self) -> pd.DataFrame:
        """A row per range of rows that was not scored: start, stop (exclusive), status and reason."""
        import pandas as pd

        rows = [(error.start, error.stop, error.status, str(error)) for error in self.errors]
        frame = pd.DataFrame(rows, columns=["start", "stop", "status", "reason"])
        return frame.sort_values("start", ignore_index=True)

    def balance(self) -> pd.DataFrame:
        """A row per server and worker: the rows and requests it answered, the seconds they took, its share of the rows."""
        answered = self.requests[(self.requests["status"] == 200) & ~self.requests["resumed"]]
        groups = answered.groupby(["server", "worker"])
        shares = groups.agg(rows=("rows", "sum"), requests=("rows", "size"), seconds=("seconds", "sum")).reset_index()
        shares["share"] = shares["rows"] / shares["rows"].sum()
        return shares

    def to_pandas(self) -> pd.DataFrame:
        """A row per row of the table, with its index: prediction_0, prediction_1, ..., and label if there are labels."""
        import pandas as pd

        return pd.DataFrame(self._columns(), None if self.index is None else self.index[: len(self)])

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as CSV."""
        pl.DataFrame(self._columns()).write_csv(Path(path))

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write the columns of `to_pandas` as Parquet; the metadata name the model, the table and the part of it."""
        facts = {
            "data": self.fingerprint,
            "model": self.model.name,
            "version": self.model.version,
            "sha256": self.model.sha256,
            "output": self.model.output_name,
            "label_prefix": self.choices and self.choices.label_prefix,
            "rows": len(self),
            "not_scored": rows_of(self.errors),
            "span": self.span and self.span._asdict(),
        }
        pl.DataFrame(self._columns()).write_parquet(Path(path), metadata={METADATA: json.dumps(facts)})

    def _columns(self) -> dict[str, Array]:
        flat = self.predictions.reshape(len(self), math.prod(self.predictions.shape[1:]))
        columns: dict[str, Array] = {f"prediction_{index}": flat[:, index] for index in range(flat.shape[1])}
        return columns if self.labels is None else {**columns, "label": self.labels}

    def __len__(self) -> int:
        return len(self.predictions)

    def __repr__(self) -> str:
        model, lost = self.model, rows_of(self.errors)
        outputs = " x ".join(f"{size:,}" for size in self.predictions.shape[1:])
        parts = [
            f"{len(self):,} rows x {outputs} outputs",
            f"{self.timings.total_s:.2f} s ({self.timings.rows_per_s:,.0f} rows/s)",
            f"{len(self.records):,} requests",
            f"model {model.name!r}" + (f" version {model.version}" if model.version else ""),
            f"{lost:,} rows not scored" if lost else "all rows scored",
        ]
        if self.not_finite:
            parts.append(f"{self.not_finite:,} rows with NaN or Infinity")
        return f"Scores({', '.join(parts)})"
