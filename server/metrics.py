"""The server's metrics for Prometheus; with PROMETHEUS_MULTIPROC_DIR set, they are the sums over all workers.

Then every worker writes its values to files in that folder, and the worker that is asked adds them all up.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

_OF_WORKERS = [
    ("ready", "Whether a worker has its model"),
    ("connections", "Connections with a request that a worker holds"),
    ("memory_bytes", "Resident memory of a worker"),
]


class Timing(NamedTuple):
    """The seconds of one request by stage; `queue` is the time it waits for the model."""

    decode: float
    queue: float
    predict: float
    encode: float

    def header(self) -> str:
        """The value of a Server-Timing header, in milliseconds (W3C, "Server Timing")."""
        return ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in self._asdict().items())


class Metrics:
    """The metrics of this worker, and the sums over all workers."""

    def __init__(self) -> None:
        own = self._own = CollectorRegistry()
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self.requests = Counter("ruo_requests", "Requests answered", ["route", "status"], registry=own)
        self.failures = Counter("ruo_infer_failures", "Requests for a prediction that got none", registry=own)
        self.load_failures = Counter("ruo_model_load_failures", "Models that could not be loaded", registry=own)
        self._rows = Counter("ruo_rows", "Rows scored", ["version"], registry=own)
        self._stages = {
            stage: Histogram(f"ruo_{stage}_seconds", f"Seconds of {words}", buckets=_SECONDS, registry=own)
            for stage, words in (
                ("request", "a request with predictions, from its body to its answer"),
                ("decode", "receiving a request's body and reading its tensors"),
                ("queue", "waiting for the model"),
                ("predict", "computing"),
                ("encode", "writing an answer"),
            )
        }
        gauge = partial(Gauge, registry=own, multiprocess_mode="livesum")
        self.in_flight = gauge("ruo_requests_in_flight", "Requests for a prediction under way")
        self.waiting = gauge("ruo_requests_waiting", "Of those, the ones that wait for the model")
        self.models = gauge("ruo_model_loaded", "Workers that serve a version", ["name", "version", "sha256"])
        self.is_behind = gauge("ruo_model_is_behind", "Workers with an older version: the newest cannot be loaded")
        words = "Seconds to load the newest version, warm-up included"
        self.load_s = Gauge("ruo_model_load_seconds", words, registry=own, multiprocess_mode="livemax")

    def scored(self, version: str, rows: int, timing: Timing) -> None:
        """Count a request with predictions."""
        self._rows.labels(version).inc(rows)
        for stage, seconds in {**timing._asdict(), "request": sum(timing)}.items():
            self._stages[stage].observe(seconds)

    def text(self, workers: Sequence[Sequence[int]] = ()) -> bytes:
        """All metrics in Prometheus' text format, with those of each worker: process id, readiness, connections."""
        rows = [(*worker, *_memory_bytes(worker[0])) for worker in workers]
        text = ""
        for column, (name, words) in enumerate(_OF_WORKERS, 1):
            text += f"# HELP ruo_worker_{name} {words}\n# TYPE ruo_worker_{name} gauge\n"
            text += "".join(f'ruo_worker_{name}{{worker="{row[0]}"}} {row[column]}\n' for row in rows if row[column:])
        return generate_latest(self._registry()) + text.encode()

    def totals(self) -> dict[str, float]:
        """The value of every metric, summed over all workers and labels."""
        totals: defaultdict[str, float] = defaultdict(float)
        for family in self._registry().collect():
            for sample in family.samples:
                totals[sample.name] += sample.value
        return totals

    def _registry(self) -> CollectorRegistry:
        if not self._shared:
            return self._own
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


def _memory_bytes(pid: int) -> list[int]:
    with suppress(OSError, IndexError, ValueError):  # the process may have ended, or the system has no /proc
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")]
    return []
