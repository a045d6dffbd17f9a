"""The comparison of the system of 2023, ruo, and no network at all."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from ruo import machine
from ruo.__main__ import main
from ruo.compare.jobs import check_answers, in_process, run_job
from ruo.compare.results import BOUND, PAPER, PAPER_CLIENT, SYSTEMS, V2, SystemsCompared, read_systems
from ruo.compare.systems import ALL_SIZES, Systems, plan_systems
from ruo.errors import ArgumentError, ExperimentError
from ruo.experiment.carry_out import TOLERANCE
from ruo.learn.demo import Demo
from ruo.provenance import Provenance

needs_paper = pytest.mark.skipif(find_spec("grequests") is None, reason="the paper's client is not installed")


def compare(demo: Demo, results: Path, *options: str) -> Result:
    """`ruo compare` of one run at 1,000 rows in a request, with its results in this folder."""
    files = ["--testset", str(demo.testset), "--model", str(demo.models["mlp"]), "--results", str(results)]
    usual = ["--sizes", "1000", "--runs", "1", "--workers", "1", "--patience", "0"]
    return CliRunner().invoke(main, ["compare", *files, *usual, *options])


@pytest.fixture(scope="module")
def compared(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one run of every system on the demo, 1,000 rows in a request."""
    results = tmp_path_factory.mktemp("compare") / "results"
    done = compare(demo, results)
    assert done.exit_code == 0, done.output
    (results / "printed.txt").write_text(done.stdout)
    return results


@needs_paper
@pytest.mark.soak
def test_every_system_scores_every_row_rightly(compared: Path) -> None:
    """A line per system, in order: all rows, the right answers, its time and CPU time; servers not measured are idle."""
    lines = [json.loads(line) for line in (compared / "runs.jsonl").read_text().splitlines()]
    assert sorted(line["system"] for line in lines) == sorted(SYSTEMS)
    assert [line["position"] for line in lines] == list(range(1, len(SYSTEMS) + 1))
    assert {line["rows_per_request"] for line in lines if line["system"] != BOUND} == {1_000}
    for line in lines:
        assert (line["error"], line["block"]) == (None, 1)
        assert line["rows"] == line["rows_wanted"] == 2_500
        assert line["max_abs_difference"] <= TOLERANCE
        assert line["total_s"] > 0
        assert line["client_cpu_s"] > 0
        assert line["peak_rss_mb"] > 10
        assert line["idle_servers_cpu_s"] < 0.25 * line["client_cpu_s"]


@needs_paper
@pytest.mark.soak
def test_report_is_written(compared: Path) -> None:
    """The table is printed, the summary has a row per system, and the figure and the provenance are there."""
    text = (compared / "printed.txt").read_text()
    for system in SYSTEMS:
        assert re.search(rf"^ *{system} +{'-' if system == BOUND else '1,000'}", text, re.MULTILINE)
    assert len(pd.read_csv(compared / "summary.csv")) == len(SYSTEMS)
    assert list(compared.glob("systems*"))
    printed = " ".join(text.split())  # which is wrapped
    assert all(line in printed for line in (compared / "verdict.txt").read_text().splitlines())
    provenance = json.loads((compared / "provenance.json").read_text())
    assert provenance["machine"]["cpus"]
    assert len(provenance["data"]["sha256"]) == len(provenance["model"]["sha256"]) == 64


@needs_paper
@pytest.mark.soak
def test_an_interrupted_comparison_is_resumed(compared: Path, demo: Demo, tmp_path: Path) -> None:
    """A comparison without a verdict resumes with the runs on disk; another seed is another plan, which is refused."""
    results = Path(shutil.copytree(compared, tmp_path / "results"))
    (results / "verdict.txt").unlink()
    lines = (results / "runs.jsonl").read_text().splitlines(keepends=True)
    (results / "runs.jsonl").write_text("".join(lines[:-1]))
    other = compare(demo, results, "--seed", "1")
    assert other.exit_code == 1
    assert "holds runs of another plan" in other.output
    again = compare(demo, results)
    assert again.exit_code == 0, again.output
    assert (results / "runs.jsonl").read_text().splitlines(keepends=True)[:-1] == lines[:-1]
    assert read_systems(results).runs["system"].tolist() == read_systems(compared).runs["system"].tolist()
    assert again.stderr.count(" s\n") == 1


@pytest.mark.parametrize("text", ["", "0", "-5", "ten", "1000,,2000"])
def test_sizes_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    """A size that is no number of rows is refused before anything starts or is written."""
    arguments = ["compare", "--testset", __file__, "--model", __file__, "--results", str(tmp_path / "r")]
    done = CliRunner().invoke(main, [*arguments, "--sizes", text])
    assert done.exit_code == 2
    assert "Error: --sizes: " in done.output
    assert not (tmp_path / "r").exists()


