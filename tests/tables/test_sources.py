"""Every form in which people have a table: the rows are the same, or one sentence says why not."""

import argparse
import bz2
import contextlib
import csv
import gzip
import io
import lzma
import os
import re
import threading
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import ArgumentError, MissingPackageError, TableError
from ruo.tables import TableOptions, open_table, paths_of, table
from tests.tables.forms import one_block, read_rows, write_csv

FRAME = pl.DataFrame({"id": ["u", "v", "w"], "a": [1.5, 2.5, 3.5], "b": [1, 2, 3]})
CSV = FRAME.write_csv().encode()
FEATURES = [[1.5, 1], [2.5, 2], [3.5, 3]]
GZIP = gzip.compress(b"id,a\n" + b"".join(b"u%d,%d\n" % (row, row * 7919) for row in range(5_000)))


def zipped(**files: bytes) -> bytes:
    """A zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._x", b"")
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def parquet(frame: pl.DataFrame) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


class Arrow:
    """Any library's Arrow table."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


class Geo(pd.DataFrame):
    """A subclass, as GeoPandas has."""


def _read(source: Any, **options: Any) -> tuple[list[list[float]], list[str]]:
    blocks = list(open_table(table(source, keep=["id"], **options)).blocks(2))
    kept = pl.concat([block.kept for block in blocks if block.kept is not None])["id"].to_list()
    return np.concatenate([block.array for block in blocks]).tolist(), kept


@pytest.mark.parametrize(
    "data",
    [
        CSV,
        gzip.compress(CSV[:9]) + gzip.compress(CSV[9:]),
        bz2.compress(CSV[:9]) + bz2.compress(CSV[9:]),
        lzma.compress(CSV),
        zipped(inner=CSV),
        gzip.compress(CSV.decode().encode("utf-16")),
        lzma.compress(CSV.replace(b"\n", b"\r").replace(b",", b";")),
        parquet(FRAME),
    ],
    ids=["plain", "gzip", "bz2", "xz", "zip", "utf-16.gz", "cr.xz", "parquet"],
)
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.data", "t.gz", "t"])
def test_a_file_is_known_by_its_first_bytes(tmp_path: Path, data: bytes, name: str) -> None:
    """Compressed in any way or not, in another encoding, CSV or Parquet: whatever the name."""
    (tmp_path / name).write_bytes(data)
    assert _read(tmp_path / name) == (FEATURES, ["u", "v", "w"])


def test_zstandard_is_read_where_its_package_is(tmp_path: Path) -> None:
    """Without the package, a sentence says how to install it."""
    path = tmp_path / "t.csv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd\x04\x58\x39\x00\x00a\n1\n2\n3\x01\x00\x00")
    try:
        import zstandard
    except ModuleNotFoundError:
        with pytest.raises(MissingPackageError, match="pip install"):
            open_table(path)
        return
    path.write_bytes(zstandard.compress(CSV[:9]) + zstandard.compress(CSV[9:]))
    assert _read(path) == (FEATURES, ["u", "v", "w"])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TableError, match="damaged"):
        _read(path)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (zipped(**{"[Content_Types].xml": b""}), "is an Excel workbook; pass pandas.read_excel"),
        (zipped(), "has 0 files, a zip file with one is needed (none)"),
        (zipped(**{"model.weights.h5": b""}), "is a Keras model and no table; name the table"),
        (zipped(**dict.fromkeys("abcdef", CSV)), "has 6 files, a zip file with one is needed (a, b, c, d, e)"),
        (zipped(a=CSV)[:40], "is damaged or cannot be read"),
        (GZIP[:-20], "is damaged or cannot be read after 0 rows"),
        (GZIP[:12], "is damaged or cannot be read after 0 rows"),
        (GZIP[:40] + bytes(100) + GZIP[140:], "is damaged or cannot be read after 0 rows"),
        (GZIP[:-8] + bytes(8), "is damaged or cannot be read after 0 rows"),
        (lzma.compress(CSV)[:-9], "is damaged or cannot be read"),
        (bz2.compress(CSV)[:-9], "is damaged or cannot be read"),
        (gzip.compress(parquet(FRAME)), "is not a text file"),
    ],
    ids=["xlsx", "none", "keras", "two", "zip", "gz end", "gz", "gz middle", "gz checksum", "xz", "bz2", "parquet.gz"],
)
def test_a_packed_file_that_cannot_be_read_is_an_error(tmp_path: Path, data: bytes, sentence: str) -> None:
    """Cut short, changed, of several files or of none: never a shorter table."""
    (tmp_path / "t").write_bytes(data)
    with pytest.raises(TableError, match=re.escape(sentence)):
        _read(tmp_path / "t")


