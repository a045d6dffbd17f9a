"""One job on a table of another source or length, in a new process; what it took is printed as one line of JSON.

A DataFrame is pandas', made from a CSV before the clock starts. Labels are read too.
"""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from benchmarks.bare_socket import CONNECTIONS, CPUS, processes
from ruo.client.scoring import iter_scores, score_csv, score_to_file
from ruo.compare.score import Model, answers_option, compile_model, report, scan, score_batches
from ruo.errors import ScoringError
from ruo.machine import peak_rss_mb, reset_peak_rss
from ruo.wire.messages import Array

_path = click.Path(exists=True, path_type=Path)
_in_memory = click.option("--in-memory", is_flag=True, help="Make a DataFrame of TABLE, a CSV, beforehand.")


@click.group()
def main() -> None:
    """Score a table once, and print what it took as one line of JSON."""


@main.command()
@click.argument("table", type=_path)
@click.argument("url")
@click.option("--by", type=click.Choice(["score_csv", "iter_scores", "score_to_file"]), default="score_csv")
@click.option("--times", default=1, help="The table is so many times this file.")
@_in_memory
@answers_option
def client(table: Path, url: str, by: str, times: int, in_memory: bool, answers: Path | None) -> None:
    """Score TABLE with ruo and the model at URL; the predictions for its last repetition are the answers."""
    source: Any = pl.read_csv(table).to_pandas() if in_memory else [table] * times if times > 1 else table
    is_csv = table.suffix == ".csv"  # whose rows are counted without polars, which keeps the memory that it takes
    length = table.read_bytes().count(b"\n") - 1 if is_csv else pl.scan_parquet(table).select(pl.len()).collect().item()
    before, rows, last = length * (times - 1), 0, []
    reset_peak_rss()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scored.parquet"
        began, cpu_before = time.perf_counter(), time.process_time()
        if by == "score_to_file":
            rows = score_to_file(source, url, file, progress=False).rows
        else:
            quiet: Any = {"progress": False}
            blocks: Any = [score_csv(source, url, **quiet)] if by == "score_csv" else iter_scores(source, url, **quiet)
            for block in blocks:
                rows += len(block.predictions)
                if rows > before:
                    last.append(block.predictions[before - rows :])
        total_s, cpu_s, memory = time.perf_counter() - began, time.process_time() - cpu_before, peak_rss_mb()
        if rows != length * times:
            raise ScoringError(f"{rows:,} of {length * times:,} rows came back.")
        if by == "score_to_file":
            last = [pl.scan_parquet(file).select(pl.col("^prediction_.*$")).tail(length).collect().to_numpy()]
    rates = {
        "rows_per_s": rows / total_s,
        "s_per_million": 1e6 * total_s / rows,
        "cpu_s_per_million": 1e6 * cpu_s / rows,
    }
    report(np.concatenate(last), answers, total_s=total_s, client_cpu_s=cpu_s, client_mb=memory, **rates)


@main.command()
@click.argument("table", type=_path)
@click.argument("model", type=_path)
@click.option("--rows", default=50_000, help="Rows of a call.")
@click.option("--bare-socket", is_flag=True, help="Compute in other processes behind a socket.")
@_in_memory
@answers_option
def bound(table: Path, model: Path, rows: int, bare_socket: bool, in_memory: bool, answers: Path | None) -> None:
    """Score TABLE with MODEL without ruo: read and compute, at the same time, and nothing else."""
    frame = pl.read_csv(table).to_pandas() if in_memory else None
    lazy, features = scan(table)
    labels = [name for name in lazy.collect_schema().names() if name not in features]
    function: Model

    def score(batch: Any) -> Array:
        batch[labels].to_numpy().argmax(axis=1)
        x = batch[features]
        return function(x.cast(pl.Float32).to_numpy(order="c") if frame is None else x.to_numpy(np.float32))

    with ExitStack() as stack:
        if bare_socket:
            threads, function = CONNECTIONS * CPUS, stack.enter_context(processes(model, len(features)))
        else:  # one thread turns columns into rows while the model computes those of the other
            threads, function = 2, compile_model(model, len(features), rows, rows)
        began = time.perf_counter()
        batches: Any = lazy.collect_batches(chunk_size=rows, maintain_order=True)
        if frame is not None:
            batches = (frame.iloc[at : at + rows] for at in range(0, len(frame), rows))
        predictions = score_batches(batches, score, threads)
        report(predictions, answers, total_s=time.perf_counter() - began)


if __name__ == "__main__":
    main()
