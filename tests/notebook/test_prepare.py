"""What a notebook starts with: tables, servers and folders, and errors that say what to do."""

import contextlib
import json
import urllib.request
from pathlib import Path

import pytest

from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError, DeploymentError, ModelError, ScoringError, TableError
from ruo.learn.demo import Demo
from ruo.notebook import prepare


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"testset": "nothing.csv"}, TableError, "nothing.csv does not exist"),
        ({"other": "nothing.csv", "needs": "table"}, TableError, "nothing.csv does not exist"),
        ({"model": "nothing.keras"}, ModelError, "There is no model at nothing.keras; pass a file, or mlp or cnn"),
        ({"models": "mlp,nothing.keras"}, ModelError, "There is no model at nothing.keras"),
        ({"testset": "this"}, ArgumentError, "A table of your own needs a model: pass model .*server_url"),
        ({"testset": "this", "needs": "model"}, ArgumentError, r"needs a model: pass model \(a file\)\."),
        ({"workers": "many"}, ArgumentError, "workers: 'many' is not a whole number from 1 up"),
        ({"runs": 0}, ArgumentError, "runs: 0 is not a whole number from 1 up"),
        ({"chunk_sizes": "10,none,0"}, ArgumentError, "chunk_sizes: 0 is not a whole number"),
        ({"replicas": [2, 4]}, ArgumentError, "replicas: put 1 among them"),
        ({"wire": ["v2", "v1"]}, ArgumentError, "there is no wire .*; choose v2, v2-json, v1, paper"),
        ({"wire": "v3"}, ArgumentError, "there is no wire 'v3'; choose v2, v2-json, v1, paper"),
        ({"patience": -1}, ArgumentError, "patience: -1 is not a number from 0 up"),
        ({"rums": 5}, ArgumentError, "prepare has no parameter 'rums'; it has workers, chunk_sizes"),
        ({"testset": "this", "server_url": "http://127.0.0.1:9"}, ScoringError, "Nothing answers at"),
        ({"testset": "this", "deployment": "ruo-server"}, DeploymentError, "There is no cluster to ask"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, arguments: dict, error: type, sentence: str
) -> None:
    """What cannot be, a missing file, and a server or cluster that does not answer are errors of the first call."""
    monkeypatch.setenv("KUBECONFIG", "none")
    own = {"testset": demo.testset} if arguments.get("testset") == "this" else {}
    with pytest.raises(error, match=sentence):
        prepare(**{**arguments, **own})


def test_a_table_that_does_not_fit_the_model_is_refused(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """A table with other columns than the model's is an error before a sweep begins."""
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match=r"^other\.csv has 2 feature columns"):
        prepare(server.url, tmp_path / "other.csv")


def test_a_sweep_takes_what_papermill_gives(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Numbers as text and sizes with commas are read, and the runs are kept in the folder."""
    how = {"chunk_sizes": "1e3,none", "runs": "1", "concurrency": "4.0", "patience": "0"}
    result = prepare(server.url, demo.testset, results_dir=tmp_path, **how).sweep(pipelined=[True], warmup=0)
    assert sorted(result.measured["rows_per_request"]) == [1000, 2500]
    assert set(result.measured["concurrency"]) == {4}
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2


@pytest.mark.soak
def test_the_job_without_a_network_is_measured_in_the_blocks(demo: Demo, server: LocalServer, tmp_path: Path) -> None:
    """Where the model's file is at hand, each block has the job without a network, with the same predictions."""
    work = prepare(server.url, demo.testset, demo.models["mlp"], tmp_path, chunk_sizes=[1000], runs=2)
    result = work.sweep(pipelined=[True])
    [bound] = result.others().values()
    assert bound["block"].tolist() == [1, 2]
    assert (bound["total_s"] > 0).all()
    assert result.runs["answers_equal"].all()
    assert "no network at all" in result.answer()


def test_training_has_tables_and_a_folder(demo: Demo, tmp_path: Path) -> None:
    """The given tables, label prefix and numbers as text are used; no server and no model is needed."""
    how = {"units": "8,4", "epochs": "1", "max_rows": "none"}
    work = prepare(None, demo.testset, None, tmp_path / "found", needs="table", other=demo.testset, **how)
    assert (work.testset, work.other, work.label_prefix, work.url) == (demo.testset, demo.testset, "Label_", "")
    assert work.results_dir.is_dir()
    assert prepare(None, demo.testset, results_dir=tmp_path, needs="table").other is None
    trained = work.train()
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
    how = {"models": str(demo.models["mlp"]), "round_trip_ms": 1, "megabits": "1000"}
    work = prepare(testset=demo.testset, results_dir=tmp_path, **how)
    with contextlib.closing(work.running):
        assert list(work.targets) == list(work.models) == ["mlp"]
        assert work.targets["mlp"].urls == [work.url]
        assert work.network() != work.url
