"""The table of predictions: kept columns, predictions under their names, the class with its probability, the label."""

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo import ArgumentError, Scores, score_csv, score_to_file
from ruo.client.layout import Layout, to_pandas
from ruo.client.records import ModelInfo
from ruo.client.scores import Timings, merge
from ruo.deploy.local import LocalServer
from ruo.errors import OutputError
from ruo.learn.demo import Demo
from ruo.tables import NO_LABEL
from tests.conftest import ScriptedServer

NAN = np.nan
KEPT = pl.DataFrame({"id": ["07", "8", None], "n": [2**60, None, 3]})
PREDICTIONS = np.array([[0.25, 0.75], [0.5, 0.5], [NAN, NAN]], np.float32)
LABELS = np.array([1, 0, 1])
FLAT = {"prediction_0": [0.25, 0.5, NAN], "prediction_1": [0.75, 0.5, NAN]}
LARGEST = {"probability": [0.75, 0.5, NAN]}


def scores(**changes: Any) -> Scores:
    """Three rows, the last of which was not scored."""
    made: dict[str, Any] = {"labels": LABELS, "kept_columns": KEPT, "model": ModelInfo("m", "1", "test")}
    return Scores(PREDICTIONS, **{**made, "timings": Timings(1, 1, 1, 1), **changes})


@pytest.mark.parametrize("names", [["sum"], np.array(["sum"]), pd.Index(["sum"]), pl.Series(["sum"])], ids=type)
def test_names_may_come_in_any_list(small_csv: Path, well: ScriptedServer, names: Any) -> None:
    """As for the other options, also one of numpy, pandas or polars."""
    scores = score_csv(small_csv, well.url, prediction_names=names)
    assert scores.to_pandas().columns.tolist() == ["sum"]


@pytest.mark.parametrize(
    ("changes", "columns"),
    [
        ({}, {**FLAT, "label": [1, 0, 1]}),
        ({"labels": None, "layout": Layout(["no", "yes"])}, {"no": [0.25, 0.5, NAN], "yes": [0.75, 0.5, NAN]}),
        ({"classes": ["A", "B"]}, {**FLAT, "label": ["B", "A", "B"]}),
        ({"layout": Layout(argmax=True)}, {"class": [1, 0, None], **LARGEST, "label": [1, 0, 1]}),
        (
            {"layout": Layout(argmax=True, classes=["cat", "dog"]), "classes": ["cat", "dog"]},
            {"class": ["dog", "cat", None], **LARGEST, "label": ["dog", "cat", "dog"]},
        ),
        (
            {"layout": Layout(["no", "yes"], argmax=True, classes=["cat", "dog"]), "labels": None},
            {"class": ["yes", "no", None], **LARGEST},
        ),
        # classes that are not those of this model
        ({"layout": Layout(argmax=True, classes=[*"abc"])}, {"class": [1, 0, None], **LARGEST, "label": [1, 0, 1]}),
    ],
)
def test_the_columns_of_the_predictions(changes: dict[str, Any], columns: dict[str, Any], tmp_path: Path) -> None:
    """Kept columns come first, then predictions or the class, then the label; the files have the same."""
    made = scores(**changes)
    expected = KEPT.with_columns(**{name: pl.Series(of, strict=False) for name, of in columns.items()})
    made.to_csv(tmp_path / "p.csv")
    made.to_parquet(tmp_path / "p.parquet")

    assert list(made.to_pandas().columns) == ["id", "n", *columns]
    read = pl.read_parquet(tmp_path / "p.parquet")
    assert read.columns == expected.columns
    assert read.fill_nan(-1).rows() == expected.fill_nan(-1).rows()
    as_read = expected.cast({name: dtype for name, dtype in read.schema.items() if dtype == pl.Float32})
    assert (tmp_path / "p.csv").read_text() == as_read.write_csv()


