"""A scorer by itself, and on Dask's workers."""

import os
import pickle
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dask.distributed import Client, LocalCluster

from ruo import ArgumentError, ScoringError, TableError, score_csv
from ruo.deploy.local import LocalServer
from ruo.distributed import Scorer, scorer
from tests.client.conftest import describe, saying

COLUMNS = [f"prediction_{digit}" for digit in range(10)]


@pytest.fixture
def frame(demo) -> pd.DataFrame:
    """The demo's table with a number for each row, in another order than the index."""
    table = pd.read_csv(demo.testset)
    return table.assign(id=np.arange(len(table))[::-1]).sample(frac=1, random_state=0)


@pytest.fixture
def score(server: LocalServer) -> Scorer:
    """A scorer that keeps the number of the row."""
    return scorer(server.urls, keep=["id"], token="secret")


def test_a_pandas_batch_keeps_its_index(score: Scorer, frame: pd.DataFrame, expected: np.ndarray) -> None:
    """Each row has its own predictions, beside the columns to keep, under its own label; no secret is shown."""
    assert "secret" not in repr(score)
    batch = pickle.loads(pickle.dumps(score))(frame)
    assert list(batch.columns) == ["id", *COLUMNS]
    assert batch.index.equals(frame.index)
    np.testing.assert_allclose(batch[COLUMNS], expected[frame.index], atol=1e-5)


@pytest.mark.parametrize("kind", [pa.Table, pa.RecordBatch])
def test_arrow_batches_come_back_as_what_they_were(score: Scorer, frame: pd.DataFrame, kind: type) -> None:
    """Also from an iterator, and where a batch has no rows: the same names and types."""
    batch = kind.from_pandas(frame, preserve_index=False)
    whole, empty = score(iter([batch, batch.slice(0, 0)]))
    assert (type(whole), type(empty)) == (kind, kind)
    assert whole.schema.equals(empty.schema)
    assert (whole.num_rows, empty.num_rows) == (len(frame), 0)
    pd.testing.assert_frame_equal(whole.to_pandas(), score(frame).reset_index(drop=True))


def test_all_columns_come_along_by_default(server: LocalServer, frame: pd.DataFrame) -> None:
    """A batch loses none of its columns, unless some are named to be kept; a name is never taken twice."""
    score = scorer(server.urls, drop=["id"])
    batch = score(frame)
    pd.testing.assert_frame_equal(batch[frame.columns], frame)
    with pytest.raises(TableError, match="has a column 'prediction_0' already"):
        scorer(server.urls, drop=["id", *COLUMNS])(batch)


def test_columns_are_told_by_their_place(server: LocalServer, frame: pd.DataFrame) -> None:
    """A kept name with blanks around it is not there twice, and a missing one is said."""
    table = frame.rename(columns={"id": " id"})
    assert list(scorer(server.urls, keep=[" id"])(table).columns) == [" id", *COLUMNS]
    for batch in (frame, pa.Table.from_pandas(frame)):
        with pytest.raises(TableError, match="The batch has no column 'idd', which keep names"):
            scorer(server.urls, keep=["idd"])(batch)


def test_what_is_no_batch_and_what_is_for_whole_tables_is_refused(score: Scorer, server: LocalServer) -> None:
    """The errors name the type and the keyword."""
    with pytest.raises(TableError, match="A list is no batch"):
        score([1, 2])
    with pytest.raises(ArgumentError, match="checkpoint= is for a whole table"):
        scorer(server.urls, checkpoint="x")
    with pytest.raises(ArgumentError, match="No server is given"):
        scorer([])


def test_columns_that_cannot_be_read_end_in_a_sentence(scripted, answers) -> None:
    """Of Arrow, and where a name that is kept is there twice; `keep` may be an index of pandas."""
    score = scorer(scripted(answers).url, keep=pd.Index(["id"]))
    features = dict.fromkeys("abc", pa.array([1.0, 2.0]))
    assert score(pa.table({"id": ["x", "y"], **features}))["prediction_0"].to_pylist() == [3.0, 6.0]
    wide = pa.array([1, 2]).cast(pa.decimal256(60, 2))
    double = pa.Table.from_arrays([wide, wide, *features.values()], names=["id", "id", *features])
    with pytest.raises(TableError, match="The batch has 2 columns 'id', which keep names"):
        score(double)
    with pytest.raises(TableError, match=r"The Arrow table cannot be read .*; rename, convert or drop the column"):
        score(double.remove_column(0))
    with pytest.raises(TableError, match="A Series is no batch"):
        score(pd.Series([1.0, 2.0]))


def test_the_columns_of_all_batches_have_one_order(scripted, answers) -> None:
    """Where the model does not name its columns, a batch in another order is an error, also after pickling the scorer."""
    server = scripted(answers)
    batch = pd.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]})
    score = scorer(server.url)
    for same in (batch[:0], batch, pa.Table.from_pandas(batch)):
        score(same)
    for other in (batch[["c", "b", "a"]], pa.Table.from_pandas(batch[["b", "a", "c"]])):
        with pytest.raises(TableError, match="in another order than the first one, a, b, c, .* name them in columns="):
            pickle.loads(pickle.dumps(score))(other)
        assert len(scorer(server.url, columns=pd.Index(["a", "b", "c"]))(other)) == 1
    describe(server, parameters={"features": ["a", "b", "c"]})
    by_name = scorer(server.url)
    assert [len(by_name(one)) for one in (batch, batch[["c", "b", "a"]])] == [1, 1]


def test_a_batch_without_rows_needs_to_know_the_outputs(scripted, answers) -> None:
    """Where the server does not say how many outputs its model has, such a batch is an error and not another schema."""
    server = scripted(answers)
    describe(server, outputs=[])
    with pytest.raises(ScoringError, match="does not say how many outputs its model has"):
        scorer(server.url)(pd.DataFrame(np.empty((0, 3), np.float32)))


def test_another_model_is_refused_in_every_batch(scripted) -> None:
    """The version and file of the first question hold for all batches, wherever they are scored."""
    server = scripted(lambda _, *request: saying({"Ruo-Model-Sha256": file}, *request))
    batch, file = pd.DataFrame(np.ones((4, 3), np.float32)), "a" * 64
    describe(server, parameters={"sha256": file})
    score = scorer(server.url)
    assert score(batch)["prediction_0"].tolist() == [3.0] * 4
    file = "b" * 64
    describe(server, parameters={"sha256": file})
    with pytest.raises(ScoringError, match=r"made for version 1 \(sha256 a+.* version 1 \(sha256 b+.* answered"):
        score(batch)


def test_dask_gives_each_row_its_own(server: LocalServer, score: Scorer, frame: pd.DataFrame, tmp_path: Path) -> None:
    """200,000 rows over two worker processes, of which one dies on the way, equal those of `score_csv`."""
    table = pd.concat([frame] * 80, ignore_index=True).assign(id=np.arange(200_000))
    for start in range(0, len(table), 25_000):
        table[start : start + 25_000].to_parquet(tmp_path / f"{start:06}.parquet")
    died = tmp_path / "died"

    def score_or_die(batch: pd.DataFrame) -> pd.DataFrame:
        if batch["id"].iloc[0] == 100_000 and not died.exists():
            died.touch()
            os._exit(1)
        return score(batch)

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        parts = dd.read_parquet(tmp_path / "*.parquet").map_partitions(score_or_die, meta=score(table[:0]))
        scored = parts.compute()
    assert died.exists()
    assert scored["id"].tolist() == list(range(200_000))
    np.testing.assert_allclose(scored[COLUMNS], score_csv(table, server.urls, keep=["id"]).predictions, atol=1e-6)
