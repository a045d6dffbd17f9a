"""What a row costs each part of the system: the client, the replicas and the network, which may be a simulated one.

One client reads a table while replicas score it. So a job takes at least as long as its slowest part alone, and more
replicas shorten only their own part.
"""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pandas as pd
import polars as pl

from ruo.answer import cell
from ruo.client.scoring import score_csv
from ruo.errors import ArgumentError, DeploymentError, ExperimentError
from ruo.machine import cpu_limit, discarded_stderr
from ruo.tables import Source, open_table
from ruo.timing import time_runs

# of which a kernel is used once at each position of the output
_COUNTED = ("Dense", "Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D")


class Network(NamedTuple):
    """The seconds that a small request spends outside the server, and the throughput in bytes per second, or infinity."""

    request_s: float
    bytes_per_s: float

    def sentence(self) -> str:
        """The network in words."""
        rate = f"at {self.bytes_per_s / 1e6:,.0f} MB/s ({8 * self.bytes_per_s / 1e6:,.0f} Mbit/s)"
        rate = rate if math.isfinite(self.bytes_per_s) else "faster than can be measured with this table"
        return f"A request spends {1e3 * self.request_s:.3g} ms outside the server, and bytes travel {rate}."


@dataclass(frozen=True)
class Costs:
    """What a row costs each part of the system, in seconds of wall clock unless noted."""

    read_s: float  # the client's reading and forming
    client_cpu_s: float  # CPU seconds of the client
    replica_s: float  # of one replica
    row_bytes: float  # that the network carries
    network: Network
    start_s: float = 0.0  # of a job besides its rows, such as asking the server for its model
    cores: float | None = None  # CPUs that client and replicas share; None where they share none
    flops: float | None = None  # floating-point operations of the model, where they are known

    def parts(self, replicas: float) -> dict[str, float]:
        """Seconds that a row takes in each part, by the part's name; the largest bounds the job."""
        parts = {
            "the replicas": self.replica_s / replicas,
            "the client's reading": self.read_s,
            "the network": self.row_bytes / self.network.bytes_per_s,
        }
        if self.cores is not None:
            parts["the CPUs that client and replicas share"] = (self.client_cpu_s + self.replica_s) / self.cores
        return parts

    def bottleneck(self, replicas: float) -> str:
        """The part that bounds the job with so many replicas."""
        return max((seconds, part) for part, seconds in self.parts(replicas).items())[1]

    def seconds(self, replicas: float, rows: float) -> float:
        """The predicted seconds of a job: its start, a request's latency, and its rows at the slowest part's pace."""
        return self.start_s + self.network.request_s + rows * max(self.parts(replicas).values())

    def speed_up(self, replicas: float, rows: float) -> float:
        """The predicted speed-up of so many replicas over one."""
        return self.seconds(1, rows) / self.seconds(replicas, rows)

    def over(self, network: Network) -> Costs:
        """The same costs over another network."""
        return replace(self, network=network)


def measure_costs(source: Source, runs: pd.DataFrame, url: str, *, shared: bool, flops: float | None = None) -> Costs:
    """What a row costs each part, from the measured runs of a sweep over one model, with one replica among them.

    `url` is the server's address; `shared` says whether client and replicas are on one machine.
    """
    good = runs[runs["error"].isna()]
    alone = good[good["replicas"].fillna(1) == 1]
    if not len(alone):
        raise ExperimentError("No run with one replica succeeded, so there are no costs to measure; see its error.")
    rows = float(alone["rows"].iloc[0])
    best = alone.groupby("rows_per_request")["total_s"].mean().idxmin()
    median = alone[alone["rows_per_request"] == best].median(numeric_only=True)
    reading = time_runs(lambda: sum(1 for _ in open_table(source).blocks(10_000)), runs=3, warmup=0)
    costs = Costs(
        read_s=min(reading.samples) / rows,
        client_cpu_s=float(good["client_cpu_s"].median()) / rows,
        replica_s=float(median["server_s"]) / rows,
        row_bytes=float(median["bytes"]) / rows,
        network=measure_network(source, url),
        cores=cpu_limit() if shared else None,
        flops=flops,
    )
    return replace(costs, start_s=max(0.0, float(median["total_s"]) - costs.seconds(1, rows)))


