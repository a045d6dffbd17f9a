"""A table in parts: each scored by itself, and joined to what one run would have given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from ruo import Scores, score_csv, score_to_file
from ruo.__main__ import main
from ruo.client.records import ModelInfo
from ruo.client.scores import Timings, merge
from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, CheckpointError, TableError
from ruo.learn.demo import Demo
from ruo.tables import open_table
from tests.client.conftest import Scripted, always
from tests.conftest import Reply, ScriptedServer
from tests.tables.forms import as_form, write_csv


def rows_of(source: Any, of: int) -> list[list[float]]:
    """The rows of all parts, one after the other."""
    blocks = [block for part in range(of) for block in open_table(source, shard=(part, of)).blocks(3)]
    return [row for block in blocks for row in block.array.tolist()]


@pytest.mark.parametrize("of", [1, 2, 3, 7, 10, 50])
@pytest.mark.parametrize("kind", ["csv", "crlf", "no newline at the end", "parquet", "polars", "pandas", "lazy"])
def test_the_parts_are_the_table(small_csv: Path, tmp_path: Path, kind: str, of: int) -> None:
    """However a table is cut, each row is in exactly one part, in order, also where there are more parts than rows."""
    text, frame = small_csv.read_bytes(), pl.read_csv(small_csv)
    texts = {"csv": text, "crlf": text.replace(b"\n", b"\r\n"), "no newline at the end": text.rstrip(b"\n")}
    source = write_csv(tmp_path, texts[kind]) if kind in texts else as_form(frame, kind, tmp_path)
    assert rows_of(source, of) == [[i, i + 0.5, 1] for i in range(10)]


def test_a_part_is_read_without_the_rest(tmp_path: Path) -> None:
    """Rubbish in another part does not matter; in its own part it is an error that names the part."""
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "1,2\n" * 100 + "1,x\n" + "1,2\n" * 99)

    assert sum(len(block.array) for block in open_table(table, shard=(0, 4)).blocks(None)) == 50
    sentence = r"table.csv, part 2 of 4 \(from byte 404 on\), row 0, column \"b\": 'x' is not"
    with pytest.raises(TableError, match=sentence):
        list(open_table(table, shard=(2, 4)).blocks(None))


def test_a_table_that_cannot_be_cut_is_an_error(small_csv: Path, tmp_path: Path) -> None:
    """A compressed file, and a cut inside a quoted cell, are errors that say what to do."""
    with pytest.raises(TableError, match="is compressed.*cannot be read in parts; unpack it first: gunzip"):
        open_table(as_form(pl.read_csv(small_csv), "csv.gz", tmp_path), shard=(0, 2))

    quoted = tmp_path / "quoted.csv"
    quoted.write_text("a,Label_x\n" + '1,"b\nb\nb\nb\nb\nb\nb\nb\nb\nb"\n' * 3)
    with pytest.raises(TableError):
        rows_of(quoted, 5)


def test_the_merged_parts_are_the_whole(
    demo: Demo, server: LocalServer, expected: np.ndarray, labels: np.ndarray, tmp_path: Path
) -> None:
    """On the command line too: predictions and labels are those of one run, in whatever order the parts are named."""
    paths = [tmp_path / f"{part}.parquet" for part in range(3)]
    for part, path in enumerate(paths):
        arguments = ["score", str(demo.testset), server.url, f"--shard={part}/3", f"--output={path}"]
        result = CliRunner().invoke(main, [*arguments, f"--checkpoint={path}.ruo"])
        assert result.exit_code == 0, result.output
    for out, read in ((tmp_path / "whole.csv", pl.read_csv), (tmp_path / "whole.parquet", pl.read_parquet)):
        result = CliRunner().invoke(main, ["merge", str(out), *map(str, reversed(paths))])
        assert result.output == f"{out}: 2,500 rows\n"
        np.testing.assert_allclose(read(out).drop("label").to_numpy(), expected, atol=1e-5)
        assert read(out)["label"].to_list() == labels.tolist()
    assert not list(tmp_path.glob("*.unfinished"))


def written(source: Any, server: Any, of: int, folder: Path, is_streamed: bool, **options: Any) -> list[Path]:
    """The files of all parts of a table, written while they come or from their `Scores`."""
    paths = [folder / f"{part}.parquet" for part in range(of)]
    for part, path in enumerate(paths):
        if is_streamed:
            score_to_file(source, server.url, path, shard=(part, of), **options)
        else:
            score_csv(source, server.url, shard=(part, of), **options).to_parquet(path)
    return paths


@pytest.mark.parametrize("is_streamed", [False, True])
def test_empty_parts_are_joined_too(small_csv: Path, well: ScriptedServer, tmp_path: Path, is_streamed: bool) -> None:
    """More parts than rows: some files are empty, and the whole is whole."""
    assert merge(written(small_csv, well, 20, tmp_path, is_streamed), tmp_path / "whole.parquet") == 10
    assert pl.read_parquet(tmp_path / "whole.parquet")["prediction_0"].to_list() == [2 * i + 1.5 for i in range(10)]


@pytest.mark.filterwarnings("ignore:.*do not name exactly one class")
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("labels", [[None] * 5 + ["x"] * 5, ["y"] * 5 + [None] * 5, [3, None] * 5, [None] * 10])
def test_a_row_without_a_label_costs_no_other_its_own(
    labels: list[Any], is_streamed: bool, well: ScriptedServer, tmp_path: Path
) -> None:
    """In a part or in the whole, in every file; a part without any label is joined to those with names."""
    table = pl.DataFrame({"id": list("0123456789"), "a": range(10), "b": 0, "c": 1, "y": labels})
    options: dict[str, Any] = {"label": "y", "keep": ["id"], "prediction_names": ["sum"]}
    paths = written(table, well, 2, tmp_path, is_streamed, **options)
    scores = score_csv(table, well.url, **options)

    scores.to_parquet(tmp_path / "once.parquet")
    assert scores.labels is None
    assert scores.to_pandas()["label"].notna().tolist() == [label is not None for label in labels]
    assert merge(paths, tmp_path / "whole.parquet") == 10
    whole = pl.read_parquet(tmp_path / "whole.parquet")
    assert json.loads(pl.read_parquet_metadata(paths[0])["ruo"])["names"] == ["sum"]
    assert whole.rows() == [(str(i), i + 1, label) for i, label in enumerate(labels)]
    assert pl.read_parquet(tmp_path / "once.parquet").equals(whole)


def test_parts_with_numbers_and_names_for_labels_are_not_merged(well: ScriptedServer, tmp_path: Path) -> None:
    """A number was read as that of a class, and how it was written is not known any more."""
    table = pl.DataFrame({"a": range(4), "b": 0, "c": 1, "y": ["01", "2", "cat", "2"]})
    with pytest.raises(CheckpointError, match="0.parquet has numbers as labels, and other parts have names; give"):
        merge(written(table, well, 2, tmp_path, is_streamed=True, label="y"), tmp_path / "whole.parquet")


def part_of(path: Path, *span: int, has_labels: bool = False, **changes: Any) -> Path:
    """A part with two rows, written as `score_csv` would."""
    named = {"model": "model", "version": "1", "sha256": "a" * 64, "output": "y"}
    key = {"data": "f" * 64, "shard": span, **named, **changes}
    model = ModelInfo(key["model"], key["version"], "test", sha256=key["sha256"], output_name=key["output"])
    labels = np.zeros(2, np.int64) if has_labels else None
    Scores(np.ones((2, 1), np.float32), labels, timings=Timings(0, 0, 1, 1), model=model, key=key).to_parquet(path)
    return path


def parts_of(folder: Path, of: int) -> list[Path]:
    """All parts of a table, of two rows each."""
    spans = [(part, of, 2 * part, 2 * part + 2, 2 * of) for part in range(of)]
    return [part_of(folder / f"{span[0]}.parquet", *span) for span in spans]


def test_parts_that_do_not_make_a_whole_are_refused(
    small_csv: Path, scripted: Scripted, well: ScriptedServer, tmp_path: Path
) -> None:
    """Foreign and unfinished parts, and what is no part, are named, and nothing is written."""
    parts, out = parts_of(tmp_path, 3), tmp_path / "whole.parquet"
    names = ("other", "half", "all", "rubbish", "none")
    other, half, whole, rubbish, none = (tmp_path / f"{name}.parquet" for name in names)
    score_csv(small_csv, well.url, shard=(2, 3)).to_parquet(other)
    score_csv(small_csv, scripted(always(Reply(500))).url, shard=(2, 3), errors="collect").to_parquet(half)
    score_csv(small_csv, well.url).to_parquet(whole)
    rubbish.write_bytes(b"rubbish")

    for third, sentence in [
        (other, "other.parquet does not fit .*0.parquet: it is of other data"),
        (half, r"half.parquet lacks 3 of its 3 rows; score this part again"),
        (whole, "all.parquet is of a whole table"),
        (rubbish, "rubbish.parquet is not a part"),
        (none, r"none.parquet cannot be read \(No such file or directory\); score this part first"),
        (tmp_path, r"cannot be read \(Is a directory\); score this part first, or correct its name or rights"),
    ]:
        with pytest.raises(CheckpointError, match=sentence):
            merge([*parts[:2], third], out)
    with pytest.raises(CheckpointError, match="There are no rows to merge; name the Parquet file of each part"):
        merge([], out)
    with pytest.raises(ArgumentError, match="is one of the parts"):
        merge(parts, parts[0])
    assert not out.exists()


@pytest.mark.parametrize("kind", ["csv", "parquet", "pandas", "polars"])
def test_a_table_that_changed_in_between_is_refused(well: ScriptedServer, tmp_path: Path, kind: str) -> None:
    """Two equally long rows that changed places between the parts are one lost and one double: another table."""
    frame = pl.DataFrame({"a": range(10), "b": 0, "c": 1})
    for part, rows in enumerate((range(10), [0, 8, 2, 3, 4, 5, 6, 7, 1, 9])):
        source = as_form(frame[list(rows)], kind, tmp_path)
        score_csv(source, well.url, shard=(part, 2)).to_parquet(tmp_path / f"{part}.parquet")

    sentence = r"1.parquet does not fit .*0.parquet: it is of other data \([0-9a-f]{12}"
    with pytest.raises(CheckpointError, match=sentence):
        merge([tmp_path / "0.parquet", tmp_path / "1.parquet"], tmp_path / "whole.parquet")


SECOND = (1, 2, 2, 4, 4)


@pytest.mark.parametrize(
    ("span", "changes", "sentence"),
    [
        (SECOND, {"data": "0" * 64}, r"of other data \(0{12}\.{3}, not f{12}\.{3}\)"),
        (SECOND, {"model": "other"}, r"of another model \(other, not model\)"),
        (SECOND, {"version": "2"}, r"of another version of the model \(2, not 1\)"),
        (SECOND, {"sha256": ""}, r"of another model file \(none, not a{12}\.{3}\)"),
        (SECOND, {"output": "z"}, r"of another output \(z, not y\)"),
        (SECOND, {"names": ["a"]}, r"of other prediction_names \(\['a'\], not none\)"),
        (SECOND, {"label_prefix": "a"}, r"of another label_prefix \(a, not none\)"),
        (SECOND, {"has_labels": True}, "whole.parquet: .* should all have the same schema"),
        ((1, 3, 2, 4, 4), {}, r"of another number of parts \(3, not 2\)"),
        ((1, 2, 2, 5, 5), {}, r"of another size \(5, not 4\)"),
        ((1, 2, 1, 4, 4), {}, "do not join: rows are missing or double"),
        ((1, 2, 3, 4, 4), {}, "do not join: rows are missing or double"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, span: Any, changes: Any, sentence: str) -> None:
    """The error names what differs: the table, the model, an option, the columns or the place of the rows."""
    parts = parts_of(tmp_path, 2)
    assert merge(parts, tmp_path / "whole.csv") == 4
    part_of(parts[1], *span, **changes)

    with pytest.raises(CheckpointError, match=sentence):
        merge(parts, tmp_path / "whole.parquet")
    assert not (tmp_path / "whole.parquet").exists()


def test_missing_and_double_parts_are_named(tmp_path: Path) -> None:
    """Every part has to be there once, the first and the last too."""
    a, b, c = parts_of(tmp_path, 3)
    for given, sentence in [
        ([b, c], "Of 3 parts, counted from 0, number 0 is missing."),
        ([c, a], "Of 3 parts, counted from 0, number 1 is missing."),
        ([a, b], "Of 3 parts, counted from 0, number 2 is missing."),
        ([a, b, c, b], "Of 3 parts, counted from 0, number 1 is given twice; name it once."),
    ]:
        with pytest.raises(CheckpointError, match=f"^{sentence}$"):
            merge(given, tmp_path / "whole.parquet")
    assert merge([c, a, b], tmp_path / "whole.parquet") == 6
    with pytest.raises(CheckpointError, match="is of a whole table; there is nothing to merge"):
        merge([tmp_path / "whole.parquet"], tmp_path / "again.parquet")


def test_a_part_whose_rows_were_changed_is_refused(tmp_path: Path) -> None:
    """A part that lost rows after it was written, or whose data are damaged, is named, and nothing is left behind."""
    parts = parts_of(tmp_path, 2)
    facts = pl.read_parquet_metadata(parts[1])
    whole = parts[1].read_bytes()
    pl.read_parquet(parts[1])[:1].write_parquet(parts[1], metadata={"ruo": facts["ruo"]})
    with pytest.raises(CheckpointError, match="1.parquet lacks 1 of its 2 rows; score this part again"):
        merge(parts, tmp_path / "whole.parquet")

    parts[1].write_bytes(whole[:4] + bytes(30) + whole[34:])
    with pytest.raises(CheckpointError, match="1.parquet|cannot be joined"):
        merge(parts, tmp_path / "whole.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.parquet", "1.parquet"]


def test_a_parts_path_is_no_pattern(tmp_path: Path) -> None:
    """A path with brackets or stars names that file, not those that match."""
    first, second = parts_of(tmp_path, 2)
    named = [first.rename(tmp_path / "*.parquet"), second.rename(tmp_path / "[1].parquet")]
    part_of(tmp_path / "1.parquet", *SECOND, version="2")

    assert merge(named, tmp_path / "whole.parquet") == 4
