"""A table in parts: each scored by itself, and joined to what one run would have given."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ruo import score_csv
from ruo.__main__ import main
from ruo.client.shards import merge
from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, CheckpointError, TableError
from ruo.learn.demo import Demo
from ruo.table import open_table


def rows_of(source: Any, of: int) -> list[list[float]]:
    """The rows of all parts, one after the other."""
    blocks = [block for part in range(of) for block in open_table(source, shard=(part, of)).blocks(3)]
    return [row for block in blocks for row in block.features.tolist()]


@pytest.mark.parametrize("of", [1, 2, 3, 7, 10, 50])
@pytest.mark.parametrize("kind", ["csv", "crlf", "no newline at the end", "parquet", "DataFrame"])
def test_the_parts_are_the_table(small_csv: Path, tmp_path: Path, kind: str, of: int) -> None:
    """However a table is cut, each row is in exactly one part, in order, also where there are more parts than rows."""
    whole = [[i, i + 0.5, 1] for i in range(10)]
    source: Any = small_csv
    if kind == "crlf":
        small_csv.write_bytes(small_csv.read_bytes().replace(b"\n", b"\r\n"))
    elif kind == "no newline at the end":
        small_csv.write_bytes(small_csv.read_bytes().rstrip(b"\n"))
    elif kind == "parquet":
        source = tmp_path / "small.parquet"
        pl.read_csv(small_csv).write_parquet(source)
    elif kind == "DataFrame":
        source = pl.read_csv(small_csv)

    assert rows_of(source, of) == whole


def test_rows_of_any_length_are_cut_between(tmp_path: Path) -> None:
    """Long and short rows, and hundreds of ways to cut them."""
    draw = random.Random(3)
    whole = [[draw.randrange(10 ** draw.randrange(1, 7)), draw.randrange(9)] for _ in range(60)]
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in whole))

    for of in range(1, 130, 8):
        assert rows_of(table, of) == whole


@pytest.mark.parametrize("of", range(1, 9))
def test_empty_cells_of_a_single_column_are_rows(tmp_path: Path, of: int) -> None:
    """In a table of one column a blank line is a row with an empty cell, at the end of a part and of the file too."""
    table = tmp_path / "table.csv"
    table.write_text("a\n1\n\n3\n\n\n6\n\n")

    np.testing.assert_array_equal([[1], [np.nan], [3], [np.nan], [np.nan], [6], [np.nan]], rows_of(table, of))


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    """Rubbish in another part does not matter; in its own part it is an error that names the part."""
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "1,2\n" * 100 + "1,x\n" + "1,2\n" * 99)

    assert sum(len(block.features) for block in open_table(table, shard=(0, 4)).blocks(None)) == 50
    with pytest.raises(
        TableError, match=r'table.csv, part 2 of 4 \(from byte 404 on\), row 0, column "b": \'x\' is not'
    ):
        list(open_table(table, shard=(2, 4)).blocks(None))


def test_a_table_that_cannot_be_cut_is_an_error(small_csv: Path, tmp_path: Path) -> None:
    """A compressed file, and a cut inside a quoted cell, are errors that say what to do."""
    import gzip

    packed = tmp_path / "small.csv.gz"
    packed.write_bytes(gzip.compress(small_csv.read_bytes()))
    with pytest.raises(TableError, match="is compressed and cannot be read in parts; unpack it first: gunzip"):
        open_table(packed, shard=(0, 2))

    quoted = tmp_path / "quoted.csv"
    quoted.write_text("a,Label_x\n" + '1,"b\nb\nb\nb\nb\nb\nb\nb\nb\nb"\n' * 3)
    with pytest.raises(TableError):
        rows_of(quoted, 5)


@pytest.mark.parametrize("shard", [(-1, 2), (2, 2), (0, 0)])
def test_an_impossible_part_is_refused(small_csv: Path, shard: tuple[int, int]) -> None:
    """The parts are counted from 0."""
    with pytest.raises(ArgumentError, match=r"is no part; \(0, 4\) is the first of four, \(3, 4\) the last"):
        score_csv(small_csv, "http://127.0.0.1:9", shard=shard)


@pytest.fixture(scope="module")
def parts(demo: Demo, server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The demo's predictions in three parts, as the command line writes them."""
    folder = tmp_path_factory.mktemp("parts")
    paths = [folder / f"{part}.parquet" for part in range(3)]
    for part, path in enumerate(paths):
        arguments = ["score", str(demo.testset), server.url, f"--shard={part}/3", f"--output={path}"]
        result = CliRunner().invoke(main, [*arguments, f"--checkpoint={folder / str(part)}.ruo"])
        assert result.exit_code == 0, result.output
    return paths


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_merged_parts_are_the_whole(
    demo: Demo, server: LocalServer, parts: list[Path], expected: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    """Predictions and labels are those of one run, whatever the order in which the parts are named."""
    out = tmp_path / f"whole.{suffix}"
    result = CliRunner().invoke(main, ["merge", str(out), *map(str, reversed(parts))])

    assert result.output == f"{out}: 2,500 rows\n"
    frame = pl.read_csv(out) if suffix == "csv" else pl.read_parquet(out)
    np.testing.assert_allclose(frame.drop("label").to_numpy(), expected, atol=1e-5)
    assert frame["label"].to_list() == score_csv(demo.testset, server.url).labels.tolist()  # type: ignore[union-attr]
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name]


