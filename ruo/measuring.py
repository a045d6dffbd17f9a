"""One run of a sweep: a table scored once, with what it took the client, and whether the answers were the same.

Answers are compared with those of the sweep's first run; where a sweep goes on after an interruption, with those of
a run that is made for this and not counted.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ruo.errors import RuoError
from ruo.load import busy_share
from ruo.memory import peak_rss_mb
from ruo.reading import open_table
from ruo.scoring import score_csv

if TYPE_CHECKING:
    from ruo.reading import Source
    from ruo.scores import Predictions, Scores

__all__ = ["TOLERANCE", "Bench"]

# Requests of other sizes are other matrix products, which round differently in the last digits of a float32.
TOLERANCE = 1e-5

_LOOK_S = 0.05


class Bench:
    """A table and a server, and one way to ask it; `measure` is one run of it. Raises TableError for a bad table."""

    def __init__(
        self,
        source: Source,
        url: str | Sequence[str],
        wire: str,
        concurrency: int,
        label_prefix: str,
        timeout: float,
        token: str | None,
    ) -> None:
        self._source = source
        self._url = url
        self._how: dict[str, Any] = {
            "wire": wire, "concurrency": concurrency, "label_prefix": label_prefix, "timeout": timeout, "token": token,
        }  # fmt: skip
        self._reference: Predictions | None = None
        self._begun = False
        table = open_table(source, label_prefix)
        self.name = table.name
        self.rows = 0
        for block in table.blocks(10_000):
            if not self.rows:
                self._first_row = pl.DataFrame(block.features[:1], schema=table.features)
            self.rows += len(block.features)

    def measure(self, run: int, chunk_size: int | None, pipelined: bool) -> dict[str, Any]:
        """Score the table once; what it took, or the error, by the column names of a sweep. `run` counts from 1.

        The first call raises what `ruo.score_csv` raises where nothing can be scored at all.
        """
        if not self._begun:
            self._begin(go_on=run > 1)
        found = {
            "rows_per_request": chunk_size or self.rows,
            "wire": self._how["wire"],
            "concurrency": self._how["concurrency"],
            "rows": self.rows,
            "server": self._url if isinstance(self._url, str) else ", ".join(self._url),
            "machine_busy": busy_share(_LOOK_S),
        }
        try:
            return found | self._score(chunk_size, pipelined)
        except RuoError as error:
            return found | {"error": str(error)}
        except MemoryError:
            return found | {"error": "The client has not enough memory for such requests; send smaller ones."}

    def _begin(self, go_on: bool) -> None:
        """See whether the server answers, so that a wrong address does not become a whole sweep of failed runs."""
        scores = score_csv(self._source if go_on else self._first_row, self._url, progress=False, **self._how)
        self._reference = scores.predictions if go_on else None
        self._begun = True

    def _score(self, chunk_size: int | None, pipelined: bool) -> dict[str, Any]:
        _forget_peak()
        began = time.process_time()
        scores = score_csv(
            self._source, self._url, chunk_size=chunk_size, pipelined=pipelined, retries=0, progress=False, **self._how
        )
        cpu_s = time.process_time() - began
        peak_mb = peak_rss_mb()
        return _about(scores) | {
            "client_cpu_s": cpu_s,
            "client_cpu_share": cpu_s / scores.timings.total_s,
            "peak_rss_mb": peak_mb,
            **self._compared(scores.predictions),
        }

    def _compared(self, predictions: Predictions) -> dict[str, Any]:
        if self._reference is None:
            self._reference = predictions
        if self._reference.shape != predictions.shape:
            return {"max_abs_difference": None, "answers_equal": False}
        difference = np.abs(self._reference - predictions)
        difference[np.isnan(self._reference) & np.isnan(predictions)] = 0  # what the model says, both times
        largest = float(difference.max(initial=0))
        # JSON has no word for NaN and infinity
        return {
            "max_abs_difference": largest if np.isfinite(largest) else None,
            "answers_equal": bool(largest <= TOLERANCE),
        }


def _about(scores: Scores) -> dict[str, Any]:
    seconds = [record.seconds for record in scores.records]
    return {
        "requests": len(scores.records),
        **scores.timings._asdict(),
        "request_median_s": statistics.median(seconds),
        "request_max_s": max(seconds),
        "retries": sum(record.attempts - 1 for record in scores.records),
        "model_version": scores.model.version,
    }


def _forget_peak() -> None:
    """Let the peak of memory begin anew (Linux, proc(5), clear_refs); elsewhere it is the whole process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
