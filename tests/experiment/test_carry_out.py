"""The plan of an experiment and the engine that carries it out."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ruo.errors import ArgumentError, ExperimentError
from ruo.experiment.carry_out import Measurement, Plan, Trial, all_combinations, carry_out, put_aside_finished
from ruo.provenance import Provenance

FACTS = Provenance({"data": "x"})


def plan_of(factors: dict[str, list], runs: int = 1, warmup: int = 0, **options: Any) -> Plan:
    return Plan(all_combinations(factors), runs, warmup, **options)


class Recorder(Measurement):
    """Records what the engine asks of it; its run number `breaks_at` is interrupted once."""

    def __init__(self, breaks_at: int = 0, total_s: float = 1.0) -> None:
        self._total_s = total_s
        self.calls: list[Any] = []
        self._breaks_at = breaks_at

    def begin(self, resumed: bool) -> None:
        self.calls.append(("begin", resumed))

    def prepare(self, trial: Trial) -> None:
        self.calls.append(("prepare", trial.run))

    def measure(self, trial: Trial) -> dict[str, Any]:
        if trial.run == self._breaks_at:
            self._breaks_at = 0
            raise KeyboardInterrupt
        self.calls.append(("measure", trial.run))
        return {"total_s": self._total_s}


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


# ---- the plan ----


@pytest.mark.parametrize("seed", range(5))
def test_every_block_holds_every_combination_once(seed: int) -> None:
    """Each block, warm-ups too, is a permutation of all combinations of levels."""
    plan = plan_of({"size": [1, 2, None], "way": [True, False], "replicas": [1, 2]}, runs=4, warmup=2, seed=seed)
    trials = plan.trials()
    assert [trial.run for trial in trials] == list(range(1, 73))
    for block in range(-1, 5):
        of_block = [trial for trial in trials if trial.block == block]
        assert [trial.position for trial in of_block] == list(range(1, 13))
        assert len({tuple(trial.levels.values()) for trial in of_block}) == 12
        assert {trial.warmup for trial in of_block} == {block < 1}
    assert plan.facts()["trials"] == 72


def test_seed_reproduces_the_order() -> None:
    """The same seed gives the same order, another seed another one, and the blocks differ in theirs."""

    def orders(seed: int) -> list[list[int]]:
        trials = plan_of({"size": list(range(8))}, runs=3, seed=seed).trials()
        return [[trial.levels["size"] for trial in trials if trial.block == block] for block in (1, 2, 3)]

    assert orders(1) == orders(1) != orders(2)
    assert orders(1)[0] != orders(1)[1] != orders(1)[2]
    assert orders(0)[0] == [6, 3, 1, 2, 0, 4, 5, 7]  # in every version of Python


def test_a_slow_factor_changes_as_seldom_as_possible() -> None:
    """Within a block each level of a slow factor comes in one piece, and the order of the levels differs by block."""
    trials = plan_of({"replicas": [1, 2, 3], "size": [10, 20]}, runs=8, slow="replicas").trials()
    orders = [[trial.levels["replicas"] for trial in trials if trial.block == block] for block in range(1, 9)]
    for order in orders:
        assert order[::2] == order[1::2]
        assert sorted(order[::2]) == [1, 2, 3]
    assert len({tuple(order) for order in orders}) > 1


def test_some_combinations_may_come_once() -> None:
    """A combination with the levels of `once` comes in one measured block, and every other one in each block."""
    plan = plan_of({"system": ["old", "new"], "size": [1, 2, 3]}, runs=5, once={"system": "old"})
    trials = plan.trials()
    old = [trial for trial in trials if trial.levels["system"] == "old"]
    assert sorted(trial.levels["size"] for trial in old) == [1, 2, 3]
    assert len(trials) - len(old) == 5 * 3
    assert trials == plan.trials()


@pytest.mark.parametrize(
    ("levels", "options", "sentence"),
    [
        ([1], {"runs": 0}, "runs=0 must be at least 1."),
        ([1], {"warmup": -1}, "warmup=-1 must be 0 or more."),
        ([], {}, "size has no level"),
        ([3, 4, 3], {}, "has a level twice"),
    ],
)
def test_impossible_plans_are_refused(levels: list, options: dict, sentence: str) -> None:
    """A plan without runs or levels, or with a level twice, is refused."""
    with pytest.raises(ArgumentError, match=sentence):
        plan_of({"size": levels}, **options)


# ---- the engine ----


def test_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    """Ctrl-C in a run loses that run alone; nothing is measured twice, and a finished experiment is not begun again."""
    plan = plan_of({"size": [1, 2]}, runs=2)
    recorder = Recorder(breaks_at=3)
    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, recorder, FACTS, tmp_path)
    assert [line["run"] for line in lines_of(tmp_path)] == [1, 2]
    for _ in range(2):
        carry_out(plan, recorder, FACTS, tmp_path)
    assert [line["run"] for line in lines_of(tmp_path)] == [1, 2, 3, 4]
    first = [("begin", False), ("prepare", 1), ("measure", 1), ("prepare", 2), ("measure", 2), ("prepare", 3)]
    assert recorder.calls == [*first, ("begin", True), ("prepare", 3), ("measure", 3), ("prepare", 4), ("measure", 4)]


def test_two_experiments_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """The second is refused before it touches anything; once the first is done or broken off, the folder is free."""
    plan = plan_of({"size": [1]}, runs=2)

    class Second(Recorder):
        def measure(self, trial: Trial) -> dict[str, Any]:
            with pytest.raises(ExperimentError, match="Another run writes to .* now; wait for its end, or use another"):
                carry_out(plan, Recorder(), FACTS, tmp_path)
            return super().measure(trial)

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, Second(breaks_at=2), FACTS, tmp_path)
    carry_out(plan, Recorder(), FACTS, tmp_path)
    assert [line["run"] for line in lines_of(tmp_path)] == [1, 2]


def test_a_line_has_the_run_the_levels_the_load_and_the_provenance(tmp_path: Path) -> None:
    """A line says which run it is, its levels, what was measured, the load of the machine, and whose runs they are."""
    lines: list[str] = []
    carry_out(plan_of({"size": [5]}), Recorder(), FACTS, tmp_path, log=lines.append)
    [line] = lines_of(tmp_path)
    assert line.pop("waited_s") < 5
    del line["started_at"], line["machine_busy"]
    assert line == {
        "run": 1, "block": 1, "warmup": False, "position": 1, "size": 5, "total_s": 1.0, "error": None,
        "provenance": FACTS.digest,
    }  # fmt: skip
    assert lines == ["1/1  5: 1.000 s"]


@pytest.mark.parametrize(
    ("enough_at", "patience_s", "runs"), [(99, 0.2, 8), (6, 0.2, 6), (4, 0.2, 4), (99, 0.01, 6), (99, 0.0, 4)]
)
def test_blocks_are_added_until_it_is_enough(tmp_path: Path, enough_at: int, patience_s: float, runs: int) -> None:
    """Until the patience is spent, or there are twice as many as planned; what was interrupted in one resumes in it."""
    plan = plan_of({"size": [1, 2]}, runs=2)
    how = {"patience_s": patience_s, "enough": lambda lines: len(lines) >= enough_at}
    recorder = Recorder(breaks_at=6, total_s=0.02)
    for _ in range(3):
        with contextlib.suppress(KeyboardInterrupt):
            carry_out(plan, recorder, FACTS, tmp_path, **how)
    assert [line["run"] for line in lines_of(tmp_path)] == list(range(1, runs + 1))
    assert [line["block"] for line in lines_of(tmp_path)] == [1, 1, 2, 2, 3, 3, 4, 4][:runs]
    assert [call[1] for call in recorder.calls if call[0] == "measure"] == list(range(1, runs + 1))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"plan": {"seed": 8}}, "another plan (plan.seed was 7, is 8)"),
        ({"data": {"sha256": "9"}, "plan": {"seed": 8}}, "other data ("),
        ({"model": {"sha256": "9"}}, "another model (model.sha256 was 2, is 9)"),
        ({"machine": {"versions": {"numpy": "1"}}}, "another machine or other versions (machine.versions.numpy was 2, is 1)"),
    ],
)  # fmt: skip
def test_other_facts_are_refused(tmp_path: Path, changed: dict, sentence: str) -> None:
    """A folder with runs of another plan, other data, another model or another machine is left as it is."""
    facts = {"plan": {"seed": 7}, "data": {"sha256": "1"}, "model": {"sha256": "2"}}
    facts["machine"] = {"versions": {"numpy": "2"}}
    carry_out(plan_of({"size": [1]}), Recorder(), Provenance(facts), tmp_path)
    before = (tmp_path / "runs.jsonl").read_bytes()
    with pytest.raises(ExperimentError, match=rf"holds runs of {re.escape(sentence)}.*use another results_dir"):
        carry_out(plan_of({"size": [1]}), Recorder(), Provenance({**facts, **changed}), tmp_path)
    assert (tmp_path / "runs.jsonl").read_bytes() == before


def test_a_finished_experiment_is_kept_under_its_date(tmp_path: Path) -> None:
    """A folder with the last file of an experiment is renamed, and one without it stays, so that it can be resumed."""
    folder = tmp_path / "results"
    carry_out(plan_of({"size": [1]}), Recorder(), FACTS, folder)
    put_aside_finished(folder)
    assert folder.exists()
    (folder / "verdict.txt").write_text("VALID")
    put_aside_finished(folder)
    assert not folder.exists()
    [kept] = tmp_path.glob("results-20*")
    assert len(lines_of(kept)) == 1