def test_a_name_that_is_not_in_utf_8_is_no_obstacle_to_csv(tmp_path: Path) -> None:
    """A CSV file is read whatever its name is, and Parquet, whose reader takes no such name, is refused in a sentence."""
    for name, data in (("\udcff.csv", CSV), ("\udcff.parquet", parquet(FRAME))):
        (tmp_path / name).write_bytes(data)
    assert _read(tmp_path / "\udcff.csv")[0] == FEATURES
    with pytest.raises(ArgumentError, match=r"udcff.parquet' is not in UTF-8; rename it"):
        open_table(tmp_path / "\udcff.parquet")


@pytest.mark.parametrize(
    "make",
    [
        lambda: FRAME.lazy(),
        lambda: Arrow(FRAME),
        lambda: Geo(FRAME.to_dict(as_series=False)),
        lambda: (FRAME[start : start + 1] for start in range(3)),
        lambda: [FRAME[:2].lazy(), FRAME[2:].lazy()],
        lambda: [FRAME[:2], Geo(FRAME[2:].to_dict(as_series=False))],
        lambda: pd.read_csv(io.BytesIO(CSV), chunksize=2),
    ],
)
def test_frames_of_every_kind_are_tables(make: Callable[[], Any]) -> None:
    """Lazy, of Arrow, of a subclass, or one after the other."""
    assert _read(make()) == (FEATURES, ["u", "v", "w"])


def test_an_array_has_numbered_columns() -> None:
    """A 2-D array of any numbers, or several; anything else is refused."""
    assert read_rows([np.eye(2), np.eye(2)], 3)[2].tolist() == [1, 0]
    array = np.array([[1, 2, 3], [4, 5, 2**62 + 1]])
    assert one_block(array, np.int64, columns=["2", "0"]).array.tolist() == [[3, 1], [2**62 + 1, 4]]
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix([[1, 2], [3, 4]])
    assert read_rows(matrix).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(TableError, match=r"fill its masked values, as in array.filled\(numpy.nan\)"):
        open_table(np.ma.masked_less(np.array([[1.0, 2.0]]), 2))
    for wrong in (np.zeros(3), np.zeros((2, 2, 2)), np.array([["a"]]), np.zeros((2, 2), np.longdouble)):
        with pytest.raises(TableError, match="is not a table; pass one of rows and columns of numbers"):
            open_table(wrong)


