"""The network between client and server: what it costs, measured; and a slower one, simulated on this machine.

``python -m ruo.experiment.network HOST PORT --round-trip-ms 20 --megabits 100`` forwards connections as a link of that kind would:
it is what `slow_network` starts, in a process of its own so that it takes no time of the client's.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import click
import polars as pl

from ruo.client.scoring import score_csv
from ruo.errors import DeploymentError
from ruo.table import open_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["Network", "main", "measure_network", "slow_network"]

_PIECE = 1 << 16
_BURST_S = 0.01  # what a link's queue makes up for when this process wakes late


class Network(NamedTuple):
    """`request_s` seconds that a small request spends outside the server, and `bytes_per_s` in which large ones travel."""

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
    """What the way to a server and back costs, from requests of one row and of `rows` rows, one at a time.

    The times that the server says it worked are taken off; the median of the `tries` counts. On one machine the bytes
    are only copied, so `bytes_per_s` is then that of memory. Raises DeploymentError where the server tells no times.
    """
    table = open_table(source, label_prefix)
    frame = pl.DataFrame(next(iter(table.blocks(rows))).features, schema=table.features)
    small, large = (_outside(frame[:count], url, tries, token) for count in (1, len(frame)))
    if not small[1] or len(frame) < 2:
        raise DeploymentError(f"{url} does not say how long it works (Server-Timing), so the network cannot be told.")
    seconds = max(large[0] - small[0], 1e-9)
    return Network(small[0], (large[1] - small[1]) / seconds)


def _outside(frame: pl.DataFrame, url: str, tries: int, token: str | None) -> tuple[float, int]:
    """Seconds of a request outside the server, and the bytes that went there and back; 0 bytes where it tells no times."""
    found = []
    for _ in range(tries + 1):
        scores = score_csv(frame, url, chunk_size=None, concurrency=1, progress=False, token=token)
        record = scores.records[0]
        found.append(record.seconds - record.predict_s - record.encode_s)  # the body is decoded as it comes
    seconds = statistics.median(found[1:])  # the first warms the server for this size
    return seconds, 0 if math.isnan(seconds) else record.bytes + scores.predictions.nbytes


@contextmanager
def slow_network(url: str, round_trip_ms: float = 20.0, megabits: float = 100.0) -> Iterator[str]:
    """The address of a server as it is seen over a slower link, until the block ends.

    round_trip_ms: what a round trip takes longer, of which a new connection needs one before it carries anything.
    megabits: how many million bits the link carries in a second, in each direction, for all connections together.

    It is a simulation: no packet is lost, and the forwarding takes CPU of this machine.
    """
    if round_trip_ms < 0 or megabits <= 0:
        raise DeploymentError("round_trip_ms must be 0 or more, and megabits more than 0.")
    parts = urlsplit(url)
    command = [
        sys.executable, "-m", "ruo.experiment.network", str(parts.hostname), str(parts.port or 80),
        "--round-trip-ms", str(round_trip_ms), "--megabits", str(megabits),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise DeploymentError("The simulated network did not start.")
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            process.kill()


class _Link:
    """One direction: bytes leave one after the other at its rate, and arrive later by half a round trip."""

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._delay_s = delay_s
        self._free_at = 0.0

    async def carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connecting_s: float = 0.0
    ) -> None:
        """Forward until the sender ends; what is on its way is bounded by what the link holds."""
        loop = asyncio.get_running_loop()
        begun = loop.time() + connecting_s
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.create_task(self._arrive(on_the_way, writer))
        try:
            while piece := await reader.read(_PIECE):
                now = loop.time()
                self._free_at = max(self._free_at, now - _BURST_S, begun) + len(piece) / self._bytes_per_s
                await asyncio.sleep(self._free_at - now)
                on_the_way.put_nowait((max(self._free_at, now) + self._delay_s, piece))
        finally:
            on_the_way.put_nowait((loop.time() + self._delay_s, b""))
            await arriving

    async def _arrive(self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while True:
                due, piece = await on_the_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not piece:
                    writer.write_eof()
                    return
                writer.write(piece)
                await writer.drain()


async def _forward(host: str, port: int, round_trip_s: float, bytes_per_s: float) -> None:
    there, back = (_Link(bytes_per_s, round_trip_s / 2) for _ in range(2))

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, port)
            with suppress(OSError):
                await asyncio.gather(
                    there.carry(reader, far_writer, connecting_s=round_trip_s), back.carry(far_reader, writer)
                )
            far_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    click.echo(server.sockets[0].getsockname()[1])
    sys.stdout.flush()
    # whoever started this holds the other end of standard input; when it is gone, so is the need
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@click.command()
@click.argument("host")
@click.argument("port", type=int)
@click.option("--round-trip-ms", default=20.0, show_default=True)
@click.option("--megabits", default=100.0, show_default=True, help="Million bits per second, in each direction.")
def main(host: str, port: int, round_trip_ms: float, megabits: float) -> None:
    """Forward connections to HOST PORT as a slow link would; prints the port to connect to, ends with standard input."""
    asyncio.run(_forward(host, port, round_trip_ms / 1e3, megabits * 1e6 / 8))


if __name__ == "__main__":
    main()
