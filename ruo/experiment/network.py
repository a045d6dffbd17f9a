"""The network between client and server: what it costs, measured; and a slower one, simulated on this machine."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import polars as pl

from ruo.client.scoring import score_csv
from ruo.errors import ArgumentError, DeploymentError
from ruo.table import Source, open_table

__all__ = ["Network", "measure_network", "slow_network"]

# Run by its path, since importing its package takes a second.
_SLOW_LINK = Path(__file__).with_name("slow_link.py")


class Network(NamedTuple):
    """The seconds that a small request spends outside the server, and the throughput in bytes per second."""

    request_s: float
    bytes_per_s: float

    def sentence(self) -> str:
        """The network in words."""
        return (
            f"A request spends {1e3 * self.request_s:.3g} ms outside the server, and bytes travel at "
            f"{self.bytes_per_s / 1e6:,.0f} MB/s ({8 * self.bytes_per_s / 1e6:,.0f} Mbit/s)."
        )


def measure_network(
    source: Source, url: str, rows: int = 10_000, tries: int = 7, label_prefix: str = "Label_", token: str | None = None
) -> Network:
    """Latency and throughput of the network to a server: requests of one row and of many, less the server's own times.

    Parameters
    ----------
    source, url, label_prefix, token
        As in `ruo.score_csv`; for a server on this machine, the throughput is that of memory.
    rows, tries : int
        The rows of the larger request, and how often each is sent; the median counts.

    Raises
    ------
    ArgumentError
        The table has one row.
    DeploymentError
        The server reports no times.
    """
    table = open_table(source, label_prefix)
    frame = pl.DataFrame(next(iter(table.blocks(rows))).features, schema=table.features)
    if len(frame) < 2:
        raise ArgumentError(f"{table.name} has one row; pass a table of two rows or more to measure the network.")
    (request_s, request_bytes), (seconds, size) = (_outside(frame[:count], url, tries, token) for count in (1, rows))
    return Network(request_s, (size - request_bytes) / max(seconds - request_s, 1e-9))


def _outside(frame: pl.DataFrame, url: str, tries: int, token: str | None) -> tuple[float, int]:
    """Seconds of a request outside the server, and its bytes both ways."""
    outside = []
    for _ in range(tries + 1):
        scores = score_csv(frame, url, chunk_size=None, concurrency=1, progress=False, token=token)
        record = scores.records[0]
        outside.append(record.seconds - record.predict_s - record.encode_s)  # the body is decoded while it arrives
    seconds = statistics.median(outside[1:])  # the first warms the server for this size
    if math.isnan(seconds):
        raise DeploymentError(f"{url} reports no times (Server-Timing), so its network cannot be measured.")
    return seconds, record.bytes + scores.predictions.nbytes


@contextmanager
def slow_network(url: str, round_trip_ms: float = 20.0, megabits: float = 100.0) -> Iterator[str]:
    """The address of a server behind a slower link, simulated by a process on this machine until the block ends.

    A round trip takes `round_trip_ms` longer, and a new connection costs one; all connections together carry `megabits`
    million bits per second in each direction. No packet is lost.
    """
    if round_trip_ms < 0 or megabits <= 0:
        raise DeploymentError("round_trip_ms must be 0 or more, and megabits more than 0.")
    parts = urlsplit(url)
    arguments = map(str, (parts.hostname, parts.port or 80, round_trip_ms, megabits))
    command = [sys.executable, "-P", str(_SLOW_LINK), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise DeploymentError("The simulated network did not start.")
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            process.kill()
