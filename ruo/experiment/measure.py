"""One run of a sweep: a table scored once, with what it took the client, and whether the answers were the same.

Answers are compared with those of the sweep's first run; where a sweep goes on after an interruption, with those of
a run that is made for this and not counted.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from ruo.client.scoring import score_csv
from ruo.errors import DeploymentError, RuoError
from ruo.machine import busy_share, peak_rss_mb
from ruo.table import open_table

if TYPE_CHECKING:
    from ruo.client.scores import Predictions, Scores
    from ruo.table import Source

__all__ = ["TOLERANCE", "Bench", "Deployment", "Target"]

# Requests of other sizes are other matrix products, which round differently in the last digits of a float32.
TOLERANCE = 1e-5

_LOOK_S = 0.05


class Deployment(Protocol):
    """Where servers run, such as `ruo.local_server` gives and `ruo.KubernetesDeployment` is."""

    @property
    def urls(self) -> list[str]:
        """The addresses to send to."""

    def scale(self, replicas: int) -> None:
        """Have so many servers, all ready."""


Target = str | Sequence[str] | Deployment


class Bench:
    """A table and the servers of one or several models; `measure` is one run of it. Raises TableError for a bad table."""

    def __init__(
        self,
        source: Source,
        targets: Mapping[str | None, Target],
        label_prefix: str,
        timeout: float,
        token: str | None,
    ) -> None:
        self._source = source
        self._targets = targets
        self._how: dict[str, Any] = {"label_prefix": label_prefix, "timeout": timeout, "token": token}
        self._references: dict[str | None, Predictions] = {}
        self._replicas: dict[str | None, int] = {}
        self._begun = False
        table = open_table(source, label_prefix)
        self.name = table.name
        self.features = len(table.features)
        self.rows = 0
        for block in table.blocks(10_000):
            if not self.rows:
                self._first_row = pl.DataFrame(block.features[:1], schema=table.features)
            self.rows += len(block.features)

    def measure(
        self,
        run: int,
        model: str | None,
        replicas: int | None,
        wire: str,
        concurrency: int,
        chunk_size: int | None,
        pipelined: bool,
    ) -> dict[str, Any]:
        """Score the table once; what it took, or the error, by the column names of a sweep. `run` counts from 1.

        The first call raises what `ruo.score_csv` raises where nothing can be scored at all; scaling raises what the
        deployment raises.
        """
        if not self._begun:
            self._begin(wire, go_on=run > 1)
        if replicas is not None:
            self._scale(model, replicas)
        urls = self._urls(model)
        found = {
            "rows_per_request": chunk_size or self.rows,
            "rows": self.rows,
            "server": ", ".join(urls),
            "machine_busy": busy_share(_LOOK_S),
        }
        how = {"wire": wire, "concurrency": concurrency, "chunk_size": chunk_size, "pipelined": pipelined}
        try:
            return found | self._score(model, replicas, urls, **how)
        except RuoError as error:
            return found | {"error": str(error)}
        except MemoryError:
            return found | {"error": "The client has not enough memory for such requests; send smaller ones."}

    def _begin(self, wire: str, go_on: bool) -> None:
        """See whether the servers answer, so that a wrong address does not become a whole sweep of failed runs."""
        for model in self._targets:
            source = self._source if go_on else self._first_row
            scores = score_csv(source, self._urls(model), wire=wire, progress=False, **self._how)
            if go_on:
                self._references[model] = scores.predictions
        self._begun = True

    def _urls(self, model: str | None) -> list[str]:
        target = self._targets[model]
        if isinstance(target, str):
            return [target]
        return list(target if isinstance(target, Sequence) else target.urls)

    def _scale(self, model: str | None, replicas: int) -> None:
        target = self._targets[model]
        if isinstance(target, (str, Sequence)):
            raise DeploymentError("An address cannot be scaled; pass local_server(...) or a KubernetesDeployment.")
        if self._replicas.get(model) != replicas:
            target.scale(replicas)
            self._replicas[model] = replicas

    def _score(self, model: str | None, replicas: int | None, urls: list[str], **how: Any) -> dict[str, Any]:
        _forget_peak()
        began = time.process_time()
        scores = score_csv(self._source, urls, retries=0, progress=False, **how, **self._how)
        cpu_s = time.process_time() - began
        peak_mb = peak_rss_mb()
        return _about(scores, replicas) | {
            "client_cpu_s": cpu_s,
            "client_cpu_share": cpu_s / scores.timings.total_s,
            "peak_rss_mb": peak_mb,
            **self._compared(model, scores.predictions),
        }

    def _compared(self, model: str | None, predictions: Predictions) -> dict[str, Any]:
        reference = self._references.setdefault(model, predictions)
        if reference.shape != predictions.shape:
            return {"max_abs_difference": None, "answers_equal": False}
        difference = np.abs(reference - predictions)
        difference[np.isnan(reference) & np.isnan(predictions)] = 0  # what the model says, both times
        largest = float(difference.max(initial=0))
        # JSON has no word for NaN and infinity
        return {
            "max_abs_difference": largest if np.isfinite(largest) else None,
            "answers_equal": bool(largest <= TOLERANCE),
        }


def _about(scores: Scores, replicas: int | None) -> dict[str, Any]:
    records, timings = scores.records, scores.timings
    seconds = [record.seconds for record in records]
    server_s = sum(record.predict_s + record.encode_s for record in records)  # while decoding it waits for the body
    balance = scores.balance()
    pods = balance["worker"].str.rpartition("/")[0]
    rows = balance.groupby(pods if pods.nunique() > 1 else "worker")["rows"].sum()
    workers = replicas or len(rows)
    return {
        "requests": len(records),
        "bytes": sum(record.bytes for record in records),
        **timings._asdict(),
        "request_median_s": statistics.median(seconds),
        "request_max_s": max(seconds),
        # a server that tells no times gives no number, and JSON has none for it
        "server_s": None if math.isnan(server_s) else server_s,
        "server_busy": None if math.isnan(server_s) else server_s / (workers * timings.sending_s),
        "workers": workers,
        "rows_by_worker": {str(worker): int(count) for worker, count in rows.items()},
        "retries": sum(record.attempts - 1 for record in records),
        "model_version": scores.model.version,
    }


def _forget_peak() -> None:
    """Let the peak of memory begin anew (Linux, proc(5), clear_refs); elsewhere it is the whole process's."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
