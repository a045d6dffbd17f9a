"""`score_to_file`: the predictions in a file while they come, which appears when it is whole."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from ruo import ArgumentError, ScoringError, iter_scores, score_csv, score_to_file
from ruo.errors import OutputError
from tests.client.conftest import Scripted, describe, late, python
from tests.conftest import Reply, ScriptedServer, row_sums

SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A thousand rows with an id that is no number, and a label."""
    path = tmp_path / "table.csv"
    rows = [f"{i:05},{i},0.5,1,{i % 2},{1 - i % 2}\n" for i in range(1_000)]
    path.write_text("id,a,b,c,Label_x,Label_y\n" + "".join(rows))
    return path


def read(path: Path) -> pl.DataFrame:
    """The file, with ids as text."""
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, schema_overrides={"id": pl.String})


@SUFFIXES
def test_the_file_is_what_score_csv_gives(table: Path, well: ScriptedServer, tmp_path: Path, suffix: str) -> None:
    """The same table as from the `Scores`, byte for byte, however it was cut; the result counts and reports the same."""
    url, path = well.url, tmp_path / f"p{suffix}"
    written = score_to_file(table, url, path, keep=["id"], chunk_size=7)
    scores = score_csv(table, url, keep=["id"])
    other = tmp_path / f"q{suffix}"
    score_to_file(table, url, other, keep=["id"], chunk_size=None)

    assert path.read_bytes() == other.read_bytes()
    (scores.to_csv if suffix == ".csv" else scores.to_parquet)(tmp_path / f"s{suffix}")
    assert read(path).equals(read(tmp_path / f"s{suffix}"))
    assert read(path)["id"].to_list() == [f"{i:05}" for i in range(1_000)]
    assert read(path)["prediction_0"].to_list() == [i + 1.5 for i in range(1_000)]
    assert read(path)["label"].to_list() == [1, 0] * 500
    assert (written.rows, len(written), len(written.requests), written.path) == (1_000, 1_000, 143, path)
    assert repr(written).startswith("ScoredFile(1,000 rows x 1 output, ")
    if suffix == ".parquet":
        facts = [json.loads(pl.read_parquet_metadata(tmp_path / name)["ruo"]) for name in ("p.parquet", "s.parquet")]
        assert facts[0] == facts[1]


