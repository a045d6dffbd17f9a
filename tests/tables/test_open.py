"""Any table to blocks of rows."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ruo.errors import TableError
from ruo.tables import NO_LABEL, open_table, table
from ruo.tables.csvtext import PIECE_BYTES
from tests.tables.forms import FORMS, as_form, one_block, read_rows, write_csv

FRAME = pl.DataFrame(
    {"a": [0.5, 1.5, 2.5, 3.5, 4.5], "Label_0": [1, 0, 0, 1, 0], "b": [10, 20, 30, 40, 50], "Label_1": [0, 1, 1, 0, 1]}
)
FEATURES = np.array([[0.5, 10], [1.5, 20], [2.5, 30], [3.5, 40], [4.5, 50]], np.float32)
LABELS = np.array([0, 1, 1, 0, 1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 7, None])
def test_blocks_hold_every_row_in_order(tmp_path: Path, form: str, chunk_size: int | None) -> None:
    """Whatever the form and the block size, the blocks joined are the table."""
    blocks = list(open_table(as_form(FRAME, form, tmp_path)).blocks(chunk_size))
    assert [block.start for block in blocks] == list(range(0, 5, chunk_size or 5))
    np.testing.assert_array_equal(FEATURES, np.concatenate([block.array for block in blocks]))
    np.testing.assert_array_equal(LABELS, np.concatenate([block.labels for block in blocks]))
    assert all(block.array.dtype == np.float32 and block.array.flags.c_contiguous for block in blocks)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "PARQUET", "pq"])
@pytest.mark.parametrize("name", ["run[1]", "a*", "?", "{a,b}", "~", "a%20b", "a:b", "é ü"])
def test_a_path_is_no_pattern(tmp_path: Path, name: str, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of exactly this name is read, relative and absolute, never those beside it that a pattern would take."""
    for number, other in enumerate([name, "run1", "ab", "a", "b", "x"]):
        frame = pl.DataFrame({"x": [number]})
        path = tmp_path / f"{other}.{suffix}"
        with path.open("wb") as file:  # polars would take the path for a pattern
            (frame.write_csv if suffix == "csv" else frame.write_parquet)(file)
    monkeypatch.chdir(tmp_path)

    for source in (f"{name}.{suffix}", Path(f"{name}.{suffix}"), tmp_path / f"{name}.{suffix}"):
        assert read_rows(source).tolist() == [[0]]


