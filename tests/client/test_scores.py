"""The result of a run: its tables, its files and its line."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo import Scores, ScoringError
from ruo.client.records import ModelInfo, RequestRecord, difference
from ruo.client.scores import Timings


def record(start: int, rows: int, server: str, **others: Any) -> RequestRecord:
    """The record of a request that was answered."""
    return RequestRecord(start, rows, 100, 1, server, f"{server}/1", "1", **{"status": 200, "seconds": 0.5, **others})


@pytest.fixture
def scores() -> Scores:
    """Ten rows of 2 x 2 outputs: four from a, three from b, two that failed, and one that was resumed."""
    records = [record(4, 3, "b", began_s=12.0), record(0, 4, "a", began_s=10.0)]
    records += [record(9, 1, "a", resumed=True), record(7, 2, "b", status=500)]
    errors = [ScoringError("Row 8 is bad.", 8, 9, 500), ScoringError("Row 7 is bad.", 7, 8, 500)]
    predictions = np.arange(40, dtype=np.float32).reshape(10, 2, 2)
    predictions[7:9] = np.nan
    model, timings = ModelInfo("m", "3", "test", output_name="y", sha256="abc"), Timings(1, 2, 4, 2.5)
    more: dict[str, Any] = {"records": records, "errors": errors, "not_scored": 2, "key": {"data": "d"}}
    return Scores(predictions, np.arange(10), timings=timings, model=model, **more)


def test_requests_and_failures_are_in_row_order(scores: Scores) -> None:
    """There is a row per request, whose clock begins with the first one, and per range that was not scored."""
    requests, failures = scores.requests, scores.failures
    assert list(requests.columns) == [field.name for field in dataclasses.fields(RequestRecord)]
    assert requests["start"].tolist() == [0, 4, 7, 9]
    assert requests["began_s"].tolist()[:2] == [0, 2]
    assert requests["resumed"].tolist() == [False, False, False, True]
    assert failures.columns.tolist() == ["start", "stop", "status", "reason"]
    assert failures.values.tolist() == [[7, 8, 500, "Row 7 is bad."], [8, 9, 500, "Row 8 is bad."]]
    assert (requests.index.tolist(), failures.index.tolist()) == ([0, 1, 2, 3], [0, 1])


def test_balance_is_of_what_was_answered_now(scores: Scores) -> None:
    """Failed and resumed requests do not count, the shares add up to 1, and 80 columns hold the names of pods."""
    pod = "ruo-server-5f6d8c9b7d-x2x7q"
    records = [dataclasses.replace(each, worker=each.worker.replace("a", pod)) for each in scores.records]
    balance = dataclasses.replace(scores, records=records).balance()

    assert list(balance.columns) == ["worker", "rows", "requests", "seconds", "share"]
    assert balance.values.tolist() == [["b/1", 3, 1, 0.5, 3 / 7], [f"{pod}/1", 4, 1, 0.5, 4 / 7]]
    assert max(map(len, str(balance).splitlines())) <= 80


def test_every_output_is_a_column(scores: Scores, tmp_path: Path) -> None:
    """Outputs of any shape are flat columns, in a DataFrame and in files; labels come last. The metadata say what was scored."""
    frame = scores.to_pandas()
    assert list(frame.columns) == ["prediction_0", "prediction_1", "prediction_2", "prediction_3", "label"]
    assert frame["prediction_2"].tolist()[:3] == [2, 6, 10]
    scores.to_csv(tmp_path / "p.csv")
    scores.to_parquet(tmp_path / "p.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "p.csv", dtype=dict(frame.dtypes)), frame)
    columns = {column.name: column.to_numpy() for column in pl.read_parquet(tmp_path / "p.parquet")}
    pd.testing.assert_frame_equal(pd.DataFrame(columns), frame)
    assert "label" not in dataclasses.replace(scores, labels=None).to_pandas()
    facts = json.loads(pl.read_parquet_metadata(tmp_path / "p.parquet")["ruo"])
    model = {"model": "m", "version": "3", "sha256": "abc", "output": "y"}
    assert facts == {"data": "d", **model, "rows": 10, "not_scored": 2}


def test_the_repr_says_what_is_missing(scores: Scores) -> None:
    """One line has the rows, the time, the requests and the model; lost rows and rows that are not finite are named."""
    beginning = "Scores(10 rows x 2 x 2 outputs, 4.00 s (2 rows/s), 4 requests, model 'm' version 3, "
    assert repr(scores) == beginning + "2 rows not scored)"
    whole = dataclasses.replace(scores, not_scored=0, not_finite=1_234)
    assert repr(whole) == beginning + "all rows scored, 1,234 rows with NaN or Infinity)"
    one: dict[str, Any] = {"predictions": scores.predictions[:1, 0, :1], "records": scores.records[:1], "not_scored": 1}
    single = dataclasses.replace(scores, model=ModelInfo("m", "", ""), not_finite=1, **one)
    end = "1 request, model 'm', 1 row not scored, 1 row with NaN or Infinity)"
    assert repr(single) == f"Scores(1 row x 1 output, 4.00 s (2 rows/s), {end}"
    assert len(scores) == 10
    assert scores in [scores]  # whether all their cells are equal is for numpy to say
    assert scores != copy.copy(scores)


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ({"wire": "v2"}, {"wire": "v2"}, None),
        ({"wire": "v2"}, {"wire": "v1"}, "another wire (v2, not v1)"),
        ({}, {"output": "y" * 16}, f"another output (none, not {'y' * 16})"),
        ({"output": "y" * 17}, {"output": 0}, "another output (yyyyyyyyyyyy..., not 0)"),
    ],
)
def test_a_difference_is_named(one: dict[str, Any], other: dict[str, Any], what: str | None) -> None:
    """Both values are shown, long ones by their beginning."""
    assert difference(one, other) == what
