"""One job of ruo's client in a new process: ``python -m ruo.compare.score_job testset.csv http://localhost:8000``.

The clock starts before the reading and stops when all predictions are in one array; imports are outside.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from ruo.client.records import RequestRecord
from ruo.client.scoring import iter_scores, score_csv
from ruo.errors import RuoError
from ruo.machine import peak_rss_mb

__all__ = ["main"]


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
    measured = {
        "total_s": time.perf_counter() - began,
        "client_cpu_s": time.process_time() - cpu_before,
        "forming_s": scores.timings.forming_s,
        "sending_s": scores.timings.sending_s,
        "rows": len(scores),
        "requests": len(scores.records),
        "off_mean_percent": _off_mean_percent(scores.records),
        "peak_rss_mb": peak_rss_mb(),
    }
    if answers:
        np.save(answers, scores.predictions)
    click.echo(json.dumps(measured))


def _off_mean_percent(records: Sequence[RequestRecord]) -> float:
    """How far a worker's number of rows is from the mean, in percent, at most."""
    _, workers = np.unique([record.worker for record in records], return_inverse=True)
    rows = np.bincount(workers, [record.rows for record in records])
    return float(100 * np.abs(rows / rows.mean() - 1).max())


if __name__ == "__main__":
    main()
