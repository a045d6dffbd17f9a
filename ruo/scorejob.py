"""One job of ruo's client in a process of its own: ``python -m ruo.scorejob testset.csv http://localhost:8000``.

The clock runs from before the reading until all predictions are there, in one array; imports are outside. Prints what
was measured as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click
import numpy as np

from ruo.errors import RuoError
from ruo.memory import peak_rss_mb
from ruo.scoring import score_csv

__all__ = ["main"]


@click.command()
@click.argument("testset", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--chunk-size", default=10_000, show_default=True, help="Rows per request; 0 for the whole table.")
@click.option("--wire", default="v2", show_default=True, help="v2, v2-json, v1 or paper.")
@click.option("--answers", type=click.Path(path_type=Path), help="Write the predictions here, as .npy.")
def main(testset: Path, url: str, chunk_size: int, wire: str, answers: Path | None) -> None:
    """Score TESTSET with the model at URL and print what it took."""
    began = time.perf_counter()
    try:
        scores = score_csv(testset, url, chunk_size=chunk_size or None, wire=wire, progress=False)
    except RuoError as error:
        click.echo(json.dumps({"error": str(error), "peak_rss_mb": peak_rss_mb()}))
        sys.exit(1)
    total_s = time.perf_counter() - began
    measured = {
        "total_s": total_s,
        "forming_s": scores.timings.forming_s,
        "sending_s": scores.timings.sending_s,
        "rows": len(scores),
        "requests": len(scores.records),
        "peak_rss_mb": peak_rss_mb(),
    }
    if answers:
        np.save(answers, scores.predictions)
    click.echo(json.dumps(measured))


if __name__ == "__main__":
    main()