@pytest.mark.parametrize("kind", ["f4", "f8", "i4", "u1", "?", "fortran", "stride"])
def test_an_array_is_read_as_its_frame_is(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any numbers, however they lie in memory, whole or in parts, in pieces of few rows where they are wide."""
    monkeypatch.setattr("ruo.tables.frames._CELLS_PER_PIECE", 20)
    numbers = np.random.default_rng(0).integers(0, 2, (11, 6))
    arrays = {"fortran": np.asfortranarray(numbers, np.float32), "stride": np.repeat(numbers, 2, axis=1)[:, ::2]}
    array = arrays[kind] if kind in arrays else numbers.astype(kind)
    frame = pl.DataFrame({str(place): column for place, column in enumerate(array.T)})
    options: dict[str, Any] = {"keep": ["5"], "label": "0", "drop": ["3"]}

    for shard, dtype in product((None, (0, 3), (2, 3)), (np.float32, np.int64, np.uint8, np.object_)):
        (mine,) = open_table(table(array, **options), shard=shard).blocks(None, dtype)
        (theirs,) = open_table(table(frame, **options), shard=shard).blocks(None, dtype)
        assert (mine.array.dtype, mine.array.flags.c_contiguous) == (dtype, True)
        np.testing.assert_array_equal(mine.array, theirs.array)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        assert mine.kept.equals(theirs.kept)


def test_an_array_has_a_fingerprint_of_its_values() -> None:
    """The same for a copy and a part of it, another for other values, shapes and types."""
    array = np.arange(12.0).reshape(4, 3)
    same = [one.fingerprint() for one in (open_table(array.copy(order="F")), open_table(array, shard=(1, 2)))]
    others = [array + 1, array.reshape(3, 4), array.astype(np.float32)]
    assert {open_table(array).fingerprint()} == {*same}
    assert len({open_table(other).fingerprint() for other in [array, *others]}) == 4


def test_a_folder_or_a_list_of_files_is_one_table(tmp_path: Path) -> None:
    """In sorted order, or in that of the list; hidden files are no part of it."""
    FRAME[:1].write_csv(tmp_path / "part-1.csv")
    (tmp_path / "part-2.csv.gz").write_bytes(gzip.compress(FRAME[1:].write_csv().encode()))
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / ".part-1.crc").write_bytes(b"x")
    files = [tmp_path / "part-2.csv.gz", str(tmp_path / "part-1.csv")]

    assert _read(tmp_path) == (FEATURES, ["u", "v", "w"])
    assert _read(files) == ([*FEATURES[1:], FEATURES[0]], ["v", "w", "u"])
    assert len({open_table(source).fingerprint() for source in (tmp_path, files, files[::-1])}) == 2
    in_order = [*map(Path, files[::-1])]
    assert [paths_of(source) for source in (tmp_path, files[::-1], FRAME)] == [in_order, in_order, []]
    (tmp_path / "_whole").write_bytes(parquet(FRAME))
    assert [open_table([tmp_path / "_whole", other]).rows for other in (tmp_path / "_whole", files[0])] == [6, None]
    with pytest.raises(ArgumentError, match="cannot be cut into parts"):
        open_table(tmp_path, shard=(0, 2))
    for header, told in (("id,b,a", "their order"), ("id,a,b,1,2,3,4,5,6", "1, 2, 3, 4, 5")):
        (tmp_path / "part-3.csv").write_text(f"{header}\n")
        with pytest.raises(TableError, match=rf"part-3.csv has other columns than part-1.csv \({told}\)"):
            open_table(tmp_path)


@pytest.mark.parametrize(
    "data", [CSV, gzip.compress(CSV), bz2.compress(CSV), CSV.replace(b"\n", b"\r")], ids=["plain", "gzip", "bz2", "cr"]
)
@pytest.mark.parametrize("is_stdin", [False, True])
def test_a_pipe_is_read_once(tmp_path: Path, data: bytes, is_stdin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a FIFO or standard input, byte by byte; it cannot be read again, resumed or cut."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            file.write(data[:8])  # the writer may pause in the middle of the header
            for byte in data[8:]:
                file.write(bytes([byte]))

    thread = threading.Thread(target=write)
    thread.start()
    with path.open("rb") if is_stdin else contextlib.nullcontext() as file:
        if file:
            monkeypatch.setattr("sys.stdin", argparse.Namespace(buffer=file))
        opened = open_table("-" if is_stdin else path, TableOptions(keep=["id"]))
        (block,) = opened.blocks(None)
    thread.join()

    assert block.array.tolist() == FEATURES
    with pytest.raises(TableError, match="can be read once only"):
        list(opened.blocks(None))
    with pytest.raises(TableError, match="to use a checkpoint or a part, write it to a file first"):
        opened.fingerprint()


def test_frames_that_come_once_cannot_be_cut_or_resumed() -> None:
    """Nor read twice."""
    with pytest.raises(TableError, match="to use a checkpoint or a part"):
        open_table(iter([FRAME]), shard=(0, 2))
    opened = open_table(table(iter([FRAME]), keep=["id"]))
    with pytest.raises(TableError, match="to use a checkpoint or a part"):
        opened.fingerprint()
    list(opened.blocks(None))
    with pytest.raises(TableError, match="was read already"):
        list(opened.blocks(None))


def test_a_fingerprint_is_that_of_the_rows() -> None:
    """However they are cut or indexed; names, types, the order of columns, missing cells and large numbers count."""
    indexed = Geo(FRAME.to_dict(as_series=False), [7, 8, 9])
    same = [FRAME, pl.concat([FRAME[:1], FRAME[1:]]).lazy(), Arrow(FRAME), indexed]
    others = [
        FRAME,
        FRAME.rename({"a": "c"}),
        FRAME.cast({"b": pl.Float64}),
        FRAME.select(FRAME.columns[::-1]),
        *(FRAME.with_columns(b=pl.Series([1, number, 3])) for number in (None, 0)),
        *(FRAME.with_columns(b=pl.Series([1, None, large])) for large in (2**62, 2**62 + 1)),
        *(FRAME.with_columns(id=pl.Series(["u", name, "w"])) for name in (None, "None")),
        *(FRAME.with_columns(id=pl.lit(one).cast(pl.Duration("ns"))) for one in (1, 2)),
        *(FRAME.with_columns(id=pl.concat_list(pl.lit(one).cast(pl.Datetime("ns")))) for one in (1, 2)),
        *(FRAME.with_columns(id=pl.Series(["u", name, "w"], dtype=pl.Categorical)) for name in ("v", "x")),
        *(FRAME.with_columns(id=pl.Series([[0] * 49 + [middle] + [0] * 49] * 3)) for middle in (0, 1)),
    ]

    assert len({open_table(source).fingerprint() for source in same}) == 1
    assert len({open_table(frame).fingerprint() for frame in others}) == len(others)


def test_rows_keep_their_order(tmp_path: Path) -> None:
    """The row groups of a file, which polars reads side by side, come in the order of the file each time."""
    pl.DataFrame({"a": np.arange(200_000)}).write_parquet(tmp_path / "t.parquet", row_group_size=2_000)
    for source in [tmp_path / "t.parquet", pl.scan_parquet(tmp_path / "t.parquet")] * 3:
        np.testing.assert_array_equal(read_rows(source, None, np.float64)[:, 0], np.arange(200_000))


# --- found by trying odd tables


@pytest.mark.parametrize(
    "text", ['x,s\n1,"\n2,"q"\n3,"\n4,x\n', 'x,c\n1,"Big" and "s"\n2,"y"\n', 'x,c\n1,a"b"\n2,"y"\n']
)
def test_a_quote_inside_a_cell_swallows_no_row(tmp_path: Path, text: str) -> None:
    """Polars would guess where the cell ends; it is refused, or is read as Python's strict reader reads it."""
    path = write_csv(tmp_path, text)
    opened = open_table(path, TableOptions(columns=["x"], keep=[text[2:].partition("\n")[0]]))
    try:
        expected = list(csv.reader(io.StringIO(text), strict=True))[1:]
    except csv.Error:
        with pytest.raises(TableError, match="is not CSV"):
            list(opened.blocks(None))
        return
    (block,) = opened.blocks(None)
    assert [[str(int(x)), *kept] for x, kept in zip(block.array.ravel(), block.kept.rows(), strict=True)] == expected


@pytest.mark.parametrize("keep", [[], ["id"]])
def test_a_null_value_that_is_a_number_is_one_with_blanks_beside_it(tmp_path: Path, keep: list[str]) -> None:
    """Whatever else is read; and the cells of labels are no numbers that could be missing."""
    path = write_csv(tmp_path, "id, x,Label_a,Label_b\n1, -999,1,0\n2, 5,0,1\n3, 0,1,0\n")
    block = one_block(path, columns=["x"], keep=keep, null_values=["-999", "0"])
    np.testing.assert_equal(block.array.ravel(), [np.nan, 5, np.nan])
    assert block.labels.tolist() == [0, 1, 0]


def test_text_for_a_model_is_the_same_from_every_source(tmp_path: Path) -> None:
    """Bytes are their text, numbers and truth values are as pandas writes them; bytes that are no text are refused."""
    frame = pd.DataFrame({"a": [b"abc", b"d"], "b": [True, False], "c": [1e-7, np.nan], "d": [1e16, 2.0]})
    decoded = frame.assign(a=["abc", "d"])
    path = tmp_path / "t.csv"
    decoded.to_csv(path, index=False)
    for source in (path, frame, frame.astype({"b": object}), frame.astype({"a": "S3"}), pl.from_pandas(decoded)):
        expected = [[b"abc", b"True", b"1e-07", b"1e+16"], [b"d", b"False", b"", b"2.0"]]
        assert one_block(source, object).array.tolist() == expected
    with pytest.raises(TableError, match='column "a" holds bytes that are not UTF-8'):
        open_table(pd.DataFrame({"a": [b"\xff"]}))


def test_no_file_of_a_folder_is_left_out(tmp_path: Path) -> None:
    """Those in a linked folder are read; a link to nothing, or to a folder around it, is an error."""
    folder, aside = tmp_path / "folder", tmp_path / "aside"
    for each, value in ((folder, 1), (aside, 2)):
        each.mkdir()
        (each / "t.csv").write_text(f"x\n{value}\n")
    (folder / "linked").symlink_to(aside)
    assert one_block(folder).array.tolist() == [[2.0], [1.0]]
    (folder / "gone.csv").symlink_to(tmp_path / "nothing")
    with pytest.raises(TableError, match=r"gone\.csv does not exist"):
        open_table(folder)
    (folder / "gone.csv").unlink()
    (aside / "loop").symlink_to(folder)
    with pytest.raises(TableError, match="is a link to a folder that it is in"):
        open_table(folder)


@pytest.mark.parametrize("name", ["*", "^a$"])
def test_a_name_that_is_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    """Polars would take it for all columns, or for those that match."""
    frame = pl.DataFrame({name: [1.0, 2.0], "a": [3.0, 4.0], "^b$": [5.0, 6.0]})
    frame.write_csv(tmp_path / "t.csv")
    for source in (frame, tmp_path / "t.csv"):
        with pytest.raises(TableError, match=r"has a column '\S*', which polars takes for a pattern; give") as caught:
            open_table(source)
        assert caught.value.column == name