@SUFFIXES
@pytest.mark.parametrize("failed", [0, 300, 900])
def test_failed_rows_are_empty_and_listed(table: Path, scripted: Any, tmp_path: Path, suffix: str, failed: int) -> None:
    """With errors="collect" they have NaN or an empty cell beside their kept cells, the first and last rows too."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        return Reply(400, b"no") if f"rows {failed}-".encode() in body else row_sums(body, headers)

    path, server = tmp_path / f"p{suffix}", scripted(script)
    describe(server, outputs=[])
    written = score_to_file(table, server.url, path, keep=["id"], chunk_size=100, errors="collect")

    assert written.failures[["start", "stop"]].values.tolist() == [[failed, failed + 100]]
    assert (written.not_scored, len(written.errors)) == (100, 1)
    frame = read(path).with_columns(pl.col("prediction_0").fill_null(np.nan))
    assert frame["id"].to_list() == [f"{i:05}" for i in range(1_000)]
    assert np.flatnonzero(frame["prediction_0"].is_nan()).tolist() == list(range(failed, failed + 100))


def test_no_file_is_written_without_a_column(table: Path, scripted: Scripted, tmp_path: Path) -> None:
    """Where no row was scored and nothing tells the outputs, its rows could not be told from none."""
    server = scripted(lambda *_: Reply(400, b"no"))
    describe(server, outputs=[])
    with pytest.raises(ScoringError, match="400: no"):
        score_to_file(table, server.url, tmp_path / "p.parquet", drop=["id", "Label_x", "Label_y"], errors="collect")
    assert list(tmp_path.iterdir()) == [table]


@SUFFIXES
def test_a_file_appears_when_it_is_whole(table: Path, scripted: Scripted, tmp_path: Path, suffix: str) -> None:
    """While the run goes on, and after it failed, the old file stands as it was; nothing unfinished is left."""
    path = tmp_path / f"p{suffix}"
    path.write_text("old")
    seen: list[str] = []

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        seen.append(path.read_text())
        return row_sums(body, headers) if number < 5 else Reply(400, b"no")

    with pytest.raises(ScoringError, match="400: no"):
        score_to_file(table, scripted(script).url, path, keep=["id"], chunk_size=100, concurrency=1)
    assert set(seen) == {"old"} == {path.read_text()}
    assert sorted(tmp_path.iterdir()) == sorted([path, table])


@SUFFIXES
def test_two_runs_do_not_write_one_file(table: Path, scripted: Scripted, tmp_path: Path, suffix: str) -> None:
    """The second is refused and leaves the first one's file alone, which becomes whole; later the name is free again."""
    path, refused = tmp_path / f"p{suffix}", list[str]()
    done = score_csv(table, scripted(lambda _, *request: row_sums(*request)).url, keep=["id"])
    write = done.to_csv if suffix == ".csv" else done.to_parquet

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        if number == 5:
            with pytest.raises(OutputError) as caught:
                write(path)
            refused.append(str(caught.value))
        return row_sums(body, headers)

    score_to_file(table, scripted(script).url, path, keep=["id"], chunk_size=100, concurrency=1)
    assert refused == [f"{path} is being written by another run; wait for its end, or name another file."]
    assert read(path)["prediction_0"].to_list() == [i + 1.5 for i in range(1_000)]
    write(path)
    assert sorted(tmp_path.iterdir()) == sorted([path, table])


