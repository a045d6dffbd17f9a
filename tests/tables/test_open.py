"""Any table to blocks of rows."""

import gzip
import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables import TableOptions, open_table

FRAME = pl.DataFrame(
    {
        "a": [0.5, 1.5, 2.5, 3.5, 4.5],
        "Label_0": [1, 0, 0, 1, 0],
        "b": [10, 20, 30, 40, 50],
        "Label_1": [0, 1, 1, 0, 1],
    }
)
FEATURES = np.array([[0.5, 10], [1.5, 20], [2.5, 30], [3.5, 40], [4.5, 50]], np.float32)
LABELS = np.array([0, 1, 1, 0, 1])


def _rows(source: object, chunk_size: int | None = 1000, label_prefix: str = "Label_") -> np.ndarray:
    return np.concatenate(
        [block.features for block in open_table(source, TableOptions(label_prefix=label_prefix)).blocks(chunk_size)]
    )  # type: ignore[arg-type]


@pytest.fixture(params=["csv", "csv.gz", "parquet", "pandas", "polars"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    path = tmp_path / f"table.{request.param}"
    if request.param == "csv":
        FRAME.write_csv(path)
    elif request.param == "csv.gz":
        path.write_bytes(gzip.compress(FRAME.write_csv().encode()))
    elif request.param == "parquet":
        FRAME.write_parquet(path)
    else:
        return FRAME if request.param == "polars" else pd.DataFrame(FRAME.to_dict(as_series=False))
    return path


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 7, None])
def test_blocks_hold_every_row_in_order(source: object, chunk_size: int | None) -> None:
    """Whatever the source and the block size, the blocks joined are the table."""
    blocks = list(open_table(source).blocks(chunk_size))  # type: ignore[arg-type]

    assert [block.start for block in blocks] == list(range(0, 5, chunk_size or 5))
    np.testing.assert_array_equal(FEATURES, np.concatenate([block.features for block in blocks]))
    np.testing.assert_array_equal(LABELS, np.concatenate([block.labels for block in blocks]))
    assert all(block.features.dtype == np.float32 and block.features.flags.c_contiguous for block in blocks)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "PARQUET", "pq"])
@pytest.mark.parametrize("name", ["run[1]", "a*", "?", "{a,b}", "~", "a%20b", "a:b", "é ü"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of exactly this name is read, relative and absolute, never those beside it that a pattern would take."""
    for number, other in enumerate([name, "run1", "ab", "a", "b", "x"]):
        frame = pl.DataFrame({"x": [number]})
        path = tmp_path / f"{other}.{suffix}"
        frame.write_csv(path) if suffix == "csv" else path.write_bytes(parquet(frame))
    monkeypatch.chdir(tmp_path)

    for source in (f"{name}.{suffix}", Path(f"{name}.{suffix}"), tmp_path / f"{name}.{suffix}"):
        assert _rows(source).tolist() == [[0]]


def parquet(frame: pl.DataFrame) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["csv", "parquet", "polars"])
def test_ten_thousand_columns_open_at_once(tmp_path: Path, kind: str) -> None:
    """The time grows with the number of columns, not with its square, and the columns keep their order."""
    names = [f"Label_{number}" if number % 10 == 7 else f"x{number}" for number in range(10_000)]
    frame = pl.DataFrame([[number, -number] for number in range(10_000)], names)
    source: object = frame
    if kind != "polars":
        source = tmp_path / f"wide.{kind}"
        frame.write_csv(source) if kind == "csv" else frame.write_parquet(source)

    started = time.process_time()
    table = open_table(source)  # type: ignore[arg-type]
    elapsed = time.process_time() - started

    assert elapsed < 0.5  # a search for each column in a list takes seconds
    assert table.features == [name for name in names if name[0] == "x"]
    assert _rows(source)[0].tolist() == [int(name[1:]) for name in table.features]


@pytest.mark.parametrize("source", [pd.DataFrame({"a": []}), pl.DataFrame({"a": []}, schema={"a": pl.Float64})])
def test_a_table_without_rows_is_refused(source: object) -> None:
    """The error says that there is nothing to score."""
    with pytest.raises(TableError, match="has no rows"):
        _rows(source)


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder and an object of another kind are different errors."""
    with pytest.raises(TableError, match="does not exist"):
        open_table(tmp_path / "nothing.csv")
    with pytest.raises(TableError, match="is a folder"):
        open_table(tmp_path)
    with pytest.raises(TableError, match="A list is not a table"):
        open_table([[1, 2]])  # type: ignore[arg-type]
