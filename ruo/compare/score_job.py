"""One job of ruo's client in a new process: ``python -m ruo.compare.score_job testset.csv http://localhost:8000``.

The clock starts before the reading and stops when all predictions are in one array; imports are outside.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
import numpy as np

from ruo.client.scoring import iter_scores, score_csv
from ruo.errors import RuoError
from ruo.machine import peak_rss_mb


@click.command()
@click.argument("testset", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--chunk-size", default=10_000, show_default=True, help="Rows per request; 0 for the whole table.")
@click.option("--wire", default="v2", show_default=True, help="v2, v2-json, v1 or paper.")
@click.option("--answers", type=click.Path(path_type=Path), help="Write the predictions here, as .npy.")
@click.option("--by-blocks", is_flag=True, help="Keep no predictions, for a table of any length.")
def main(testset: Path, url: str, chunk_size: int, wire: str, answers: Path | None, by_blocks: bool) -> None:
    """Score TESTSET with the model at URL and print what it took as one line of JSON."""
    if by_blocks:
        rows = sum(len(block.predictions) for block in iter_scores(testset, url, chunk_size=chunk_size, wire=wire))
        click.echo(json.dumps({"rows": rows, "peak_rss_mb": peak_rss_mb()}))
        return
    began, cpu_before = time.perf_counter(), time.process_time()
    try:
        scores = score_csv(testset, url, chunk_size=chunk_size or None, wire=wire, progress=False)
    except RuoError as error:
        click.echo(json.dumps({"error": str(error), "peak_rss_mb": peak_rss_mb()}))
        sys.exit(1)
    total_s, client_cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    _, workers = np.unique([record.worker for record in scores.records], return_inverse=True)
    rows_by_worker = np.bincount(workers, [record.rows for record in scores.records])
    measured = {
        "total_s": total_s,
        "client_cpu_s": client_cpu_s,
        "rows": len(scores),
        # how far a worker's number of rows is from the mean, at most
        "off_mean_percent": float(100 * np.abs(rows_by_worker / rows_by_worker.mean() - 1).max()),
        "peak_rss_mb": peak_rss_mb(),
    }
    if answers:
        np.save(answers, scores.predictions)
    click.echo(json.dumps(measured))


if __name__ == "__main__":
    main()
