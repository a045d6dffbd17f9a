"""One run of a sweep: a table is scored once, timed, and its predictions are compared with those of the first run.

A resumed sweep compares them with those of an extra run.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from ruo.client.scoring import score_csv
from ruo.deploy.deployment import Deployment
from ruo.errors import DeploymentError, RuoError
from ruo.experiment.answers import TOLERANCE, largest_difference
from ruo.experiment.carry_out import Measurement
from ruo.experiment.plan import Trial
from ruo.machine import peak_rss_mb
from ruo.table import open_table

if TYPE_CHECKING:
    from ruo.client.scores import Predictions, Scores
    from ruo.table import Source

__all__ = ["Servers", "TableMeasurement"]

Servers = str | Sequence[str] | Deployment


class TableMeasurement(Measurement):
    """Scores a table with the servers of one or several models, by the models' names."""

    def __init__(
        self,
        source: Source,
        servers: Mapping[str | None, Servers],
        wire: str,
        label_prefix: str,
        timeout: float,
        token: str | None,
    ) -> None:
        self._source = source
        self._servers = servers
        self._wire = wire
        self._options: dict[str, Any] = {"label_prefix": label_prefix, "timeout": timeout, "token": token}
        self._references: dict[str | None, Predictions] = {}
        self._replicas: dict[str | None, int] = {}
        table = open_table(source, label_prefix)
        self.name = table.name
        self.features = len(table.features)
        self.rows = 0
        for block in table.blocks(10_000):
            if not self.rows:
                self._first_row = pl.DataFrame(block.features[:1], schema=table.features)
            self.rows += len(block.features)

    def begin(self, resumed: bool) -> None:
        """Score something, so that a wrong address raises an error instead of filling a sweep with failed runs."""
        for model in self._servers:
            source = self._source if resumed else self._first_row
            scores = score_csv(source, self._urls(model), wire=self._wire, progress=False, **self._options)
            if resumed:
                self._references[model] = scores.predictions

    def prepare(self, trial: Trial) -> None:
        """Scale the model's servers."""
        model, replicas = trial.levels["model"], trial.levels["replicas"]
        if replicas is None or self._replicas.get(model) == replicas:
            return
        servers = self._servers[model]
        if isinstance(servers, (str, Sequence)):
            raise DeploymentError("An address cannot be scaled; pass local_server(...) or a KubernetesDeployment.")
        servers.scale(replicas)
        self._replicas[model] = replicas

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Score the table once; the result has the columns of a sweep."""
        levels = dict(trial.levels)
        model, replicas = levels.pop("model"), levels.pop("replicas")
        urls = self._urls(model)
        size = levels["chunk_size"] or self.rows
        setting = {"rows_per_request": size, "rows": self.rows, "server": ", ".join(urls)}
        try:
            return setting | self._score(model, replicas, urls, **levels)
        except RuoError as error:
            return setting | {"error": str(error)}
        except MemoryError:
            return setting | {"error": "The client has not enough memory for such requests; send smaller ones."}

    def _urls(self, model: str | None) -> list[str]:
        servers = self._servers[model]
        if isinstance(servers, str):
            return [servers]
        return list(servers if isinstance(servers, Sequence) else servers.urls)

    def _score(self, model: str | None, replicas: int | None, urls: list[str], **levels: Any) -> dict[str, Any]:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak of memory (Linux, proc(5))
        began = time.process_time()
        scores = score_csv(self._source, urls, retries=0, progress=False, **levels, **self._options)
        cpu_s = time.process_time() - began
        peak_mb = peak_rss_mb()
        difference = largest_difference(scores.predictions, self._references.setdefault(model, scores.predictions))
        return _facts(scores, replicas) | {
            "client_cpu_s": cpu_s,
            "client_cpu_share": cpu_s / scores.timings.total_s,
            "peak_rss_mb": peak_mb,
            "max_abs_difference": _or_none(difference),
            "answers_equal": difference <= TOLERANCE,
        }


def _or_none(number: float) -> float | None:
    """JSON has no word for infinity and NaN."""
    return number if math.isfinite(number) else None


def _facts(scores: Scores, replicas: int | None) -> dict[str, Any]:
    records, timings = scores.records, scores.timings
    seconds = [record.seconds for record in records]
    # without the decoding, during which the server waits for the body; None where it reports no times
    server_s = _or_none(sum(record.predict_s + record.encode_s for record in records))
    balance = scores.balance()
    pods = balance["worker"].str.rpartition("/")[0]  # a worker is named HOST/PROCESS; on Kubernetes, a pod is a host
    rows = balance.groupby(pods if pods.nunique() > 1 else "worker")["rows"].sum()
    workers = replicas or len(rows)
    return {
        "requests": len(records),
        "bytes": sum(record.bytes for record in records),
        **timings._asdict(),
        "request_median_s": statistics.median(seconds),
        "request_max_s": max(seconds),
        "server_s": server_s,
        "server_busy": None if server_s is None else server_s / (workers * timings.sending_s),
        "workers": workers,
        "rows_by_worker": {str(worker): int(count) for worker, count in rows.items()},
        "retries": sum(record.attempts - 1 for record in records),
        "model_version": scores.model.version,
    }
