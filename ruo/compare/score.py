"""One job in a new process: a table is scored once, and what it took is printed as one line of JSON.

The clock starts before the reading and stops when all predictions are in one array; imports are outside.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl

from ruo.errors import RuoError, TableError
from ruo.machine import peak_rss_mb
from ruo.model.compiled import compile_keras
from ruo.model.features import read_features
from ruo.tables import ModelInput, open_table
from ruo.wire.messages import Array

Model = Callable[[Array], Array]


def compile_model(path: Path, features: int, rows: int, rows_per_call: int) -> Model:
    """The model as a function of (n, features) float32, compiled, and warmed with each number of rows to come."""
    import keras

    model = keras.saving.load_model(path, compile=False)
    function = compile_keras(keras, model, "f32")
    shape = [-1, *model.input_shape[1:]]
    for size in {min(rows, rows_per_call), rows % rows_per_call} - {0}:
        function([np.zeros((size, features), np.float32).reshape(shape)])
    return lambda x: function([x.reshape(shape)])[0]


def scan(table: Path, model: Path | None = None) -> tuple[pl.LazyFrame, list[str]]:
    """A CSV or Parquet file, and the names of its features, in the model's order if it knows them; float32 from a CSV.

    polars chooses the type of the labels: it reads 0 and 1 as whole numbers, which is faster. Raises TableError for a
    table that does not have the model's features, or another separator than the comma.
    """
    opened = open_table(table)
    if model:
        opened.match(model.name, [ModelInput("", None, read_features(model))])
    lazy = pl.scan_parquet(table) if table.suffix == ".parquet" else pl.scan_csv(table)
    if len(names := lazy.collect_schema().names()) != len(opened.names):
        raise TableError(f"{table.name} is not separated by commas, and only ruo finds that out; write it with commas.")
    as_written = dict(zip(opened.names, names, strict=True))  # with the blanks around them
    features = [as_written[name] for name in opened.features]
    if table.suffix != ".parquet":
        lazy = pl.scan_csv(table, schema_overrides=dict.fromkeys(features, pl.Float32))
    return lazy, features


def score_batches(batches: Iterable[Any], score: Callable[[Any], Array], threads: int = 1) -> Array:
    """The predictions of all rows; while batches are read, up to `threads` earlier ones are scored."""
    with ThreadPoolExecutor(threads) as pool:
        calls = [pool.submit(score, batch) for batch in batches]
        return np.concatenate([call.result() for call in calls])


def report(predictions: Array, answers: Path | None, **measured: float) -> None:
    """Save predictions in the file `answers`, as .npy, and print what was measured."""
    if answers:
        np.save(answers, predictions)
    click.echo(json.dumps({**measured, "rows": len(predictions), "peak_rss_mb": peak_rss_mb()}))


_path = click.Path(path_type=Path)
answers_option = click.option("--answers", type=_path, help="Write the predictions here, as .npy.")


@click.group()
def main() -> None:
    """Score a table once, and print what it took as one line of JSON."""


@main.command()
@click.argument("testset", type=_path)
@click.argument("url")
@click.option("--chunk-size", default=10_000, show_default=True, help="Rows per request; 0 for the whole table.")
@click.option("--wire", default="v2", show_default=True, help="v2, v2-json, v1 or paper.")
@answers_option
def client(testset: Path, url: str, chunk_size: int, wire: Any, answers: Path | None) -> None:
    """Score TESTSET with ruo's client and the model at URL, in requests of exactly this size."""
    from ruo.client.scoring import score_csv

    began, cpu_before = time.perf_counter(), time.process_time()
    try:
        scores = score_csv(testset, url, chunk_size=chunk_size or None, wire=wire, retries=0, progress=False)
    except RuoError as error:
        click.echo(json.dumps({"error": str(error), "peak_rss_mb": peak_rss_mb()}))
        raise SystemExit(1) from error
    total_s, client_cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    rows = scores.balance()["rows"]
    off_mean = float(100 * (rows / rows.mean() - 1).abs().max())  # of a worker's number of rows
    report(scores.predictions, answers, total_s=total_s, client_cpu_s=client_cpu_s, off_mean_percent=off_mean)


@main.command()
@click.argument("testset", type=_path)
@click.argument("model", type=_path)
@click.option("--rows-per-call", default=50_000, show_default=True)
@click.option("--again", is_flag=True, help="Score once for each line of standard input, which names the answers.")
@answers_option
def bound(testset: Path, model: Path, rows_per_call: int, again: bool, answers: Path | None) -> None:
    """Score TESTSET with MODEL in this process, without a network: a bound for every client and server.

    polars reads batches with all CPUs while Keras scores the batches before, with all CPUs, in one call each. The model
    is compiled and warm before the clock starts.
    """
    try:
        lazy, features = scan(testset, model)
    except TableError as error:
        raise click.ClickException(str(error)) from error
    rows = lazy.select(pl.len()).collect().item()
    if not rows:
        raise click.ClickException(f"{testset.name} has no rows below its header: there is nothing to score.")
    function = compile_model(model, len(features), rows, rows_per_call)
    for path in map(Path, map(str.strip, sys.stdin)) if again else [answers]:
        began = time.perf_counter()
        batches = lazy.select(features).collect_batches(chunk_size=rows_per_call, maintain_order=True)
        try:
            predictions = score_batches(batches, lambda batch: function(batch.to_numpy(order="c")))
        except pl.exceptions.PolarsError as error:
            what = f"{testset.name} cannot be read by polars alone ({str(error).splitlines()[0]})"
            raise click.ClickException(f"{what}; mend that cell or column.") from error
        report(predictions, path, total_s=time.perf_counter() - began)


if __name__ == "__main__":
    main()
