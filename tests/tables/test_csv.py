"""CSV files, gzipped or not: every row and value, or the row and column at fault."""

import contextlib
import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.errors import TableError
from ruo.tables import open_table, table
from ruo.tables.csvtext import cut_between_rows, read_lines
from tests.tables.forms import one_block, read_rows, write_csv


def test_a_file_of_many_pieces_keeps_its_rows(tmp_path: Path) -> None:
    """A file that is cut into several pieces gives the same rows as one that is not."""
    numbers = np.random.default_rng(0).normal(size=(300_000, 6)).astype(np.float32)
    path = tmp_path / "long.csv"
    pl.DataFrame(numbers, [f"x{i}" for i in range(6)]).write_csv(path)

    assert path.stat().st_size > 2 * 8 << 20
    blocks = list(open_table(path).blocks(7_919))
    assert len(blocks) == 38
    for block in blocks:
        np.testing.assert_array_equal(numbers[block.start : block.start + 7_919], block.array)


@pytest.mark.parametrize("size", range(1, 40))
def test_a_csv_is_cut_between_rows_only(tmp_path: Path, size: int) -> None:
    """A newline in a quoted cell ends no row, however the pieces fall."""
    text = b'1,"a\nb"\n2,"c""\n"\n3,d\n\n\n'
    with write_csv(tmp_path, text).open("rb") as file:
        for read in (read_lines(file, size, 0, len(text)), (text[at : at + size] for at in range(0, len(text), size))):
            pieces = list(cut_between_rows(read, "the CSV"))

            assert b"".join(pieces) == text.rstrip(b"\n") + b"\n"
            assert all(piece.count(b'"') % 2 == 0 and piece.endswith(b"\n") for piece in pieces)


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1,2\n3,4\n",
        "a,b\n1,2\n3,4",
        "a,b\r\n1,2\r\n3,4\r\n",
        "\ufeffa,b\n1,2\n3,4\n\n\n",
        '"a","b"\n"1","2"\n"3","4"\n',
        "a,b\n 1,2 \n3e0,4.\n",
        "a,b\n1,2\r3,4\r",
        b"a,Label_x,b\n1,caf\xe9,2\n3,x,4\n",
        "a,b\r1,2\r3,4\r",
        "a,b\n1,2\n3,4\n".encode("utf-16"),
        "a;b\n1;2\n3;4\n",
        "a\tb\n1\t2\n3\t4\n",
        "a|b\r\n1|2\r\n3|4\r\n",
        "\n\r\na,b\n1,2\n3,4\n",
        "sep=;\na;b\n1;2\n3;4\n",
        "\ufeffsep=,\r\na,b\r\n1,2\r\n3,4\r\n",
        " a , b\n1,2\n3,4\n",
    ],
)
def test_usual_dialects_of_csv_are_read(tmp_path: Path, text: str | bytes) -> None:
    """Line ends, quotes, a byte order mark, names that count, other encodings: the numbers are the same."""
    np.testing.assert_array_equal([[1, 2], [3, 4]], read_rows(write_csv(tmp_path, text)))


@pytest.mark.parametrize("first", ["0", "0,1", "0,1,2"])
def test_names_that_count_may_be_a_row_of_data(tmp_path: Path, first: str) -> None:
    """As pandas writes columns without names; of one or two, a row of data may look so too, and a warning says it."""
    path = write_csv(tmp_path, f"{first}\n{first.replace('0', '3')}\n")
    warning = pytest.warns(UserWarning, match=r"pass header=False if they are a row")
    with contextlib.nullcontext() if first == "0,1,2" else warning:
        assert len(read_rows(path)) == 1
    assert len(read_rows(table(path, header=False))) == 2


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_blank_lines_of_one_column_are_missing_values(tmp_path: Path, shards: int, end: str, is_gzip: bool) -> None:
    """They are rows wherever they stand, as in pandas' skip_blank_lines=False, also at the end of a file or a part."""
    path = write_csv(tmp_path, f"x{end}1{end}{end}3{end}{end}{end}".encode())
    expected = pd.read_csv(path, skip_blank_lines=False).to_numpy()
    if is_gzip:
        path.write_bytes(gzip.compress(path.read_bytes()))
        shards = 1

    tables = [open_table(path, shard=(part, shards) if shards > 1 else None) for part in range(shards)]
    rows = np.concatenate([block.array for table in tables for block in table.blocks(2)])

    np.testing.assert_array_equal([[1], [np.nan], [3], [np.nan], [np.nan]], rows)
    np.testing.assert_array_equal(expected, rows)