@pytest.mark.parametrize(
    ("layout", "kept", "sentence"),
    [
        (Layout(["a"]), KEPT, "prediction_names has 1 name, the model has 2 outputs"),
        (Layout(["id", "b"]), KEPT, "the column 'id' twice; rename the kept column"),
        (Layout(["b", "b"]), None, "the column 'b' twice"),
        (Layout(), KEPT.rename({"id": "label"}), "the column 'label' twice"),
        (Layout(argmax=True), KEPT.rename({"id": "class"}), "the column 'class' twice"),
    ],
)
def test_names_that_do_not_fit_are_refused(layout: Layout, kept: pl.DataFrame | None, sentence: str) -> None:
    """No column is written over another one, or under a name that is not its own."""
    with pytest.raises(ArgumentError, match=sentence):
        scores(layout=layout, kept_columns=kept).to_pandas()
    with pytest.raises(ArgumentError, match="needs an output for each class"):
        Layout(argmax=True).columns(1, [], has_label=False)


@pytest.mark.parametrize(
    ("values", "dtype", "suffix"),
    [
        ([dt.timedelta(1)], pl.Duration("us"), ".csv"),
        ([b"x"], pl.Binary(), ".csv"),
        ([[1]], pl.List(pl.Int64), ".csv"),
        ([2**100], pl.Int128(), ".parquet"),
        ([object()], pl.Object(), ".parquet"),
    ],
)
def test_a_kept_type_that_a_file_cannot_hold_is_refused(
    well: ScriptedServer, tmp_path: Path, values: list[Any], dtype: pl.DataType, suffix: str
) -> None:
    """The sentence names the column and the cure, in each of the ways to a file; the other kind of file holds it."""
    frame = pl.DataFrame({"a": [1.0], "b": [1.0], "c": [1.0], "id": pl.Series(values, dtype=dtype)})
    path, done = tmp_path / f"p{suffix}", score_csv(frame, well.url, keep=["id"], shard=(0, 1))
    writes: list[Any] = [lambda to: score_to_file(frame, well.url, to, keep=["id"])]
    if suffix == ".csv":
        done.to_parquet(tmp_path / "0.parquet")
        writes += [done.to_csv, lambda to: merge([tmp_path / "0.parquet"], to)]
    else:
        writes.append(done.to_parquet)
    for write in writes:
        with pytest.raises(OutputError, match=rf'The column "id" has the type .*, which a {suffix} file cannot hold; '):
            write(path)
    assert not path.exists()


@pytest.mark.parametrize("name", ["p.csv.gz", "p.zip", "p.zst"])
def test_no_plain_csv_is_written_under_a_packed_name(tmp_path: Path, name: str) -> None:
    """For such a name pandas packs."""
    with pytest.raises(ArgumentError, match=rf"{name} would not be packed; name a .csv or use to_pandas"):
        scores().to_csv(tmp_path / name)


@pytest.mark.parametrize("layout", [Layout(), Layout(argmax=True), Layout(["a", "b"])])
def test_where_no_row_was_scored_only_what_was_kept_is_there(layout: Layout) -> None:
    """How many outputs a row has is not known then."""
    frame = layout.frame(np.empty((2, 0), np.float32), np.array([0, 1]), pl.DataFrame({"id": [7, 8]}))
    assert frame.to_dict(as_series=False) == {"id": [7, 8], "label": [0, 1]}


