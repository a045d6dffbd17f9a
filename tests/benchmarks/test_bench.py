"""The benchmark of the claims: its jobs run, are checked, and are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from benchmarks.__main__ import main
from ruo.learn.demo import Demo


def bench(demo: Demo, results: Path, groups: str) -> Result:
    mlp = str(demo.models["mlp"])
    files = ["--testset", str(demo.testset), "--mlp", mlp, "--cnn", mlp]
    return CliRunner().invoke(main, [*files, "--runs", "1", "--groups", groups, "--results", str(results)])


def test_an_unknown_group_is_refused(demo: Demo, tmp_path: Path) -> None:
    """The groups that there are are named."""
    done = bench(demo, tmp_path, "mlp,speed")
    assert done.exit_code == 1
    assert "There is no group 'speed'; the groups are mlp, cnn, scaling, peers, memory, start." in done.output


@pytest.mark.soak
@pytest.mark.alone
def test_every_claim_is_measured(demo: Demo, tmp_path: Path) -> None:
    """Jobs of all groups give right answers; the table, the samples and the machine are kept."""
    done = bench(demo, tmp_path, "mlp,cnn,scaling,peers,start")
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "bench.json").read_text())
    assert [sample["error"] for sample in kept["samples"] if sample["error"]] == []
    assert (tmp_path / "samples.jsonl").read_text().count("\n") == len(kept["samples"]) > 20
    assert kept["machine"]["cpus"]
    assert (tmp_path / "bench.md").read_text() in done.output