def test_a_blank_line_between_parts_is_no_row_of_several_columns(tmp_path: Path) -> None:
    """A blank line within a table of several columns is refused, also where a part ends behind it."""
    path = write_csv(tmp_path, "a,b\n1,2\n\n3,4\n\n")
    with pytest.raises(TableError, match="has 0 cells"):
        list(open_table(path, shard=(0, 2)).blocks(None))
    assert [block.array.tolist() for block in open_table(path, shard=(1, 2)).blocks(None)] == [[[3, 4]]]


@pytest.mark.parametrize(
    ("text", "sentence", "row", "column"),
    [
        ("", "table.csv is empty", None, None),
        ("\n\n", "table.csv is empty", None, None),
        ("a,b\n", "table.csv has no rows", None, None),
        ("a,b\n\n\n", "table.csv has no rows", None, None),
        ("Label_0,Label_1\n1,0\n", "no feature columns", None, None),
        ("0.5,1.5\n2.5,3.5\n", "begins with a row of data (0.5,1.5)", None, None),
        ("0.5,,3\n1,2,3\n", "begins with a row of data", None, None),
        ("1.5,?,2\n1,2,3\n", "begins with a row of data", None, None),
        ('" 1 ",NaN,N/A\n1,2,3\n', "begins with a row of data", None, None),
        ("1,0,2\n1,2,3\n", "begins with a row of data (1,0,2); add a header line", None, None),
        (b"\xe9,b\n1,2\n", 'the byte 0xe9; pass its encoding, such as encoding="cp1252"', None, None),
        ("a;b,c\n1;2,5\n", "may be separated by ',' and ';'; pass the separator", None, None),
        ("Title\na,b\n1,2\n", "row 0 (line 2) has 2 cells, the header has 1; mend the row, or the header", 0, None),
        ('a,"b\n1,2\n', "in its first row that is not closed", None, None),
        ('a,"b"c\n1,2\n', "no readable first row", None, None),
        ('a,b\n1,2\n3,"4"5\n', "row 1 is not CSV", 1, None),
        ("a,b\n1,2\n3,\0\n", "column \"b\": '\\x00' is not a number", 1, "b"),
        (f"a,b\n1,2\n3,{'4' * 200_000}x\n", 'row 1 (line 3), column "b": \'44444', 1, "b"),
        (f'a,b\n1,2\n3,"{"4" * 200_000}x"\n', 'row 1, column "b": \'44444', 1, "b"),
        ("a;b\n1;0,5\n", "'0,5' is not a number; if its comma is the decimal point, pass pandas.read_csv(", 0, "b"),
        ('a,b\n"1,234",5\n', "'1,234' is not a number; if its comma is the decimal point, pass pandas", 0, "a"),
        ('a,b\n"1,234,567.5",5\n', "or thousands=',' if it stands between thousands", 0, "a"),
        ("a,b\n1,\\N\n", "if it means a missing number, pass null_values=['\\\\N']", 0, "b"),
        (b"a,b\n1,2\n3,\xff\xfe\n", "column \"b\": '\ufffd\ufffd' is not a number", 1, "b"),
        ("a,b\n1,2\n".encode("utf-16-le"), "is not a text file, or not in UTF-8", None, None),
        ("a,b\n1,2\nx,3\n", "row 1 (line 3), column \"a\": 'x' is not a number", 1, "a"),
        ("a,b\n1,2\n3,n/a\n", "'n/a' is not a number; if it means a missing number, pass null_values=['n/a']", 1, "b"),
        ("a,b\n1,2\n3\n5,6\n", "row 1 (line 3) has 1 cells, the header has 2", 1, None),
        ("a,b\n1\n3,4\n", "row 0 (line 2) has 1 cells, the header has 2", 0, None),
        ("a,b\n1,2\n3,4,5\n", "row 1 (line 3) has 3 cells, the header has 2", 1, None),
        ("a,b\n1,2,3\n", "row 0 (line 2) has 3 cells, the header has 2", 0, None),
        ("a,b\n1,2\n\n5,6\n", "row 1 (line 3) has 0 cells, the header has 2", 1, None),
        ('a,b\n"1","2"\n"3"\n', "row 1 has 1 cells, the header has 2", 1, None),
        ("a,Label_x,b\n1,cat,2\n3,dog,x\n", "row 1 (line 3), column \"b\": 'x'", 1, "b"),
        ("a,b\0\n1,2\n", "is not a text file", None, None),
    ],
)
def test_a_wrong_cell_of_a_csv_is_named(
    tmp_path: Path, text: str | bytes, sentence: str, row: Any, column: Any
) -> None:
    """The error names the file, the row, the line, the column and the cell."""
    with pytest.raises(TableError, match=re.escape(sentence)) as caught:
        read_rows(write_csv(tmp_path, text))
    assert (row, column) == (caught.value.row, caught.value.column)