def test_each_block_holds_every_system_once() -> None:
    """A block has each system, also another server of the same model, once at each size, and the bound once."""
    systems = (*SYSTEMS, "MLServer")
    trials = plan_systems((1_000, None), runs=4, systems=systems).trials()
    wanted = [(BOUND, None), *((name, size) for name in systems if name != BOUND for size in (1_000, None))]
    for block in range(1, 5):
        jobs = [(trial.levels["system"], trial.levels["chunk_size"]) for trial in trials if trial.block == block]
        assert sorted(map(str, wanted)) == sorted(map(str, jobs))


def test_paper_system_may_run_once_per_size() -> None:
    """With one run for the paper's system it is there once at each size, and the others in every block."""
    jobs = [trial.levels for trial in plan_systems(ALL_SIZES, runs=5, paper_once=True).trials()]
    papers = [levels["chunk_size"] for levels in jobs if levels["system"] == PAPER]
    assert sorted(papers, key=str) == sorted(ALL_SIZES, key=str)
    assert sum(levels["system"] == PAPER_CLIENT for levels in jobs) == 5 * len(ALL_SIZES)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (lambda right: right, None),
        (lambda right: right + 5e-6, None),
        (lambda right: right[:3], "no result: 3 of 4 rows came back"),
        (lambda right: right[:0], "no result: 0 of 4 rows came back"),
        (lambda right: right[::-1], "wrong: answers differ by up to 6"),
        (lambda right: right * np.nan, "wrong: answers differ by up to nan"),
        (lambda right: right[:, :1], "wrong: answers have the shape (4, 1), not (4, 2)"),
    ],
    ids=["right", "rounded", "rows lost", "all lost", "other order", "NaN", "other shape"],
)
def test_answers_are_checked(answers: Any, error: str | None) -> None:
    """Answers count only where every row came back, in its place, within the tolerance; a known reason is named."""
    reference = np.arange(8, dtype=np.float32).reshape(4, 2)
    assert check_answers(None, answers(reference), reference)["error"] == error
    # a column of prices beside one of probabilities: each has the tolerance of its own size
    prices = reference / 8 * [1e6, 1]
    assert check_answers(None, prices + np.array([0.06, 0]), prices)["error"] is None
    assert check_answers(None, prices + np.array([0, 0.06]), prices)["error"] == "wrong: answers differ by up to 0.06"
    lost = {"rows": 0, "rows_wanted": 4, "max_abs_difference": np.inf}
    lost["error"] = "no result: 0 of 4 rows came back (too large)"
    assert check_answers("too large", np.empty(0), reference) == lost


def results(lines: list[dict[str, Any]]) -> SystemsCompared:
    """The results whose runs are these."""
    runs = pd.DataFrame([{"block": 1, "warmup": False, **line, "run": number} for number, line in enumerate(lines, 1)])
    facts = {"plan": {"trials": len(runs), "runs": runs["block"].nunique()}}
    return SystemsCompared(runs.astype({"total_s": float}), Provenance(facts), Path("results"))


def test_a_comparison_without_runs_is_an_error(tmp_path: Path) -> None:
    """A folder that holds no comparison, or one without a finished run, is named."""
    with pytest.raises(ExperimentError, match="has no provenance.json"):
        read_systems(tmp_path)
    (tmp_path / "provenance.json").write_text('{"plan": {"factors": {"pipelined": [true]}}}')
    with pytest.raises(ExperimentError, match="of another kind of experiment"):
        read_systems(tmp_path)
    (tmp_path / "provenance.json").write_text('{"systems": {}}')
    with pytest.raises(ExperimentError, match="holds no finished run yet"):
        read_systems(tmp_path)


def test_only_a_csv_is_compared(tmp_path: Path) -> None:
    """The client of 2023 reads nothing else, and no other separator, which is said before any server starts."""
    with pytest.raises(ArgumentError, match=r"table.parquet is no .csv file"):
        Systems(tmp_path / "table.parquet", tmp_path / "model.keras")
    table = tmp_path / "table.csv"
    table.write_text("a;b\n1;2\n3;4\n")
    done = CliRunner().invoke(main, ["compare", f"--testset={table}", f"--model={table}", f"--results={tmp_path}"])
    assert done.output.splitlines()[-1].startswith("Error: table.csv is not separated by commas")


@needs_paper
@pytest.mark.soak
def test_what_is_no_model_is_one_sentence(demo: Demo, tmp_path: Path) -> None:
    """A file that is no model is named, and no log of a server is shown."""
    done = compare(demo, tmp_path, "--model", str(demo.testset))
    assert re.fullmatch(r"Error: The model at \S+testset\.csv cannot be loaded: .*", done.output.splitlines()[-1])
    assert "log" not in done.output


def run(system: str, size: int, total_s: float | None, error: str | None = None, **more: Any) -> dict[str, Any]:
    done = {"system": system, "rows_per_request": size, "total_s": total_s, "error": error}
    return {**done, "rows": 5, "rows_wanted": 100, **more}