def table_of_costs(costs: dict[str | None, Costs]) -> pd.DataFrame:
    """What a row costs each part, a column per model: microseconds, bytes and operations."""
    columns = {
        name or "model": {
            "one replica, µs": 1e6 * cost.replica_s,
            "the client's reading, µs": 1e6 * cost.read_s,
            "the client's CPU, µs": 1e6 * cost.client_cpu_s,
            "the network, µs": 1e6 * cost.row_bytes / cost.network.bytes_per_s,
            "bytes": cost.row_bytes,
            "operations": cost.flops,
        }
        for name, cost in costs.items()
    }
    return pd.DataFrame(columns, dtype=object).map(cell).rename_axis("a row costs")


def measure_network(source: Source, url: str, rows: int = 10_000, tries: int = 7) -> Network:
    """Latency and throughput of the network to a server: requests of one row and of many, less the server's own times.

    Each is sent `tries` times, and the median counts. For a server on this machine, the throughput is that of memory.
    """
    table = open_table(source)
    frame = pl.DataFrame(next(table.blocks(rows)).array, schema=table.features)
    if len(frame) < 2:
        raise ArgumentError(f"{table.name} has one row; pass a table of two rows or more to measure the network.")
    (request_s, request_bytes), (seconds, size) = (_outside(frame[:size], url, tries + 1) for size in (1, rows))
    return Network(request_s, (size - request_bytes) / (seconds - request_s) if seconds > request_s else math.inf)


def _outside(frame: pl.DataFrame, url: str, count: int) -> tuple[float, int]:
    """Seconds of a request outside the server, and its bytes both ways; the first of `count` warms the server."""
    runs = [score_csv(frame, url, chunk_size=None, concurrency=1, progress=False) for _ in range(count)]
    records = [scores.records[0] for scores in runs[1:]]
    # decoding is not taken off: the body is decoded while it arrives
    seconds = statistics.median(record.seconds - record.predict_s - record.encode_s for record in records)
    if math.isnan(seconds):
        raise DeploymentError(f"{url} reports no times (Server-Timing), so its network cannot be measured.")
    return seconds, records[0].bytes + runs[0].predictions.nbytes


@contextmanager
def slow_network(url: str, round_trip_ms: float = 20.0, megabits: float = 100.0) -> Iterator[str]:
    """The address of a server behind a slower link, simulated by a process on this machine until the block ends.

    A new connection costs a round trip; all connections share `megabits` million bits per second in each direction.
    """
    if round_trip_ms < 0 or megabits <= 0:
        raise DeploymentError("round_trip_ms must be 0 or more, and megabits more than 0.")
    parts = urlsplit(url)
    arguments = map(str, (parts.hostname, parts.port or 80, round_trip_ms, megabits))
    script = Path(__file__).with_name("slow_link.py")  # run by its path, since importing its package takes a second
    command, pipe = [sys.executable, "-P", str(script), *arguments], subprocess.PIPE
    # at its end a kernel of Jupyter waits for children of its process group until it is killed, and restores no cluster
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise DeploymentError("The simulated network did not start.")
            yield urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        finally:
            process.kill()


def flops_per_row(model: str | os.PathLike[str]) -> int | None:
    """Floating-point operations of the matrix products of a ``.keras`` model for one row: two for each multiply-add.

    None where a layer is used twice, or is of another kind than dense and convolutional ones, such as an LSTM. Activations,
    pooling and normalisation are left out, being small beside these.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with discarded_stderr():  # TensorFlow reports on the CPU when it is imported
        import keras

    try:
        return 2 * _multiply_adds(keras.saving.load_model(Path(model), compile=False))
    except (LookupError, NotImplementedError):  # the latter of models that keep no configuration
        return None


def _multiply_adds(layer: Any) -> int:
    """Those of a layer or a nested model; LookupError where they are not known."""
    if hasattr(layer, "layers"):
        if any(len(one.get("inbound_nodes", ())) > 1 for one in layer.get_config()["layers"]):
            raise LookupError("a layer is used twice")
        return sum(map(_multiply_adds, layer.layers))
    if hasattr(layer, "embeddings") or all(len(weight.shape) < 2 for weight in layer.weights):
        return 0
    if type(layer).__name__ not in _COUNTED:
        raise LookupError("a layer's products are not known")
    shape = layer.output.shape
    # the last axis of the output is the kernel's own, or axis 1 where a model puts the channels first
    positions = shape[1:-1] if getattr(layer, "data_format", "channels_last") == "channels_last" else shape[2:]
    return int(math.prod(layer.kernel.shape) * math.prod(size or 1 for size in positions))