@pytest.mark.parametrize("form", ["csv", "parquet", "polars"])
def test_ten_thousand_columns_open_at_once(tmp_path: Path, form: str) -> None:
    """The time grows with the number of columns, not with its square, and the columns keep their order."""
    names = [f"Label_{number}" if number % 10 == 7 else f"x{number}" for number in range(10_000)]
    source = as_form(pl.DataFrame([[number, -number] for number in range(10_000)], names), form, tmp_path)

    started = time.process_time()
    table = open_table(source)
    assert time.process_time() - started < 0.5  # a search for each column in a list takes seconds
    assert table.features == [name for name in names if name[0] == "x"]
    assert read_rows(source)[0].tolist() == [int(name[1:]) for name in table.features]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nothing.csv", "nothing.csv does not exist"),
        ("a\0b", "does not exist"),
        ("x" * 300, r"cannot be read \(File name too long\)"),
        ("", "The path of the table is empty"),
        ("https://me:secret@host/a.csv?key=secret", r"is at an address \(https\), and ruo reads files; download it"),
        (".", "is a folder without files"),
        ("-", "There is no standard input"),
        ([[1, 2]], "A list is not a table"),
        ([], "A list is empty, or gives None"),
        ([FRAME, None], "A list is empty, or gives None"),
        ([FRAME, FRAME[:, ::-1]], "the frame from row 5 on has other columns than the first, or another order"),
        (table([FRAME, FRAME.cast({"a": str})], keep=["a"]), '"a" has one type before row 5 and another from there on'),
        ([FRAME, FRAME.with_columns(a=pl.lit("x"))], "row 5, column \"a\": 'x' is not a number"),
        (pd.Series([1.0]), "A Series is not a table; pass a path, a DataFrame"),
        (pa.chunked_array([[1.0]]), "A ChunkedArray is not a table; pass a path, a DataFrame"),
        (pl.LazyFrame({"a": [1]}).select("zz"), 'LazyFrame .* "zz".*; mend the query, or the file that it reads'),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), "The Arrow table cannot be read"),
        (pd.DataFrame({"a": []}), "has no rows"),
        (pl.DataFrame({"a": []}, schema={"a": pl.Float64}), "has no rows"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, says: str) -> None:
    """A missing file, an object of another kind, frames that differ, and a table without rows are different errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", None)  # as Python has it where standard input is closed
    monkeypatch.setitem(sys.modules, "pyarrow", None if isinstance(source, pd.Series) else pa)  # pandas may lack it
    with pytest.raises(TableError, match=says):
        read_rows(source)


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _append(path: Path) -> None:
    """As a program does that still writes: the last line is not whole."""
    state = path.stat()
    with path.open("ab") as file:
        file.write(b"1,2,3,4")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, path.stat().st_mtime_ns + 1))
    other.replace(path)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("change", [_touch, _append, _replace])
@pytest.mark.parametrize("when", ["before", "during"])
def test_a_file_that_changes_is_an_error(tmp_path: Path, form: str, change: Callable[[Path], None], when: str) -> None:
    """Between the opening and the end of the reading; alone and as one of several files."""
    for is_one in (True, False):
        path = as_form(FRAME, form, tmp_path)
        table = open_table(path if is_one else [path])
        if when == "before":
            change(path)
        with pytest.raises(TableError, match="changed while it was read; use it once nothing|is damaged"):
            for number, _ in enumerate(table.blocks(2)):
                if when == "during" and not number:
                    change(path)


def test_a_file_may_be_deleted_while_it_is_read(tmp_path: Path) -> None:
    """Its rows are there until it is closed."""
    path = as_form(FRAME, "csv", tmp_path)
    table = open_table(path)
    blocks = table.blocks(2)
    rows = next(blocks).rows
    path.unlink()
    assert table.expected_rows() == len(FRAME)
    assert rows + sum(block.rows for block in blocks) == len(FRAME)


# --- labels


@pytest.mark.parametrize(
    ("columns", "indices"),
    [
        ({"Label_0": [1, 0], "Label_1": [0, 1]}, [0, 1]),
        ({"Label_class": [3, 0]}, [3, 0]),
        ({"Label_class": [2**24 - 1, 2**24]}, [2**24 - 1, NO_LABEL]),
        ({"Label_0": [0, 1], "Label_1": [0, 1]}, [NO_LABEL, NO_LABEL]),
        ({"Label_name": ["cat", "dog"]}, [NO_LABEL, NO_LABEL]),
        ({"Label_x": [0.5, -1]}, [NO_LABEL, NO_LABEL]),
        ({"x": [0, 1]}, None),
    ],
)
def test_labels_are_class_indices(tmp_path: Path, columns: dict[str, list[object]], indices: list[int] | None) -> None:
    """One-hot columns and a single column of whole numbers give indices; anything else gives none."""
    frame = pl.DataFrame({"a": [1.0, 2.0], **columns})
    frame.write_csv(tmp_path / "labels.csv")
    for source in (frame, tmp_path / "labels.csv"):
        np.testing.assert_array_equal(indices, one_block(source).labels)


@pytest.mark.parametrize(
    ("later", "index"),
    [("1", 1), ("1.0", 1), ("300", 300), ("-1", NO_LABEL), ("", NO_LABEL), ("NaN", NO_LABEL), ("cat", NO_LABEL)],
)
def test_labels_may_be_written_otherwise_in_a_later_piece(tmp_path: Path, later: str, index: int) -> None:
    """Whole numbers first, and far below a fraction, a large number, an empty cell or text: no row is lost or changed."""
    count = 2 * PIECE_BYTES // len("0.25,7\n")
    text = "a,Label_class\n" + "0.25,7\n" * count + f"0.5,{later}\n" + "0.75,7\n" * count
    block = one_block(write_csv(tmp_path, text))
    np.testing.assert_array_equal(np.repeat([0.25, 0.5, 0.75], [count, 1, count]), block.array[:, 0])
    np.testing.assert_array_equal(np.repeat([7, index, 7], [count, 1, count]), block.labels)
