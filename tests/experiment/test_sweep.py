"""The request-size sweep against a real server, and what it leaves on disk."""

import html
import json
import re
import shutil
import socket
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, ExperimentError
from ruo.experiment import Sweep, read_sweep, sweep
from ruo.experiment.results import COLUMNS
from ruo.learn.demo import Demo
from ruo.provenance import Provenance, fingerprint
from tests.experiment.test_carry_out import lines_of
from tests.proxy import Proxy

pytestmark = pytest.mark.slow

SIZES = [500, 1000, None]


@pytest.fixture(scope="module")
def arguments(demo: Demo, server: LocalServer) -> dict[str, Any]:
    """The arguments of the sweep that these tests look at."""
    return {"source": demo.testset, "url": server.url, "chunk_sizes": [*SIZES, 2_500, 9_000], "runs": 2, "seed": 7}


@pytest.fixture(scope="module")
def swept(arguments: dict, demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A whole sweep: three sizes, two ways of sending, one warm-up block and two measured ones."""
    return sweep(**arguments, results_dir=tmp_path_factory.mktemp("sweep") / "results")


@pytest.fixture
def copy(swept: Sweep, tmp_path: Path) -> Path:
    """A copy of the sweep's folder, to be changed."""
    return Path(shutil.copytree(swept.results_dir, tmp_path / "copy"))


def rewrite(folder: Path, change: Callable[[dict], object]) -> Sweep:
    """The sweep with every line changed by `change`."""
    lines = lines_of(folder)
    for line in lines:
        change(line)
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_sweep(folder)


def calm(folder: Path) -> Sweep:
    """The sweep as if the machine had done nothing else meanwhile, which other tests do."""
    return rewrite(folder, lambda line: line.update(machine_busy=None, total_s=1.0 + 0.01 * (line["position"] % 3)))


ROWS = pl.DataFrame({name: np.arange(20.0) for name in "abc"})
ONE_SIZE = {"chunk_sizes": [10], "runs": 2, "warmup": 0, "pipelined": [True]}  # two runs of two requests each, of ROWS


def test_the_answer_names_the_best(swept: Sweep, copy: Path) -> None:
    """The best of two is fastest, has the least mean only, or is no better than the other, as its blocks say."""
    both = [line for line in lines_of(swept.results_dir) if (line["block"], line["pipelined"]) == (1, True)][:2]

    def answer(ratio: Callable[[int], float], blocks: int) -> str:
        """The answer where the second setting takes `ratio` times as long, and block 3 is slow."""
        lines = [
            {**line, "block": block, "total_s": (20 if block == 3 else 1) * (ratio(block) if line is both[1] else 1.0)}
            for block in range(1, blocks + 1)
            for line in both
        ]
        numbered = [json.dumps({**line, "run": run}) for run, line in enumerate(lines, 1)]
        (copy / "runs.jsonl").write_text("\n".join([*numbered, ""]))
        return read_sweep(copy).answer()

    assert " is fastest: 2,500 rows in" in answer(lambda block: 1.3, 5)
    assert " is fastest in 1 block, which cannot rule out chance: 2,500 rows in" in answer(lambda block: 1.3, 1)
    assert answer(lambda block: 1 + (-1) ** block / 100, 6).startswith("No difference is seen between the best two, ")
    text = answer(lambda block: 0.9 if block == 3 else 1.04, 20)
    assert re.match(".* takes the least time on average, but .* is faster block by block: 2,500 rows in", text)


def test_runs_without_their_phases_are_read(copy: Path) -> None:
    """What a file of an earlier time does not have is left empty in the summary, and no error."""
    earlier = rewrite(copy, lambda line: line.pop("forming_s", None))
    assert earlier.summary()["forming_mean"].isna().all()
    assert earlier.summary()["total_mean"].notna().all()
    timeless = rewrite(copy, lambda line: line.pop("total_s"))
    assert timeless.answer() == "No run succeeded, so there is no fastest request size."


def test_a_line_per_run(swept: Sweep) -> None:
    """Every run of the plan has its line and its row, with every column, as many requests as its size asks for."""
    assert len(lines_of(swept.results_dir)) == len(swept.runs) == 18
    assert list(swept.runs.columns) == COLUMNS
    assert set(lines_of(swept.results_dir)[0]) == set(COLUMNS) - {"system"}
    assert swept.runs["warmup"].tolist() == [True] * 6 + [False] * 12
    assert swept.measured["run"].tolist() == list(range(7, 19))
    assert dict(zip(swept.runs["rows_per_request"], swept.runs["requests"], strict=True)) == {500: 5, 1000: 3, 2500: 1}
    assert (swept.runs["chunk_size"].isna() == (swept.runs["rows_per_request"] == 2500)).all()
    left_out = [line for line in swept.verdict().splitlines() if "was left out" in line]  # not smaller than the table
    assert [line.split(" rows")[0] for line in left_out] == ["2,500", "9,000"]


def test_what_a_run_measures(swept: Sweep, server: LocalServer) -> None:
    """A run knows its times, its memory, its CPU, who answered, and how far its answers are from the first ones."""
    runs = swept.runs
    np.testing.assert_allclose(runs["rows_per_s"], 2500 / runs["total_s"])
    np.testing.assert_allclose(runs["client_cpu_share"], runs["client_cpu_s"] / runs["total_s"])
    assert (runs["request_median_s"] <= runs["request_max_s"]).all()
    assert (runs["forming_s"] + runs["sending_s"] <= runs["total_s"])[~runs["pipelined"]].all()
    assert (runs["client_cpu_s"] > 0).all()
    assert (runs["memory_mb"] >= 0).all()
    assert runs["max_abs_difference"].iloc[0] == 0
    assert runs["max_abs_difference"].max() <= 1e-5
    same = runs[["rows", "answers_equal", "retries", "server"]].drop_duplicates()
    assert same.to_numpy().tolist() == [[2500, True, 0, server.url]]
    assert runs["model_version"].nunique() == 1
    assert pd.to_datetime(runs["started_at"], utc=True).is_monotonic_increasing


def test_provenance_is_written_once(swept: Sweep, demo: Demo) -> None:
    """The folder says once what was measured where; each line has the digest of it and no path is named."""
    facts = json.loads((swept.results_dir / "provenance.json").read_text())
    columns = facts["data"]["columns"]
    assert re.fullmatch("[0-9a-f]{12}", columns)
    assert facts["data"] == {
        "name": "testset.csv", "rows": 2500, "features": 64, "columns": columns, "label_prefix": "Label_", "sha256": fingerprint(demo.testset),
    }  # fmt: skip
    assert facts["plan"]["seed"] == 7
    assert set(swept.runs["provenance"]) == {Provenance(facts).digest}
    assert str(demo.testset.parent) not in json.dumps(facts)


def test_keywords_take_effect(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """The wire, the concurrency, the ways of sending and the number of warm-ups are those that were asked for."""
    model = demo.models["mlp"]
    how = {"runs": 1, "warmup": 0, "pipelined": [False], "wire": "v1", "concurrency": 3}
    swept = sweep(demo.testset, server.url, chunk_sizes=[1000], model=model, results_dir=tmp_path, **how)
    assert swept.runs[["wire", "concurrency", "pipelined"]].to_numpy().tolist() == [["v1", 3, False]]
    assert swept.provenance.facts["model"] == {"name": "mlp.keras", "sha256": fingerprint(model)}
    assert swept.cost_of_requests().startswith("No cost is fitted: that takes two request sizes or more")


def test_keywords_of_score_csv_reach_it(tmp_path: Path, scripted: Callable, reply: type, right_answer: Callable) -> None:  # fmt: skip
    """The token is sent, columns with the label prefix are not, and a request that takes too long fails its run."""
    tokens = []

    def script(number: int, body: bytes, headers: dict) -> Any:
        tokens.append(headers.get("Authorization"))
        return reply(wait_s=1.0) if number == 1 else right_answer(body, headers)

    rows = ROWS.with_columns(class_1=1.0)
    how = {"label_prefix": "class_", "token": "word", "timeout": 0.3, "concurrency": 1}
    swept = sweep(rows, scripted(script).url, **ONE_SIZE, results_dir=tmp_path, **how)
    assert set(tokens) == {"Bearer word"}
    assert "gave no answer within 0.3 s" in swept.runs["error"].iloc[0]
    assert swept.runs["error"].isna().tolist() == [False, True]
    assert "word" not in (tmp_path / "provenance.json").read_text()


def test_progress_counts_runs(tmp_path: Path, scripted: Callable, answers: Callable, capfd: pytest.CaptureFixture) -> None:  # fmt: skip
    """A bar counts the runs where it is asked for, and is silent where nobody looks."""
    url = scripted(answers).url
    sweep(ROWS, url, **ONE_SIZE, results_dir=tmp_path / "a")
    assert capfd.readouterr().err == ""
    sweep(ROWS, url, **ONE_SIZE, results_dir=tmp_path / "b", progress=True)
    assert "2/2" in capfd.readouterr().err


def test_a_notebook_shows_summary_and_verdict(copy: Path) -> None:
    """A notebook shows the summary and the verdict, which judges the claim of 2023 in both ways; two runs cannot tell."""
    swept = calm(copy)
    shown = swept._repr_html_()
    assert shown.startswith(f"<p><b>{html.escape(swept.answer())}</b></p><p><span")
    assert shown.count("<tr") == 7
    assert shown.count("<details>") == 2
    assert html.escape(swept.verdict()) in shown
    assert max(map(len, str(swept).splitlines())) < 130
    assert swept.verdict().startswith("VALID: every run scored every row alike.")
    assert swept.verdict().count('"The whole set in one request is fastest" (2023): cannot tell') == 2
    assert repr(swept) == "Sweep(12 runs of 3 request sizes, VALID, in copy)"


@pytest.mark.parametrize("left", [b"", b'{"run": 8, "block": 1, "warm'])
def test_an_interrupted_sweep_resumes(swept: Sweep, arguments: dict, copy: Path, left: bytes) -> None:
    """A killed sweep resumes where it stopped, even within a line, and ends like one that was not."""
    kept = (copy / "runs.jsonl").read_bytes().splitlines(keepends=True)[:7]
    (copy / "runs.jsonl").write_bytes(b"".join(kept) + left)
    assert len(read_sweep(copy).runs) == 7
    assert "INVALID: 11 runs of the plan are missing" in read_sweep(copy).verdict()
    resumed = sweep(**arguments, results_dir=copy)
    assert (copy / "runs.jsonl").read_bytes().startswith(b"".join(kept))
    same = ["run", "block", "warmup", "position", "rows_per_request", "pipelined", "provenance"]
    pd.testing.assert_frame_equal(resumed.runs[same], swept.runs[same])
    assert resumed.runs["answers_equal"].all()
    assert calm(copy).verdict().startswith("VALID")


def test_finished_sweep_is_read_and_not_run(arguments: dict, copy: Path, demo: Demo, tmp_path: Path) -> None:
    """The same call on a finished sweep measures nothing again, and needs no server; one that differs is refused."""
    before = (copy / "runs.jsonl").read_bytes()
    sweep(**{**arguments, "url": "nowhere"}, results_dir=copy)
    pl.read_csv(demo.testset).reverse().write_csv(tmp_path / "testset.csv")
    others = [{"runs": 3}, {"seed": 8}, {"wire": "v1"}, {"concurrency": 2}, {"chunk_sizes": [500]}]
    for other in [*others, {"source": tmp_path / "testset.csv"}, {"model": demo.models["mlp"]}]:
        with pytest.raises(ExperimentError, match=r"holds runs of (another plan|other data|another model)"):
            sweep(**{**arguments, **other}, results_dir=copy)
    assert (copy / "runs.jsonl").read_bytes() == before


def test_damaged_results_are_refused(copy: Path, arguments: dict) -> None:
    """A damaged line, runs that are gone or doubled, and another folder than a sweep's are refused with a sentence."""
    lines = (copy / "runs.jsonl").read_text().splitlines(keepends=True)
    readers = (read_sweep, lambda folder: sweep(**arguments, results_dir=folder))
    for read, (runs, number) in product(readers, ((lines[:3] + lines[4:], 4), (lines * 2, 19))):
        (copy / "runs.jsonl").write_text("".join(runs))
        with pytest.raises(ExperimentError, match=f"line {number}, .* not run {number}, as where runs are missing or"):
            read(copy)
    for line in ("{broken", "[]", "7"):
        (copy / "runs.jsonl").write_text(f"{lines[0]}{line}\n{lines[2]}")
        with pytest.raises(ExperimentError, match="line 2, is damaged"):
            read_sweep(copy)
    (copy / "runs.jsonl").write_text(lines[0])
    for facts in ("{", "[]", "{}", '{"plan": {"factors": {"job": ["mlp"]}}}'):
        (copy / "provenance.json").write_text(facts)
        with pytest.raises(ExperimentError, match="is damaged, or of another kind of experiment"):
            read_sweep(copy)
    (copy / "provenance.json").unlink()
    for read in readers:
        with pytest.raises(ExperimentError, match=r"has no provenance.json"):
            read(copy)


def test_failed_runs_are_kept(tmp_path: Path, scripted: Callable, reply: type, right_answer: Callable) -> None:
    """A run that fails is kept with the server's sentence, and the sweep continues."""
    large = reply(413, b'{"error": "too large"}')  # twenty rows of three floats are more than this server takes
    server = scripted(lambda number, body, headers: large if len(body) > 420 else right_answer(body, headers))
    swept = sweep(ROWS, server.url, chunk_sizes=[5, None], runs=1, results_dir=tmp_path)
    failed = swept.measured[swept.measured["error"].notna()]
    assert failed["rows_per_request"].tolist() == [20, 20]
    assert failed["error"].str.contains("answered 413: too large").all()
    assert swept.verdict().startswith("INVALID: 2 runs failed (Rows 0 to 19 were not scored")
    assert "The whole set in one request: 1 run failed." in swept.verdict()
    summary = swept.summary().set_index("rows_per_request")
    assert summary["failed"].to_dict() == {5: 0, 20: 1}
    assert summary["n"].to_dict() == {5: 1, 20: 0}


def test_nothing_is_sent_again_in_a_timed_run(tmp_path: Path, scripted: Callable, reply: type, right_answer: Callable) -> None:  # fmt: skip
    """A server that is overloaded once makes its run fail, for a second try would be timed as if it were one."""
    busy = reply(503, b'{"error": "busy"}')
    server = scripted(lambda number, body, headers: busy if number == 3 else right_answer(body, headers))
    errors = sweep(ROWS, server.url, **ONE_SIZE, results_dir=tmp_path).runs["error"]
    assert errors.str.contains("busy").tolist()[1:] == [True]
    assert errors.isna().tolist() == [True, False]


def test_other_answers_are_invalid(tmp_path: Path, scripted: Callable, right_answer: Callable) -> None:
    """A run whose predictions differ from the first run's makes the sweep INVALID."""

    def script(number: int, body: bytes, headers: dict) -> Any:
        if number < 3:
            return right_answer(body, headers)
        values = np.frombuffer(body[-120:], np.float32) + 0.001
        return right_answer(body[:-120] + values.tobytes(), headers)

    swept = sweep(ROWS, scripted(script).url, **ONE_SIZE, results_dir=tmp_path)
    assert swept.runs["answers_equal"].tolist() == [True, False]
    assert swept.runs["max_abs_difference"].tolist() == pytest.approx([0, 0.003], abs=1e-5)
    assert "INVALID: 1 run gave other predictions than the first" in swept.verdict()


def test_other_systems_are_measured_in_every_block(copy: Path, arguments: dict, tmp_path: Path) -> None:
    """Another system comes once in each block, its answers are checked, and it is no request size."""
    calls: list[int] = []

    def job() -> tuple[dict, np.ndarray]:
        calls.append(1)
        return ({"error": "Too small."}, np.empty(0)) if len(calls) == 3 else ({"total_s": 0.01}, wrong)

    wrong = np.zeros((2500, 10), np.float32)
    plan = {**arguments, "chunk_sizes": [1000], "pipelined": [True]}
    swept = sweep(**plan, others={"no network": job}, results_dir=tmp_path / "new")
    assert swept.runs["block"].tolist() == [0, 0, 1, 1, 2, 2]
    assert swept.runs.groupby("block")["system"].count().tolist() == [1, 1, 1]
    assert swept.measured["rows_per_request"].tolist() == [1000, 1000]
    assert swept.others()["no network"]["total_s"].tolist()[:1] == [0.01]
    assert "gave other predictions than the first" in swept.verdict()
    assert "No network could not be measured: Too small." in swept.verdict()
    assert "times as long as no network (0.01" in swept.answer()


def test_no_server_raises_at_once(tmp_path: Path, scripted: Callable, answers: Callable) -> None:
    """A sweep without a server fails before its first run, and the folder may then be used for any plan."""
    with pytest.raises(ArgumentError, match="is not the address of a server"):
        sweep(ROWS, "nowhere", **ONE_SIZE, results_dir=tmp_path)
    assert not lines_of(tmp_path)
    swept = sweep(ROWS, scripted(answers).url, chunk_sizes=[5], runs=1, results_dir=tmp_path)
    assert len(swept.runs) == 4
    assert calm(tmp_path).verdict().startswith("VALID")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [([0], "0 must be at least 1"), ([2.5], "must be a list of whole numbers or None"), ([5000], "chunk_sizes: none is below the table's 2,500 rows"),
     ([], "chunk_sizes has no level"), ([100, 100], r"chunk_sizes=\[100, 100\] has a level twice")],
)  # fmt: skip
def test_sizes_that_cannot_be(arguments: dict, tmp_path: Path, sizes: list, sentence: str) -> None:
    """Sizes that are no number of rows, or all too large, are refused before anything is measured."""
    with pytest.raises(ArgumentError, match=sentence):
        sweep(**{**arguments, "chunk_sizes": sizes}, results_dir=tmp_path)


def test_summary_is_of_the_measured_runs(swept: Sweep) -> None:
    """The summary has a row per size and way, over the measured runs, in closed form for two runs."""
    summary = swept.summary()
    assert list(zip(summary["rows_per_request"], summary["pipelined"], strict=True)) == [
        (500, False), (500, True), (1000, False), (1000, True), (2500, False), (2500, True),
    ]  # fmt: skip
    row = summary.iloc[0]
    runs = swept.measured[(swept.measured["rows_per_request"] == 500) & ~swept.measured["pipelined"]]
    first, second = runs["total_s"]
    assert (row["n"], row["failed"]) == (2, 0)
    assert row["total_mean"] == row["total_median"] == pytest.approx((first + second) / 2)
    assert row["total_std"] == pytest.approx(abs(first - second) / 2**0.5)
    assert 0 < row["total_low"] < row["total_mean"] < row["total_high"]
    assert row["rows_per_s"] == pytest.approx(2 / (1 / runs["rows_per_s"]).sum())
    assert row["forming_mean"] == pytest.approx(runs["forming_s"].mean())
    assert row["sending_low"] < row["sending_mean"] < row["sending_high"]
    costs = swept.costs_by_size()
    assert costs["rows lost by one failure"].tolist() == ["500", "1,000", "2,500"]
    columns = ["first result, s", "memory added, MB", "longest request, s", "rows lost by one failure"]
    assert list(costs.columns) == columns


def test_saved_and_read_back(swept: Sweep, copy: Path) -> None:
    """A sweep reads back as it was, and saves its summary and verdict beside its runs."""
    again = read_sweep(copy)
    pd.testing.assert_frame_equal(again.runs, swept.runs)
    assert again.provenance == swept.provenance
    again.save()
    pd.testing.assert_frame_equal(pd.read_csv(copy / "summary.csv"), swept.summary())
    assert (copy / "verdict.txt").read_text() == f"{swept.answer()}\n{swept.verdict()}\n"


@pytest.mark.parametrize("late", [0, 1])
def test_a_name_server_that_lags_makes_no_second_replica(
    small_csv: Path, scripted: Any, answers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """Where a name still stands for one address after a scaling to two, the runs are not called runs of two."""
    target, known, real = scripted(answers), ["127.0.0.2"], socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **options: Any) -> Any:
        names = known if host == "ruo-headless.test" else [host]
        return [entry for name in names for entry in real(name, *rest, **options)]

    class Cluster:
        def scale(self, replicas: int) -> None:
            known[:] = ["127.0.0.2", "127.0.0.3"][: replicas - late * (replicas > 1)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with Proxy(target.url, host="127.0.0.2") as one:
        port = int(one.url.rpartition(":")[2])
        Cluster.urls = [f"http://ruo-headless.test:{port}"]
        with Proxy(target.url, host="127.0.0.3", port=port):
            options = {"replicas": [1, 2], "runs": 1, "pipelined": [True], "concurrency": 2, "results_dir": tmp_path}
            reasons = sweep(small_csv, Cluster(), chunk_sizes=[1], **options).validity().reasons

    sentence = "in 1 run not as many servers answered as there were replicas, such as 1 for 2"
    assert (sentence in reasons) == bool(late)
