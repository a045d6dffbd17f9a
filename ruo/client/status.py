"""How a server of ruo is, read from its metrics."""

import asyncio
import math
import time
from dataclasses import dataclass
from operator import itemgetter

from ruo.client.http import Endpoint, HttpClient
from ruo.client.retry import RequestError
from ruo.client.servers import model_address
from ruo.errors import DeploymentError, printable

_TIMEOUT_S = 10.0
Sample = tuple[dict[str, str], float]  # labels and value


@dataclass(frozen=True)
class Metrics:
    """The samples of a server's metrics by name, and the time when it was asked."""

    samples: dict[str, list[Sample]]
    at: float

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for _, value in self.samples.get(name, []))

    @property
    def ready_workers(self) -> int:
        """How many workers have the model."""
        return int(self.total("ruo_worker_ready"))


def ask(url: str, token: str | None = None, ca: str | None = None) -> Metrics:
    """The metrics of the server at `url`; raises DeploymentError."""
    [base], *_ = model_address([url])

    async def get() -> bytes:
        async with HttpClient(_TIMEOUT_S, token, ca) as http:
            return (await Endpoint(http, base).ask("GET", "/metrics"))[1]

    try:
        text = asyncio.run(get()).decode(errors="replace")
    except RequestError as error:
        raise DeploymentError(printable(str(error))) from error
    samples = _samples(text, base)
    if "ruo_requests_in_flight" not in samples:
        raise DeploymentError(f"{base}/metrics is not that of a server of ruo; name another address.")
    return Metrics(samples, time.monotonic())


def _samples(text: str, base: str) -> dict[str, list[Sample]]:
    from prometheus_client.parser import text_string_to_metric_families  # a run needs none

    found: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    except ValueError as error:
        raise DeploymentError(f"{base}/metrics cannot be read as Prometheus' text; name another address.") from error
    return found


def describe(url: str, before: Metrics, now: Metrics) -> str:
    """The model, its workers, the rate since `before`, and the times of requests, as a person reads it."""
    loaded = {
        f"{labels['name']} version {labels['version']}" for labels, n in now.samples.get("ruo_model_loaded", []) if n
    }
    rows, seconds = now.total("ruo_rows_total"), max(now.at - before.at, 1e-9)
    rate = max(0.0, rows - before.total("ruo_rows_total")) / seconds
    under_way, waiting = now.total("ruo_requests_in_flight"), now.total("ruo_requests_waiting")
    answered, failed = now.total("ruo_request_seconds_count"), now.total("ruo_infer_failures_total")
    workers = now.samples.get("ruo_worker_ready", [])
    lines = [
        f"{', '.join(sorted(loaded)) or 'no model yet'} at {url}: {now.ready_workers} of {len(workers)} workers ready",
        f"  now          {rate:,.0f} rows/s, {under_way:.0f} requests under way, {waiting:.0f} waiting",
        f"  since start  {rows:,.0f} rows in {answered:,.0f} requests, {failed:,.0f} failed",
        f"  latency      p50 {quantile(now, 0.5)}, p95 {quantile(now, 0.95)}",
        "",
        "  worker    ready  connections  memory",
    ]
    held, memory = (_of_workers(now, f"ruo_worker_{name}") for name in ("connections", "memory_bytes"))
    for labels, is_ready in workers:
        worker = labels["worker"]
        size = f"{memory[worker] / 1e6:,.0f} MB" if worker in memory else ""
        lines.append(f"  {worker:8}  {'yes' if is_ready else 'no':5}  {held.get(worker, 0):11.0f}  {size}".rstrip())
    return "\n".join(map(printable, lines))


def _of_workers(metrics: Metrics, name: str) -> dict[str, float]:
    return {labels["worker"]: value for labels, value in metrics.samples.get(name, [])}


def quantile(metrics: Metrics, share: float) -> str:
    """The time that this share of the requests stays below; within a bucket they are taken as even, as Prometheus does."""
    found = metrics.samples.get("ruo_request_seconds_bucket", [])
    buckets = sorted(((float(labels["le"]), count) for labels, count in found), key=itemgetter(0))
    rank, low, below = share * (buckets[-1][1] if buckets else 0), 0.0, 0.0
    for high, count in buckets:
        if rank and count >= rank:
            seconds = low + (high - low) * (rank - below) / (count - below)
            return f"over {1000 * low:,.0f} ms" if math.isinf(high) else f"{float(f'{1000 * seconds:.2g}'):,g} ms"
        low, below = high, count
    return "none yet"
