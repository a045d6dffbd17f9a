"""The network between client and server: what it costs, measured; and a slower one, simulated on this machine."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import polars as pl

from ruo.client.scoring import score_csv
from ruo.errors import DeploymentError
from ruo.table.reading import open_table

if TYPE_CHECKING:
    from ruo.table.reading import Source

__all__ = ["Network", "measure_network", "slow_network"]

# Run by its path, since importing its package first takes a second.
_SLOW_LINK = Path(__file__).with_name("slow_link.py")


class Network(NamedTuple):
    """`request_s`, the seconds that a small request spends outside the server, and the throughput `bytes_per_s`."""

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
    """Latency and throughput of the network to a server, from requests of one row and of `rows` rows, one at a time.

    The server's own times are subtracted, and the median of the `tries` counts. On one machine the bytes are only
    copied, so `bytes_per_s` is then that of memory. Raises DeploymentError where the server reports no times.
    """
    table = open_table(source, label_prefix)
    frame = pl.DataFrame(next(iter(table.blocks(rows))).features, schema=table.features)
    small, large = (_outside(frame[:count], url, tries, token) for count in (1, len(frame)))
    if not small[1] or len(frame) < 2:
        raise DeploymentError(f"{url} reports no times (Server-Timing), so its network cannot be measured.")
    seconds = max(large[0] - small[0], 1e-9)
    return Network(small[0], (large[1] - small[1]) / seconds)


def _outside(frame: pl.DataFrame, url: str, tries: int, token: str | None) -> tuple[float, int]:
    """Seconds of a request outside the server, and the bytes that went there and back; 0 bytes where it reports no times."""
    outside = []
    for _ in range(tries + 1):
        scores = score_csv(frame, url, chunk_size=None, concurrency=1, progress=False, token=token)
        record = scores.records[0]
        outside.append(record.seconds - record.predict_s - record.encode_s)  # the body is decoded as it comes
    seconds = statistics.median(outside[1:])  # the first warms the server for this size
    return seconds, 0 if math.isnan(seconds) else record.bytes + scores.predictions.nbytes


@contextmanager
def slow_network(url: str, round_trip_ms: float = 20.0, megabits: float = 100.0) -> Iterator[str]:
    """The address of a server as it is seen over a slower link, until the block ends.

    It is a simulation, by a process of its own: no packet is lost, and the forwarding takes CPU of this machine.

    Parameters
    ----------
    url : str
        The server's address.
    round_trip_ms : float
        The latency that a round trip gains; a new connection needs one round trip before it carries anything.
    megabits : float
        The throughput in million bits per second, in each direction, of all connections together.
    """
    if round_trip_ms < 0 or megabits <= 0:
        raise DeploymentError("round_trip_ms must be 0 or more, and megabits more than 0.")
    parts = urlsplit(url)
    options = ["--round-trip-ms", str(round_trip_ms), "--megabits", str(megabits)]
    command = [sys.executable, "-P", str(_SLOW_LINK), str(parts.hostname), str(parts.port or 80), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise DeploymentError("The simulated network did not start.")
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            process.kill()
