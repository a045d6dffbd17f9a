"""What a notebook starts with: tables, servers and folders, and errors that say what to do."""

import contextlib
import json
import urllib.request
from pathlib import Path

import pytest

from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, DeploymentError, TableError
from ruo.learn.demo import Demo
from ruo.notebook import prepare, prepare_files, prepare_replicas, prepare_tables


def test_missing_parts(demo: Demo, tmp_path: Path) -> None:
    """A missing table, and a table without a model, are errors that say what to pass."""
    with pytest.raises(TableError, match="There is no table at .*nothing.csv"):
        prepare(testset=tmp_path / "nothing.csv")
    with pytest.raises(ArgumentError, match="A table of your own needs a model: pass model"):
        prepare(testset=demo.testset)
    with pytest.raises(ArgumentError, match="workers: 'many' is not a whole number from 1 up"):
        prepare("http://127.0.0.1:9", demo.testset, workers="many")
    with pytest.raises(ArgumentError, match="A table of your own needs a model"):
        prepare_files(testset=demo.testset)


def test_a_sweep_takes_what_papermill_gives(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Numbers as text and sizes with commas are read, and the runs are kept in the folder."""
    work = prepare(server.url, demo.testset, results_dir=tmp_path)
    result = work.sweep("1e3,none", "1", "4.0", pipelined=[True], warmup=0)
    assert sorted(result.measured["rows_per_request"]) == [1000, 2500]
    assert set(result.measured["concurrency"]) == {4}
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2
    with pytest.raises(ArgumentError, match="runs: 'some' is not a whole number from 1 up"):
        work.sweep([1000], "some")


def test_training_has_tables_and_a_folder(demo: Demo, tmp_path: Path) -> None:
    """The given tables and label prefix are used; no server and no model is needed."""
    work = prepare_tables(demo.testset, demo.testset, tmp_path / "found", "Label")
    assert (work.testset, work.other, work.label_prefix) == (demo.testset, demo.testset, "Label")
    assert work.results_dir.is_dir()
    assert prepare_tables(demo.testset, results_dir=tmp_path).other is None
    with pytest.raises(TableError, match="There is no table at .*nothing.csv"):
        prepare_tables(demo.testset, tmp_path / "nothing.csv", tmp_path)


def test_training_takes_what_papermill_gives(demo: Demo, tmp_path: Path) -> None:
    """Hidden layers with commas, numbers as text and none are read."""
    trained = prepare_tables(demo.testset, results_dir=tmp_path).train("8,4", "1", "none")
    assert sum(map(len, trained.parts)) == 2_500
    assert [layer.units for layer in trained.model.layers[1:]] == [8, 4, 10]


@pytest.mark.soak
def test_the_number_of_workers_is_as_asked(demo: Demo, tmp_path: Path) -> None:
    """The server that is started has the given number of workers, and stops with the workbench."""
    work = prepare(None, demo.testset, demo.models["mlp"], tmp_path / "found", workers="1")
    try:
        with urllib.request.urlopen(f"{work.url}/v2/health/ready") as answer:
            assert json.load(answer)["workers"] == 1
        assert (tmp_path / "found").is_dir()
    finally:
        work.running.close()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{work.url}/v2/health/ready")


@pytest.mark.soak
def test_replicas_are_servers_by_the_names_of_their_models(demo: Demo, tmp_path: Path) -> None:
    """Each model has its own server, which can be scaled, and reached over a slower network."""
    work = prepare_replicas(testset=demo.testset, models=str(demo.models["mlp"]), results_dir=tmp_path)
    with contextlib.closing(work.running):
        assert list(work.targets) == list(work.models) == ["mlp"]
        assert work.targets["mlp"].urls == [work.url]
        assert work.network(1.0, 1000.0) != work.url


def test_no_cluster(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Deployment without a reachable cluster is an error."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(DeploymentError, match="There is no cluster to ask"):
        prepare_replicas("ruo-server", testset=demo.testset, results_dir=tmp_path)