def test_kept_cells_are_the_same_in_pandas() -> None:
    """Whole numbers and truth values beside missing ones stay exact, text stays text, and the index is the source's."""
    kept = KEPT.with_columns(
        is_new=pl.Series([True, None, False]),
        day=pl.Series(["2024-02-29"] * 3).str.to_date(),
        x=pl.Series([1.5, None, 2]),
        at=pl.Series(["2024-02-29 23:30"] * 3).str.to_datetime().dt.replace_time_zone("Europe/Belgrade"),
        wide=pl.Series([1, None, 3], dtype=pl.Int128),
    )
    index = pd.Index([7, 8, 9], name="flow")
    frame = scores(kept_columns=kept, index=index).kept
    assert frame.index.equals(index)
    assert (frame["n"].tolist(), str(frame["n"].dtype)) == ([2**60, pd.NA, 3], "Int64")
    assert frame["is_new"].tolist() == [True, pd.NA, False]
    assert frame["id"].fillna("missing").tolist() == ["07", "8", "missing"]
    assert frame["day"].tolist() == [pd.Timestamp("2024-02-29")] * 3
    assert frame["at"].tolist() == [pd.Timestamp("2024-02-29 23:30", tz="Europe/Belgrade")] * 3
    assert frame["wide"].tolist()[::2] == [1, 3]
    assert to_pandas(kept.select("x"), None)["x"].isna().tolist() == [False, True, False]
    assert scores(kept_columns=None).kept is None


@pytest.mark.parametrize(
    ("names", "columns", "labels", "texts"),
    [
        (["A", "B"], None, [0, 1, NO_LABEL, 3], ["A", "B", None, "3"]),
        (["cat", "dog"], ["dog", "cat"], [0, 1], ["dog", "cat"]),
        (["cat", "dog"], ["0", "1"], [0, 1], ["cat", "dog"]),
        (["1", "0"], ["0", "1"], [0, 1], ["0", "1"]),
        (["1", "0"], None, [0, 1, 2], ["0", "1", "2"]),
        (["1", "2"], None, [0, 1, 2], ["0", "1", "2"]),
        (["True", "False"], None, [1, 0], ["True", "False"]),
        (["1990", "1991"], None, [0, 1991], ["1990", "1991"]),
    ],
)
def test_a_label_is_the_name_of_its_own_class(names: Any, columns: Any, labels: list[int], texts: list[Any]) -> None:
    """Whatever the order of the label columns, and also where names are numbers; names stay names in every block."""
    layout, outputs = Layout(names, argmax=True, classes=columns), np.eye(2, dtype=np.float32)
    parts = [layout.frame(outputs[:1], np.array([label]), None) for label in labels]
    assert pl.concat(parts)["label"].to_list() == texts


def test_labels_are_numbered_as_the_predictions_are_named(demo: Demo, server: LocalServer) -> None:
    """Where these are the names of their classes, in whatever order the label columns stand."""
    frame, names = pl.read_csv(demo.testset, n_rows=50), [str(number) for number in range(10)]
    usual = score_csv(frame, server.url)
    scores = score_csv(frame.select(*frame.columns[:-10], *frame.columns[:-11:-1]), server.url, prediction_names=names)
    assert scores.classes == usual.classes == names
    assert scores.labels.tolist() == usual.labels.tolist()


def test_a_run_keeps_columns_index_and_classes(well: ScriptedServer) -> None:
    """Kept columns of a DataFrame stand beside its predictions under its index, however the table was cut."""
    rows, kinds = range(25), list("xyxyz") * 5
    frame = pd.DataFrame({"id": [f"{i:03}" for i in rows], "a": rows, "b": 1, "c": 2, "kind": kinds})
    frame.index = pd.Index(rows, name="flow") + 100

    scores = score_csv(frame, well.url, keep=["id"], label="kind", chunk_size=4, prediction_names=["sum"])

    table = scores.to_pandas()
    assert (list(table.columns), scores.classes) == (["id", "sum", "label"], ["x", "y", "z"])
    assert table.index.equals(frame.index)
    assert table.values.tolist() == [[f"{i:03}", i + 3, kinds[i]] for i in rows]
    assert scores.labels.tolist() == [0, 1, 0, 1, 2] * 5


def test_names_are_refused_before_anything_is_sent(small_csv: Path, well: ScriptedServer) -> None:
    """Where the server tells the number of outputs, a name too many costs no request."""
    with pytest.raises(ArgumentError, match="has 2 names, the model has 1 output a row"):
        score_csv(small_csv, well.url, prediction_names=["a", "b"])
    assert well.requests == []
