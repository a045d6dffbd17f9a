"""The benchmark of the claims: its jobs run, are checked, and are kept."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.__main__ import main
from ruo.learn.demo import Demo


def bench(demo: Demo, results: Path, only: str) -> Result:
    mlp = str(demo.models["mlp"])
    files = ["--testset", str(demo.testset), "--mlp", mlp, "--cnn", mlp]
    options = ["--runs", "1", "--only", only, "--patience", "0", "--results", str(results)]
    return CliRunner().invoke(main, [*files, *options])


@pytest.mark.soak
@pytest.mark.alone
def test_every_claim_is_measured(demo: Demo, tmp_path: Path) -> None:
    """Jobs of all groups give right answers; the table, the samples and the machine are kept."""
    groups = ["mlp", "cnn", "scaling", "peers", "sources", "growth", "start"]
    done = bench(demo, tmp_path, ",".join(groups))
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for name in groups for line in (tmp_path / name / "runs.jsonl").read_text().splitlines()]
    assert [line["error"] for line in lines if line["error"]] == []
    assert len(lines) > 100
    for name in groups:
        provenance = json.loads((tmp_path / name / "provenance.json").read_text())
        assert provenance["machine"]["cpus"]
        assert len(provenance["data"]["sha256"]) == 64
    report = (tmp_path / "bench.md").read_text()
    assert report in done.output
    for name in groups:
        assert f"{name}: VALID" in report or f"{name}: INVALID: the machine was busy" in report


@pytest.mark.soak
def test_an_interrupted_benchmark_goes_on_and_a_finished_one_is_kept(demo: Demo, tmp_path: Path) -> None:
    """Without its report a benchmark resumes with the runs on disk; a finished one is kept under its date."""
    results = tmp_path / "bench"
    assert bench(demo, results, "start").exit_code == 0
    report, samples = (results / "bench.md").read_text(), (results / "start" / "runs.jsonl").read_text()
    assert "| import ruo | at most 0.05 s |" in report
    assert "start: VALID" in report or "start: INVALID: the machine was busy" in report
    (results / "bench.md").unlink()
    (results / "start" / "runs.jsonl").write_text("".join(samples.splitlines(keepends=True)[:2]))
    assert bench(demo, results, "start").exit_code == 0
    resumed = (results / "start" / "runs.jsonl").read_text()
    assert resumed.splitlines()[:2] == samples.splitlines()[:2]
    assert resumed.count("\n") == 8
    assert bench(demo, results, "start").exit_code == 0
    [kept] = tmp_path.glob("bench-*")
    assert (kept / "start" / "runs.jsonl").read_text() == resumed


@pytest.mark.parametrize(
    ("only", "said"),
    [
        ("mlp,speed", "There is no group or target 'mlp,speed'; the groups are mlp, cnn, scaling, peers, "),
        ("image ruo-client", "Nothing can be measured here. install: image client is left out: ruo-client:"),
    ],
)
def test_what_cannot_be_measured(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str, said: str) -> None:  # fmt: skip
    """An unknown group is refused; a need that is missing leaves its jobs out, and where nothing is left, is an error."""
    monkeypatch.setenv("PATH", "")
    done = bench(demo, tmp_path, only)
    assert done.exit_code == 1
    assert said in done.output
    assert not (tmp_path / "bench.md").exists()
