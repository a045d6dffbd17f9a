"""Typical uses of ruo, checked by mypy and never run."""

from contextlib import closing
from typing import assert_type

import pandas as pd
import polars as pl

import ruo
from ruo import Scores, ascore_csv, iter_scores, local_server, score_csv


def uses(frame: pd.DataFrame, table: pl.DataFrame) -> None:
    """Every kind of source and address."""
    scores = score_csv("testset.csv", "http://localhost:8000")
    assert_type(scores, Scores)
    assert_type(scores.timings.total_s, float)
    assert_type(scores.requests, pd.DataFrame)
    assert_type(len(scores), int)
    score_csv(frame, ["http://a:8000", "http://b:8000"], chunk_size=None, errors="collect", progress=True)
    score_csv(table, "http://a:8000/v2/models/m", wire="v1", pipelined=False, retries=0, timeout=1.5, token="t")
    flows = ruo.table("flows.csv", label="Label", keep=["id"], null_values=["?"])
    score_csv(flows, "unix:///run/ruo.sock", headers={"Host": "m"}, datatype="FP64", argmax=True)
    assert_type(ruo.score_to_file(flows, "http://a:8000", "out.parquet", checkpoint="run.ruo").rows, int)
    with local_server("mlp.keras", workers=2) as server, closing(iter_scores("t.csv", server, chunk_size=1)) as blocks:
        assert_type(next(blocks).start, int)
        score_csv("testset.csv", server.urls)


def misuses() -> None:
    """A wrong keyword or type is an error; mypy says so where one of these ignores is not needed."""
    score_csv("testset.csv", "http://a:8000", chunksize=1_000)  # type: ignore[call-arg]
    score_csv("testset.csv", "http://a:8000", retries="many")  # type: ignore[arg-type]
    score_csv("testset.csv", "http://a:8000", errors="ignore")  # type: ignore[arg-type]
    score_csv("testset.csv", "http://a:8000", wire="v3")  # type: ignore[arg-type]
    score_csv("testset.csv", "http://a:8000", datatype="float")  # type: ignore[arg-type]
    iter_scores("testset.csv", "http://a:8000", errors="collect")  # type: ignore[call-arg]
    ruo.score_to_file("testset.csv", "http://a:8000", "p.csv", pipelined=False)  # type: ignore[call-arg]


async def awaits() -> None:
    """The same under `await`."""
    assert_type(await ruo.ascore_csv("testset.csv", "http://localhost:8000"), Scores)
    await ascore_csv("testset.csv", "http://localhost:8000", concurrency=4)
