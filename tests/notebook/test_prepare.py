"""What a notebook begins with: parameters as people write them, and errors that say what to do."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from ruo.errors import RuoError, TableError
from ruo.learn.demo import Demo
from ruo.notebook.prepare import named, prepare, prepare_files, prepare_replicas, sizes, whole


@pytest.mark.parametrize(
    ("value", "found"),
    [([1_000, None], [1000, None]), ("1000,5e3,none", [1000, 5000, None]), (1e3, [1000]), ("whole", [None]), (None, [None])],
)  # fmt: skip
def test_sizes(value: object, found: list) -> None:
    """A list, a number and a text are all request sizes; None is the whole set."""
    assert sizes(value) == found


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True, None])
def test_numbers_that_are_not_whole(value: object) -> None:
    """What is not a whole number from 1 up is refused with the parameter's name."""
    with pytest.raises(RuoError, match="runs: .* is not a whole number from 1 up"):
        whole("runs", value)


def test_names_and_values() -> None:
    """Pairs come as text or as a dict; nothing is no pair, and a name without a value is refused."""
    assert named("peers", "a=http://x, b=http://y?z=1") == {"a": "http://x", "b": "http://y?z=1"}
    assert named("peers", {"a": 1}) == {"a": "1"}
    assert named("peers", None) == named("peers", "") == {}
    with pytest.raises(RuoError, match="peers: 'a' has no value; write it as NAME=VALUE"):
        named("peers", "a")


def test_parts_that_do_not_go_together(demo: Demo, tmp_path: Path) -> None:
    """A table that is not there, and a table without a model, are told in a sentence."""
    with pytest.raises(TableError, match="There is no table at .*nothing.csv"):
        prepare(testset=tmp_path / "nothing.csv")
    with pytest.raises(RuoError, match="A table of your own needs a model: pass model"):
        prepare(testset=demo.testset)
    with pytest.raises(RuoError, match="A table of your own needs a model"):
        prepare_files(testset=demo.testset)


@pytest.mark.soak
def test_the_number_of_workers_is_as_asked(demo: Demo, tmp_path: Path) -> None:
    """A server that is started for the notebook has the workers of its parameter, and ends with it."""
    bench = prepare(None, demo.testset, demo.models["mlp"], tmp_path / "found", workers=1)
    try:
        with urllib.request.urlopen(f"{bench.url}/v2/health/ready") as answer:
            assert json.load(answer)["workers"] == 1
        assert (tmp_path / "found").is_dir()
    finally:
        bench.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{bench.url}/v2/health/ready")


@pytest.mark.soak
def test_replicas_are_servers_by_the_names_of_their_models(demo: Demo, tmp_path: Path) -> None:
    """Each model has a server of its own, which can be scaled, and can be seen over a slower network."""
    bench = prepare_replicas(testset=demo.testset, models=str(demo.models["mlp"]), results_dir=tmp_path)
    try:
        assert list(bench.targets) == list(bench.models) == ["mlp"]
        assert bench.targets["mlp"].urls == [bench.url]
        assert bench.network(1.0, 1000.0) != bench.url
    finally:
        bench.close()


def test_no_cluster_is_told(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Deployment without a cluster to ask is an error in a sentence."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(RuoError, match="There is no cluster to ask"):
        prepare_replicas("ruo-server", testset=demo.testset, results_dir=tmp_path)