@pytest.mark.slow
@SUFFIXES
def test_a_killed_run_goes_on_to_the_same_bytes(table: Path, scripted: Any, tmp_path: Path, suffix: str) -> None:
    """After kill -9, the same command scores only the rest, and its file is that of a run without interruption."""
    stuck, path, checkpoint, size = threading.Event(), tmp_path / f"p{suffix}", tmp_path / "run.ruo", -1

    def wait_s(number: int) -> float:
        if number == 60:
            stuck.set()
        return 30 if 60 <= number < 68 else 0

    server = scripted(late(wait_s))
    command = [sys.executable, "-m", "ruo", "score", str(table), server.url, "-o", str(path), "--keep", "id"]
    command += ["--chunk-size=10", "--checkpoint", str(checkpoint)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    assert stuck.wait(60)
    while size != (size := checkpoint.stat().st_size):  # what was answered is written soon
        time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()

    before = len(server.requests)
    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 0, again.stderr
    assert len(server.requests) - before < 60
    score_to_file(table, server.url, tmp_path / f"whole{suffix}", keep=["id"], chunk_size=10)
    assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.slow
@SUFFIXES
def test_memory_is_bounded(well: ScriptedServer, tmp_path: Path, suffix: str) -> None:
    """Two million rows with 400 MB of kept text take less than 400 MB."""
    table, path = tmp_path / "large.csv", tmp_path / f"p{suffix}"
    with table.open("w") as file:
        file.write("id,a,b,c\n")
        for start in range(0, 2_000_000, 10_000):
            file.write("".join(f"{'x' * 193}{i:07},{i},0.5,1\n" for i in range(start, start + 10_000)))
    program = f"""
        from ruo import score_to_file
        from ruo.machine import peak_rss_mb
        written = score_to_file({str(table)!r}, {well.url!r}, {str(path)!r}, keep=["id"])
        print(len(written), int(peak_rss_mb()))
    """
    rows, megabytes = map(int, python(program).split())
    assert rows == 2_000_000
    assert megabytes < 400
    whole = pl.scan_csv(path) if suffix == ".csv" else pl.scan_parquet(path)
    assert whole.select(pl.len()).collect().item() == 2_000_000


def test_a_source_among_several_is_not_written_over(small_csv: Path, tmp_path: Path, well: ScriptedServer) -> None:
    """One of a list, one in a folder, and one that is called as an unfinished file is; nor is a checkpoint read as one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.csv", "b.csv", "c.csv.unfinished"):
        shutil.copy(small_csv, folder / name)
    for source, path in (([folder / "a.csv", folder / "b.csv"], "b.csv"), (folder, "a.csv"), (folder, "c.csv")):
        with pytest.raises(ArgumentError, match="is the table itself"):
            score_to_file(source, well.url, folder / path)
    score_csv(folder, well.url, checkpoint=tmp_path / "run.ruo")
    shutil.move(tmp_path / "run.ruo", folder / "run.ruo")
    with pytest.raises(ArgumentError, match=r"run\.ruo is a file of the table; name another one"):
        score_csv(folder, well.url, checkpoint=folder / "run.ruo")


def test_a_program_may_change_its_folder(table: Path, well: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it named before, relative to the old one, is read and written there."""
    monkeypatch.chdir(table.parent)
    blocks = iter_scores(["table.csv", table], well.url, keep=["id"])

    def frames() -> Iterator[pl.DataFrame]:
        yield read(table)
        monkeypatch.chdir("/")
        yield read(table)

    score_to_file(frames(), well.url, "p.csv", keep=["id"])
    assert {*table.parent.iterdir()} == {table, table.with_name("p.csv")}
    assert sum(len(block.predictions) for block in blocks) == len(read(table.with_name("p.csv"))) == 2_000


def test_labels_may_begin_late(well: ScriptedServer, tmp_path: Path) -> None:
    """Where text follows rows without a label, a CSV has both, and Parquet, which needs one type, says what to do."""
    features = pl.DataFrame({name: np.ones(20_001, np.float32) for name in "abc"})
    labelled = features.with_columns(label=pl.Series([*[None] * 20_000, "x"]))
    score_to_file(labelled, well.url, tmp_path / "p.csv", label="label")
    assert pl.read_csv(tmp_path / "p.csv", infer_schema=False)["label"].equals(labelled["label"])
    with pytest.raises(OutputError, match="from row 20,000 on are text, and all above are missing, .* write a .csv"):
        score_to_file(labelled, well.url, tmp_path / "p.parquet", label="label")


@pytest.mark.parametrize(
    ("path", "options", "sentence"),
    [
        ("p.txt", {}, "p.txt must end in .csv or .parquet"),
        ("nowhere/p.csv", {}, "nowhere does not exist; make it"),
        (".", {}, "must end in"),
        ("folder.parquet", {}, r"written \(it is a folder\)"),
        ("p" * 300 + ".csv", {}, r"cannot be written \(File name too long\)"),
        ("p\udcff.csv", {}, r"'p\\udcff.csv' is not in UTF-8; rename it, or name another file"),
        ("p.csv", {"checkpoint": "a\0b"}, r"checkpoint='a\\x00b' is not a path"),
        ("p.csv", {"shard": (0, 2)}, "can only be merged as .parquet"),
        ("small.csv", {}, "small.csv is the table itself"),
        ("run.csv", {"checkpoint": "run.csv"}, "run.csv is the checkpoint itself"),
    ],
)
def test_a_file_that_cannot_be_is_refused(
    small_csv: Path, path: str, options: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is read or sent: no folder, another format, or a file that is needed; nothing is left behind."""
    monkeypatch.chdir(small_csv.parent)
    Path("folder.parquet").mkdir()
    with pytest.raises((ArgumentError, OutputError), match=sentence):
        score_to_file("small.csv", "http://127.0.0.1:9", path, **options)
    assert small_csv.read_text().startswith("a,b,c\n")
    assert sorted(Path().iterdir()) == [Path("folder.parquet"), Path("small.csv")]