def test_parts_without_rows_are_joined_too(small_csv: Path, scripted: Any, answers: Any, tmp_path: Path) -> None:
    """More parts than rows: some files are empty, and the whole is whole."""
    server = scripted(answers)
    paths = [tmp_path / f"{part}.parquet" for part in range(20)]
    for part, path in enumerate(paths):
        score_csv(small_csv, server.url, shard=(part, 20)).to_parquet(path)

    assert merge(paths, tmp_path / "whole.parquet") == 10
    assert pl.read_parquet(tmp_path / "whole.parquet")["prediction_0"].to_list() == [2 * i + 1.5 for i in range(10)]


def test_parts_that_do_not_make_a_whole_are_refused(
    demo: Demo, server: LocalServer, small_csv: Path, scripted: Any, answers: Any, reply: Any, parts: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    """Missing, double, foreign and unfinished parts are named, and nothing is written."""
    out = tmp_path / "whole.parquet"
    other, half, whole = (tmp_path / f"{name}.parquet" for name in ("other", "half", "all"))
    score_csv(small_csv, scripted(answers).url, shard=(2, 3)).to_parquet(other)
    failing = scripted(lambda number, body, headers: reply(500))
    score_csv(small_csv, failing.url, shard=(2, 3), errors="collect").to_parquet(half)
    score_csv(small_csv, scripted(answers).url).to_parquet(whole)
    (tmp_path / "rubbish.parquet").write_bytes(b"rubbish")
    a, b, c = parts

    for given, sentence in [
        ([], "No parts are given"),
        ([a, c], "Of 3 parts, counted from 0, number 1 is missing"),
        ([a, b, b, c], "Part 1 is given twice"),
        ([a, b, other], "are parts of different tables, or of different cuts"),
        ([a, b, half], r"half.parquet lacks \d rows that were not scored"),
        ([a, b, whole], "all.parquet is of a whole table"),
        ([a, b, tmp_path / "rubbish.parquet"], "rubbish.parquet is not a part"),
        ([a, b, tmp_path / "none.parquet"], "none.parquet is not a part"),
    ]:
        with pytest.raises(CheckpointError, match=sentence):
            merge(given, out)
    with pytest.raises(ArgumentError, match="is one of the parts"):
        merge(parts, a)
    assert not out.exists()


def test_a_table_that_changed_in_between_is_refused(
    small_csv: Path, scripted: Any, answers: Any, tmp_path: Path
) -> None:
    """Parts of as many bytes whose borders do not meet are of two tables."""
    server = scripted(answers)
    score_csv(small_csv, server.url, shard=(0, 2)).to_parquet(tmp_path / "0.parquet")
    small_csv.write_text("a,b,c\n1111111111111111,1,1\n" + "2,1,1\n" * 10)
    size = (tmp_path / "0.parquet", 10 * len("0,0.5,1\n") + 6)[1]
    text = small_csv.read_text()[: size - 1] + "\n"
    small_csv.write_text(text if len(text) == size else text + "\n")
    score_csv(small_csv, server.url, shard=(1, 2)).to_parquet(tmp_path / "1.parquet")

    with pytest.raises(CheckpointError, match="do not join: the table changed in between"):
        merge([tmp_path / "0.parquet", tmp_path / "1.parquet"], tmp_path / "whole.parquet")
