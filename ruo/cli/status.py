"""The verb ``status``: how a server is, read from its metrics."""

import asyncio
import math
import sys
import time
from dataclasses import dataclass
from operator import itemgetter

import click

from ruo.errors import DeploymentError, printable

_BETWEEN_S = 1.0
_TIMEOUT_S = 10.0


@click.command()
@click.argument("url")
@click.option("--watch", is_flag=True, help="Ask again every second, until Ctrl-C.")
@click.option("--token", envvar="RUO_TOKEN", help="Bearer token; better given as RUO_TOKEN.")
@click.option("--ca", help="Certificates (PEM) to trust for https.")
def status(url: str, watch: bool, token: str | None, ca: str | None) -> None:
    """Say how busy the server at URL is, and how fast.

    Exits with status 0 when a worker is ready, otherwise 1, or 2 when an option is wrong.
    """
    before = ask(url, token, ca)
    try:
        while True:
            time.sleep(_BETWEEN_S)
            now = ask(url, token, ca)
            if watch and sys.stdout.isatty():
                click.clear()
            click.echo(describe(url, before, now))
            if not watch:
                sys.exit(not now.total("ruo_worker_ready"))
            before = now
    except KeyboardInterrupt as error:
        if not watch or type(error) is not KeyboardInterrupt:  # nothing was said yet, or SIGTERM
            raise


@dataclass(frozen=True)
class Metrics:
    """The samples of a server's metrics by name, each its labels and value, and the time when it was asked."""

    samples: dict[str, list[tuple[dict[str, str], float]]]
    at: float

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for _, value in self.samples.get(name, []))

    def by(self, label: str, name: str) -> dict[str, float]:
        """The values by that label."""
        return {labels[label]: value for labels, value in self.samples.get(name, [])}


def ask(url: str, token: str | None = None, ca: str | None = None) -> Metrics:
    """The metrics of the server at `url`; raises DeploymentError."""
    from prometheus_client.parser import text_string_to_metric_families

    from ruo.client.http import Endpoint, HttpClient
    from ruo.client.retry import RequestError
    from ruo.client.servers import model_address

    [base], *_ = model_address(url)

    async def get() -> bytes:
        async with HttpClient(_TIMEOUT_S, token, ca) as http:
            return (await Endpoint(http, base).ask("GET", "/metrics"))[1]

    metrics = Metrics({}, time.monotonic())
    try:
        for family in text_string_to_metric_families(asyncio.run(get()).decode(errors="replace")):
            for sample in family.samples:
                metrics.samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except RequestError as error:
        raise DeploymentError(printable(str(error))) from error
    except ValueError as error:
        raise DeploymentError(f"{base}/metrics cannot be read as Prometheus' text; name another address.") from error
    if "ruo_requests_in_flight" not in metrics.samples:
        raise DeploymentError(f"{base}/metrics is not that of a server of ruo; name another address.")
    return metrics


def describe(url: str, before: Metrics, now: Metrics) -> str:
    """The model, its workers, the rate since `before`, and the times of requests, as a person reads it."""
    loaded = {
        f"{labels['name']} version {labels['version']}" for labels, n in now.samples.get("ruo_model_loaded", []) if n
    }
    rows = now.total("ruo_rows_total")
    rate = max(0.0, rows - before.total("ruo_rows_total")) / max(now.at - before.at, 1e-9)
    under_way, waiting = now.total("ruo_requests_in_flight"), now.total("ruo_requests_waiting")
    answered, failed = now.total("ruo_request_seconds_count"), now.total("ruo_infer_failures_total")
    ready, held, memory = (now.by("worker", f"ruo_worker_{name}") for name in ("ready", "connections", "memory_bytes"))
    lines = [
        f"{', '.join(sorted(loaded)) or 'no model yet'} at {url}: {sum(ready.values()):.0f} of {len(ready)} workers ready",
        f"  now          {rate:,.0f} rows/s, {under_way:.0f} requests under way, {waiting:.0f} waiting",
        f"  since start  {rows:,.0f} rows in {answered:,.0f} requests, {failed:,.0f} failed",
        f"  latency      p50 {quantile(now, 0.5)}, p95 {quantile(now, 0.95)}",
        "",
        "  worker    ready  connections  memory",
    ]
    for worker, is_ready in ready.items():
        size = f"{memory[worker] / 1e6:,.0f} MB" if worker in memory else ""
        lines.append(f"  {worker:8}  {'yes' if is_ready else 'no':5}  {held.get(worker, 0):11.0f}  {size}".rstrip())
    return "\n".join(map(printable, lines))


def quantile(metrics: Metrics, share: float) -> str:
    """The time that this share of the requests stays below; within a bucket they are taken as even, as Prometheus does."""
    counts = metrics.by("le", "ruo_request_seconds_bucket")
    buckets = sorted(((float(le), count) for le, count in counts.items()), key=itemgetter(0))
    rank, low, below = share * (buckets[-1][1] if buckets else 0), 0.0, 0.0
    for high, count in buckets:
        if rank and count >= rank:
            seconds = low + (high - low) * (rank - below) / (count - below)
            return f"over {1000 * low:,.0f} ms" if math.isinf(high) else f"{float(f'{1000 * seconds:.2g}'):,g} ms"
        low, below = high, count
    return "none yet"