def test_ratios_are_of_medians() -> None:
    """Times faster is the paper's median at the same size over the system's, times the bound the system's over its."""
    runs = [run(PAPER, 10, seconds) for seconds in (8, 12, 90)]
    runs += [run("ruo, wire v2", 10, seconds) for seconds in (1, 2, 9)]
    runs += [run(BOUND, 100, seconds) for seconds in (1.5, 1.0, 0.5)]
    table = results(runs).summary().set_index("system")
    assert list(table.index) == [PAPER, "ruo, wire v2", BOUND]
    assert table.loc["ruo, wire v2", ["median_s", "mean_s", "min_s", "max_s", "n"]].tolist() == [2, 4, 1, 9, 3]
    assert table["times_faster"].tolist() == [1, 6, 12]
    assert table["times_bound"].tolist() == [12, 2, 1]


def test_a_failed_run_is_a_note_and_not_a_number() -> None:
    """A size without a result has a note and dashes; the figure has it, but not the paper's client on ruo's server."""
    lost = "no result: 0 of 100 rows came back"
    runs = [run(PAPER, 100, None, lost), run("ruo, wire v2", 100, 1.0), run(PAPER_CLIENT, 10, 3), run(BOUND, 100, 0.5)]
    lines = [" ".join(line.split()) for line in str(results(runs)).splitlines()]
    assert f"{PAPER} 100 - - - - - 0 {lost}" in lines
    assert "ruo, wire v2 100 1.00 1.00 1.00 - 2.00 1" in lines
    drawn = results(runs).runs_of_figure()
    assert drawn[["system", "rows"]].to_numpy().tolist() == [[PAPER, 100], ["ruo, wire v2", 100], [BOUND, 100]]
    assert drawn["total_s"].isna().tolist() == [True, False, False]


@pytest.mark.soak
def test_a_missing_client_is_an_error_in_one_sentence(demo: Demo, tmp_path: Path) -> None:
    """Without grequests the comparison ends with what to install, before a server is started."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\nfind = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'grequests' else find(name, *rest)\n"
    )
    files = ["--testset", str(demo.testset), "--model", str(demo.models["mlp"]), "--results", str(tmp_path / "results")]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(machine.__file__).parent.parent}"}
    command = [sys.executable, "-m", "ruo", "compare", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'ruo[paper]'" in done.stderr
    assert "Traceback" not in done.stderr


def blocks(seconds: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    """Runs of several systems in six blocks, with a little noise."""
    noise = np.random.default_rng(0)
    return [
        {**run(name, 1_000, mean * noise.normal(1, 0.01), block=block, others_cpus=0.01), **more}
        for block in range(6)
        for name, mean in seconds.items()
    ]


def test_the_verdict_compares_each_system_with_the_fast_wire() -> None:
    """Every other system has its sentence with the ratio; a quiet machine and right answers are VALID."""
    verdict = results(blocks({V2: 1.0, PAPER: 20.0, BOUND: 0.8})).verdict()
    assert verdict.startswith("VALID")
    assert f"- {V2[0].upper()}{V2[1:]} is faster than {PAPER}: it takes 0.0" in verdict
    assert f"{V2[0].upper()}{V2[1:]} is slower than {BOUND}" in verdict


def test_the_verdict_says_what_is_wrong() -> None:
    """A wrong answer of ruo's own, or a busy machine, is INVALID; a paper's system without a result is a result."""
    failed = [*blocks({V2: 1.0}), *blocks({PAPER: 1.0}, total_s=None, error="no result: 0 of 10 rows came back")]
    assert results(failed).verdict().startswith("VALID")
    assert f"- {PAPER}: no result at any request size." in results(failed).verdict()
    wrong = [*blocks({BOUND: 1.0}), *blocks({V2: 1.0}, total_s=None, error="wrong: answers differ by up to 0.1")]
    assert results(wrong).verdict().startswith("INVALID: 6 runs failed (wrong: answers differ")
    assert "busy with something else in 6 of 6" in results(blocks({V2: 1.0}, others_cpus=2.0)).verdict()


def test_a_job_loads_nothing_for_figures_and_statistics() -> None:
    """A job's process imports neither SciPy nor matplotlib, and that of the paper's client no asyncio before gevent."""
    program = (
        "import sys\n"
        "import ruo.compare\nassert not {'asyncio', 'ssl', 'numpy'} & set(sys.modules)\n"
        "import ruo.compare.score, ruo.client.scoring\nassert not {'scipy', 'matplotlib', 'keras'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.soak
def test_the_job_without_a_network(demo: Demo, expected: np.ndarray, tmp_path: Path) -> None:
    """The job in one process, asked twice, has the right predictions; one that cannot be done has its reason."""
    with in_process(demo.testset, demo.models["mlp"]) as job:
        for _ in range(2):
            measured, predictions = run_job(job)
            assert 0 < measured["total_s"] < 60
            np.testing.assert_allclose(predictions, expected, atol=1e-5)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with in_process(tmp_path / "other.csv", demo.models["mlp"]) as job:
        measured, predictions = run_job(job)
    assert measured["error"].startswith("The model cannot score other.csv in one process: ")
    assert not len(predictions)