def test_a_line_is_named_only_where_rows_are_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a quoted cell, in an earlier piece of the file too, the row alone says where."""
    monkeypatch.setattr("ruo.tables.csv.PIECE_BYTES", 8)
    for above, place in (("1,2\n", r"row 3 \(line 5\), column"), ('"1\n",2\n', "row 3, column")):
        with pytest.raises(TableError, match=place):
            read_rows(write_csv(tmp_path, f"a,b\n{above}3,4\n5,6\nx,7\n"))


@pytest.mark.parametrize("header", ["id,x\n", "", "\ufeff"])
def test_a_piece_may_begin_as_packed_text_does(tmp_path: Path, header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the first bytes of zlib, or with a byte order mark, as the second of two files joined: it is text as it is."""
    monkeypatch.setattr("ruo.tables.csv.PIECE_BYTES", 1)
    names = ["a", "x^2", "x\x01", "\ufeffb", "\ufeff"]
    path = write_csv(tmp_path, header + "".join(f"{name},{row}\n" for row, name in enumerate(names)))

    has_names = header == "id,x\n"
    block = one_block(path, keep=["id" if has_names else "0"], header=has_names)
    assert block.kept.to_series().to_list() == names
    assert block.array.tolist() == [[0], [1], [2], [3], [4]]


def test_a_stray_quote_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quote that is never closed does not turn the rest of a long file into one cell."""
    monkeypatch.setattr("ruo.tables.csvtext._LONGEST_CELL", 1 << 20)
    path = write_csv(tmp_path, b'a,b\n1,"2\n' + b"1.2345678,2.3456789\n" * 450_000)
    with pytest.raises(TableError, match="is opened and not closed within 64 MB"):
        read_rows(path)


@pytest.mark.parametrize("row", ['1,"2.5', '1,"', '",1\n', '1,""2"5"\n', '1,"2"5\n', '"1,2\n3,"4'])
def test_a_malformed_quote_changes_no_value(tmp_path: Path, row: str) -> None:
    """A cell with unbalanced quotes is an error, never the number without them."""
    for dtype in (np.float16, np.float32, np.float64, np.int64):
        with pytest.raises(TableError, match="table.csv"):
            read_rows(write_csv(tmp_path, f"a,b\n1,2\n{row}"), dtype=dtype)


def test_the_number_of_rows_is_estimated_while_reading(tmp_path: Path) -> None:
    """It is unknown before reading and near after the first piece, for gzip too."""
    text = pl.DataFrame(np.random.default_rng(0).random((500_000, 2)), ["a", "b"]).write_csv().encode()
    for path, data in ((tmp_path / "t.csv", text), (tmp_path / "t.csv.gz", gzip.compress(text, 1))):
        path.write_bytes(data)
        table = open_table(path)
        assert table.expected_rows() is None
        blocks = table.blocks(10_000)
        next(blocks)
        assert table.expected_rows() == pytest.approx(500_000, rel=0.5)
        blocks.close()
