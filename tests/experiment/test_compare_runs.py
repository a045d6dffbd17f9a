"""Two sweeps compared."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ruo.__main__ import main
from ruo.errors import ExperimentError
from ruo.experiment import RunsCompared, compare_runs

FACTS: dict[str, Any] = {
    "data": {"name": "t.csv", "rows": 2000, "label_prefix": "Label_", "sha256": "d" * 64},
    "model": {"name": "mlp.keras", "sha256": "e" * 64},
    "machine": {
        "cpu": "EPYC", "cpus": 4, "python": "CPython 3.12.1", "versions": {"numpy": "2.1", "keras": "3.7"},
        "commit": "abc", "clean": True, "environment": {},
    },
    "notes": [],
}  # fmt: skip
USUAL = {100: 2.0}


def write(
    folder: Path, means: dict[int, float] = USUAL, n: int = 10, *, seed: int = 0, facts: dict | None = None, **levels: Any
) -> Path:  # fmt: skip
    """A sweep of `n` runs of each request size, with a slow warm-up before; seconds are lognormal around the means."""
    random = np.random.default_rng(seed)
    folder.mkdir()
    plan = {"factors": {"chunk_size": list(means), "pipelined": [True]}, "trials": (n + 1) * len(means)}
    (folder / "provenance.json").write_text(json.dumps({"plan": plan, **(facts or FACTS)}))
    lines = [
        {
            "run": block * len(means) + position, "block": block, "warmup": block == 0, "position": position,
            "chunk_size": size, "rows_per_request": size, "pipelined": True, "wire": "v2", "concurrency": 8,
            "rows": 2000, "requests": 10, "forming_s": 0.1, "sending_s": 0.1, "retries": 0, "answers_equal": True,
            "total_s": mean * float(random.lognormal(0, 0.03)) * (100 if block == 0 else 1), **levels,
        }
        for block in range(n + 1)
        for position, (size, mean) in enumerate(means.items(), 1)
    ]  # fmt: skip
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def compare_usual(tmp_path: Path) -> Callable[..., RunsCompared]:
    """Compare a sweep with the usual one; `options` are what differs between the two."""
    return lambda **options: compare_runs(write(tmp_path / "a"), write(tmp_path / "b", **options))


def changed(name: str, value: Any) -> dict:
    """The facts with one of them, named such as machine.cpu, changed."""
    facts = copy.deepcopy(FACTS)
    *groups, last = name.split(".")
    place = facts
    for group in groups:
        place = place[group]
    place[last] = value
    return facts


@pytest.fixture
def compared(tmp_path: Path) -> RunsCompared:
    """A sweep of three sizes, of which B has one twice as fast, one a fifth slower, and one as it was."""
    a = write(tmp_path / "a", {100: 2.0, 500: 1.0, 1000: 1.0}, seed=1)
    b = write(tmp_path / "b", {100: 1.0, 500: 1.2, 1000: 1.0}, n=8, seed=2)
    return compare_runs(a, b)


def test_each_setting_has_its_word(compared: RunsCompared) -> None:
    """A row per setting has the runs of each, the ratio of B over A with its interval, and a word."""
    table = compared.table.set_index("rows_per_request")
    assert table["word"].to_dict() == {100: "faster", 500: "slower", 1000: "no difference seen"}
    assert table["ratio"].to_dict() == pytest.approx({100: 0.5, 500: 1.2, 1000: 1.0}, rel=0.05)  # A: 2, 1 and 1 s
    assert table["b_s"].to_dict() == pytest.approx({100: 1.0, 500: 1.2, 1000: 1.0}, rel=0.05)
    assert ((table["low"] < table["ratio"]) & (table["ratio"] < table["high"])).all()
    assert set(zip(table["n_a"], table["n_b"], strict=True)) == {(10, 8)}
    assert compared.warnings == []


def test_the_comparison_in_words(compared: RunsCompared) -> None:
    """The sentences name the setting, the word and the runs, and what no interval shows; the repr is one line."""
    sentences = compared.sentences
    assert sentences[0].startswith("100 rows per request: B is faster than A: it takes 0.497 times as long")
    assert sentences[1].startswith("500 rows per request: B is slower than A: it takes 1.")
    assert sentences[2].startswith("1,000 rows per request: No difference seen between B and A")
    assert "8 and 10 runs" in sentences[0]
    assert "not measured side by side" in sentences[3]
    assert "Of 3 settings that did not change, one in twenty seems to" in sentences[4]
    assert compared.answer() == "B against A, by setting: 1 faster, 1 slower, 1 no difference seen."
    assert compared.answer() in repr(compared)
    words = " ".join(compared.text().split())
    assert all(sentence in words for sentence in sentences)
    assert "<table" in compared._repr_html_()


def test_settings_of_one_alone_are_named(tmp_path: Path) -> None:
    """A setting that only one of the two has is named, and what makes it another one is."""
    a = write(tmp_path / "a", {100: 2.0, 500: 1.0, 700: 1.0})
    compared = compare_runs(a, write(tmp_path / "b", {500: 1.0, 700: 1.0, 1000: 1.0}))
    assert compared.table["rows_per_request"].tolist() == [500, 700]
    assert "Only A has 100 rows per request, so B cannot be compared there." in compared.sentences
    assert "Only B has 1,000 rows per request, so A cannot be compared there." in compared.sentences
    assert "Of 2 settings that did not change, one in twenty seems to" in compared.sentences[-1]


@pytest.mark.parametrize("level", [{"wire": "v1"}, {"concurrency": 2}, {"replicas": 3}, {"model": "cnn"}])
def test_levels_of_every_factor_make_a_setting(tmp_path: Path, level: dict) -> None:
    """Runs with another wire, concurrency, model or number of replicas are not compared with one another."""
    a, same = (write(tmp_path / name, replicas=1) for name in ("a", "same"))
    assert len(compare_runs(a, same).table) == 1
    with pytest.raises(ExperimentError, match="measured no setting in common"):
        compare_runs(a, write(tmp_path / "b", **{"replicas": 1, **level}))


def test_failed_runs_do_not_count(compare_usual: Callable) -> None:
    """Failed runs have no time; where all failed there is no ratio, and the sweep is INVALID."""
    compared = compare_usual(error="Too large.", total_s=None)
    assert compared.table[["n_a", "n_b"]].to_numpy().tolist() == [[10, 0]]
    assert np.isnan(compared.table["ratio"]).all()
    assert "B cannot be compared with A: there are 0 and 10 runs" in compared.sentences[0]
    assert any(warning.startswith("B is INVALID: 10 runs failed") for warning in compared.warnings)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("machine.cpu", "Xeon", "The machines differ: cpu EPYC in A, Xeon in B."),
        ("machine.environment", {"OMP_NUM_THREADS": "1"}, "The machines differ: OMP_NUM_THREADS None in A, 1 in B."),
        ("machine.versions.numpy", "1.0", "The versions differ: numpy 2.1 in A, 1.0 in B."),
        ("machine.python", "CPython 3.11.1", "The versions differ: python CPython 3.12.1 in A, CPython 3.11.1 in B."),
        ("machine.commit", "def", "The commits differ: commit abc in A, def in B."),
        ("machine.clean", False, "B was measured with changes to ruo that no commit has."),
        ("model", None, "B does not say which model it measured, so it may be another one."),
        ("data.name", "renamed.csv", None),  # data and models are known by their content
    ],
)
def test_what_else_differs_is_warned_of(compare_usual: Callable, name: str, value: Any, sentence: str | None) -> None:
    """Another machine, other versions, another commit and an unknown model are warned of, and compared."""
    compared = compare_usual(facts=changed(name, value))
    assert compared.warnings == [sentence] * (sentence is not None)
    assert (f"WARNING: {sentence}" in " ".join(compared.text().split())) == ("1 warning" in repr(compared))
    assert ("1 warning" in repr(compared)) == (sentence is not None)


@pytest.mark.parametrize(
    ("what", "name"),
    [("other data", "data.sha256"), ("other data", "data.label_prefix"), ("another model", "model.sha256")],
)
def test_other_data_and_models_are_refused(compare_usual: Callable, what: str, name: str) -> None:
    """Times of other data, or of another model, say nothing of the system."""
    with pytest.raises(ExperimentError, match=f"for they are of {what} .{name}"):
        compare_usual(facts=changed(name, "0" * 64))


def test_one_of_several_models_that_is_another_is_refused(tmp_path: Path) -> None:
    """Where a sweep measured several models, each that both have must be the same."""
    a, same, other = (
        write(tmp_path / name, facts=changed("model", {"mlp": FACTS["model"], "cnn": {"sha256": digest}}), model="cnn")
        for name, digest in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert compare_runs(a, same).warnings == []
    with pytest.raises(ExperimentError, match=r"another model \(model.cnn.sha256 1 in A, 2 in B"):
        compare_runs(a, other)


def test_from_the_command_line(tmp_path: Path) -> None:
    """`ruo compare-runs` prints the table and the sentences; a folder that holds no sweep is refused in one."""
    a, b = write(tmp_path / "a"), write(tmp_path / "b", {100: 1.0})
    done = CliRunner().invoke(main, ["compare-runs", str(a), str(b)])
    assert done.exit_code == 0, done.output
    assert done.output == compare_runs(a, b).text() + "\n"
    done = CliRunner().invoke(main, ["compare-runs", str(a), str(tmp_path)])
    assert done.exit_code == 1
    assert re.match(r"Error: .* has no provenance\.json", done.output)
