"""What is in the images, and how a container of each behaves."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ruo import iter_scores, score_csv
from tests.image.conftest import docker

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

SERVERS = ["tensorflow", "openvino"]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, run: Callable[..., Any]) -> Any:
    """A running container of each server."""
    with run(request.param) as container:
        container.target = request.param
        yield container


@pytest.mark.parametrize(
    ("target", "most"), [("tensorflow", 1.5e9), ("openvino", 0.7e9), ("client", 0.6e9), ("measure", 1.2e9)]
)
def test_an_image_is_small(image: Callable[[str], str], target: str, most: float) -> None:
    """Its size, with the base image, is bounded."""
    assert int(docker("inspect", "-f", "{{.Size}}", image(target))) < most


def test_the_default_is_the_server_with_tensorflow(image: Callable[[str], str]) -> None:
    """The Dockerfile's last stage is what is built without a target, and the images say what they are."""
    about = json.loads(docker("inspect", image("tensorflow")))[0]["Config"]
    assert about["User"] == "10001:10001"
    assert about["Healthcheck"]["Test"][0] == "CMD"
    assert about["Labels"]["org.opencontainers.image.version"] == "test"
    assert "KERAS_BACKEND=openvino" in json.loads(docker("inspect", image("openvino")))[0]["Config"]["Env"]


def test_only_what_is_needed_is_inside(server: Any) -> None:
    """No client package, no compiler, no cache; no TensorFlow beside OpenVINO; the rest of ruo is not there."""
    program = """
import importlib.util as u, shutil
names = ["polars", "pandas", "aiohttp", "tqdm", "matplotlib", "pytest", "pip", "tensorflow", "openvino",
         "ruo.client", "ruo.tables", "ruo.compare"]
print([name for name in names if u.find_spec(name)], [name for name in ("gcc", "cc", "make", "git") if shutil.which(name)])
"""
    assert server.inside(program) == f"['{server.target}'] []"
    everything = "find /opt /app /root /tmp -name '*.whl' -o -path '*/.cache/*' -o -name '*.pyc' -path '/app/*'"
    assert docker("run", "--rm", "--user", "0", server.image, "sh", "-c", everything) == ""


def test_it_runs_without_rights_on_the_containers_cpus(server: Any) -> None:
    """Not root, only /tmp to write to, no capabilities; two CPUs make two workers of one thread, whatever the machine."""
    program = """
import os, pathlib
for path in ("/app/x", "/app/model/x", "/etc/x", "/x", "/tmp/x"):
    try:
        open(path, "w").close()
        print("writable", path)
    except OSError:
        pass
status = open("/proc/1/status")
print(os.getuid(), os.getgid(), [line.split()[1] for line in status if line.startswith(("CapEff", "NoNewPrivs"))])
worker = pathlib.Path("/proc/1/task/1/children").read_text().split()[0]
environ = pathlib.Path("/proc", worker, "environ").read_text()
print([each for each in environ.split(chr(0)) if each.startswith("OMP_NUM_THREADS")])
"""
    *rights, threads = server.inside(program).splitlines()
    assert rights == ["writable /tmp/x", "10001 10001 ['0000000000000000', '1']"]
    assert threads in ("['OMP_NUM_THREADS=1']", "[]")  # set by the first process, or in each worker
    assert len(server.workers()) == 2


def test_it_scores_as_in_process_and_is_healthy(server: Any, demo: Any, expected: np.ndarray) -> None:
    """The whole test set through the container is what the model says in this process; Docker's own check sees it."""
    scores = score_csv(demo.testset, server.url, chunk_size=1_000)
    np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
    assert scores.requests["worker"].nunique() == 2
    until = time.monotonic() + 60
    while (state := docker("inspect", "-f", "{{.State.Health.Status}}", server.id)) != "healthy":
        assert time.monotonic() < until, state
        time.sleep(0.5)


@pytest.mark.parametrize("target", SERVERS)
def test_a_stop_finishes_what_is_under_way(run: Callable[..., Any], demo: Any, expected: np.ndarray, target: str) -> None:  # fmt: skip
    """A container that is stopped in mid-run ends with 0, and one that takes over leaves no row out."""
    with run(target) as first, run(target) as second:
        found, ended = [], []
        stopping = threading.Thread(target=lambda: ended.append(first.stop()))
        for number, block in enumerate(iter_scores(demo.testset, [first.url, second.url], chunk_size=100)):
            found.append(block.predictions)
            if number == 50:
                stopping.start()
            time.sleep(0.01)
        stopping.join()
    assert ended == [0]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_a_rollout_loses_nothing(run: Callable[..., Any], demo: Any, expected: np.ndarray) -> None:
    """Two containers behind a list of addresses are replaced one after the other while a table is scored again and again."""
    with run("openvino", "-p", "127.0.0.1:18731:8000") as first, run("openvino", "-p", "127.0.0.1:18732:8000") as other:
        urls = ["http://127.0.0.1:18731", "http://127.0.0.1:18732"]
        stop, runs = threading.Event(), []

        def score() -> None:
            while not stop.is_set():
                runs.append(score_csv(demo.testset, urls, chunk_size=200, progress=False))

        client = threading.Thread(target=score)
        client.start()
        for old in (first, other):
            time.sleep(1)
            docker("restart", "-t", "75", old.id)
            old.url = f"http://{docker('port', old.id, '8000').splitlines()[0]}"
            old.wait_until_ready()
        time.sleep(1)
        stop.set()
        client.join()
    assert len(runs) > 1
    for scores in runs:
        np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)
    assert set(urls) == {url for scores in runs for url in scores.requests["server"]}


def test_the_client_scores(run: Callable[..., Any], image: Callable[[str], str], demo: Any) -> None:
    """The client's image has the command line and nothing of a server; it scores a part of a table as a Job's pod does."""
    name = image("client")
    assert "Score a whole table" in docker("run", "--rm", name)
    servers = ("tensorflow", "keras", "flask", "gunicorn")
    program = f"import importlib.util as u; print([n for n in {servers} if u.find_spec(n)])"
    assert docker("run", "--rm", name, "python3", "-c", program) == "[]"
    with run("openvino") as server:
        confined = ["--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL", "--network", "host"]
        table = ["-v", f"{demo.testset}:/data/testset.csv:ro"]
        command = ["python3", "-m", "ruo", "score", "/data/testset.csv", server.url]
        options = ["--shard=1/4", "--output=/tmp/1.parquet"]
        assert "all rows scored" in docker("run", "--rm", *confined, *table, name, *command, *options)


def test_what_measures_has_the_notebooks_and_the_cluster(image: Callable[[str], str]) -> None:
    """The measuring image runs notebooks and scales a cluster, without JupyterLab, Keras and a server."""
    program = (
        "import ruo.notebook.run, kubernetes, papermill, ipykernel, importlib.util as u; "
        "print([n for n in ('tensorflow', 'keras', 'flask', 'jupyterlab') if u.find_spec(n)])"
    )
    confined = ["--rm", "--read-only", "--tmpfs", "/tmp", image("measure"), "python3"]
    assert docker("run", *confined, "-c", program) == "[]"
    assert "round_trip_ms" in docker("run", *confined, "-m", "papermill", "--help-notebook", "notebooks/scaling.ipynb")
