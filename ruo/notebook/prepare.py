"""What a notebook needs before it can begin: a table, a server that holds a model, and a folder for the results."""

from __future__ import annotations

import atexit
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

from ruo.compare import time_in_process
from ruo.deploy import Deployment, KubernetesDeployment, local_server
from ruo.errors import ArgumentError, TableError
from ruo.experiment import slow_network
from ruo.learn.demo import make_demo, make_testset

__all__ = [
    "Workbench", "demo_model", "demo_testset", "named", "prepare", "prepare_files",
    "prepare_replicas", "sizes", "whole",
]  # fmt: skip

_DEMO_ROWS = 20_000  # a sweep over it takes seconds


class Workbench:
    """What a notebook works with: `testset`, `model` (a path; None: the server's own), `url` and `results_dir`.

    Where the number of servers is to change, `targets` has the servers and `models` the paths, by the models' names.
    """

    def __init__(self, testset: Path, model: Path | None, results_dir: Path) -> None:
        self.testset = testset
        self.model = model
        self.results_dir = results_dir
        self.url = ""
        self.targets: dict[str, Deployment] = {}
        self.models: dict[str, Path] = {}
        self._open = ExitStack()
        atexit.register(self._open.close)  # where a notebook breaks off before its last cell

    def serve(self, server_url: str | None, workers: int | None) -> None:
        """Use the server at an address, or start one on this machine."""
        if server_url:
            self.url = server_url
            return
        if self.model is None:
            raise ArgumentError(
                "A table of your own needs a model: pass model (a file), or server_url (a running server)."
            )
        self.url = self._open.enter_context(local_server(self.model, workers)).url

    def serve_replicas(self, models: Mapping[str, Path]) -> None:
        """Start a server for each model on this machine, each worker of it a replica with one CPU of its own."""
        self.models = dict(models)
        for name, path in models.items():
            self.targets[name] = self._open.enter_context(local_server(path, workers=1, cores=1))
        self.url = self.targets[next(iter(models))].urls[0]

    def use_cluster(self, name: str, namespace: str) -> None:
        """Use a Deployment on Kubernetes; its number of pods and its autoscaler are as before when the notebook closes."""
        deployment = self._open.enter_context(KubernetesDeployment(name, namespace))
        self.targets, self.url = {name: deployment}, deployment.urls[0]

    def network(self, round_trip_ms: float, megabits: float) -> str:
        """The address of the server as it is seen over a slower, simulated network."""
        return self._open.enter_context(slow_network(self.url, round_trip_ms, megabits))

    def seconds_in_process(self, runs: int = 1) -> float | None:
        """The mean time of the whole job with no network at all; None where the model is not at hand."""
        if self.model is None or self.model.suffix != ".keras" or self.testset.suffix != ".csv":
            return None
        return statistics.fmean(time_in_process(self.testset, self.model, runs))

    def close(self) -> None:
        """Stop what was started here, and leave a cluster as it was."""
        self._open.close()

    def __repr__(self) -> str:
        model = f"the model {self.model.name}" if self.model else ", ".join(self.models) or "its model"
        return f"Workbench: {self.testset.name}, scored by {model} at {self.url}; results in {self.results_dir.name}"


def prepare(
    server_url: str | None = None,
    testset: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    results_dir: str | os.PathLike[str] | None = None,
    workers: int | None = None,
) -> Workbench:
    """Everything that is None is made: a demo of 20,000 rows and its dense model, a local server, a temporary folder.

    `model` is a path, or mlp or cnn for the demo's; `workers` the processes of a server that is started here. Relative
    paths start where the notebook runs. Raises TableError where there is no such table, RuoError where the parts do not
    go together, DeploymentError where no server starts.
    """
    bench = Workbench(_table(testset), _model(model, testset is None), _results(results_dir))
    bench.serve(server_url, workers)
    return bench


def prepare_files(
    testset: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    results_dir: str | os.PathLike[str] | None = None,
) -> Workbench:
    """`prepare` for an experiment that starts its servers itself: the table, the model and the folder only."""
    path = _model(model, testset is None)
    if path is None:
        raise ArgumentError("A table of your own needs a model: pass model (a file).")
    return Workbench(_table(testset), path, _results(results_dir))


def prepare_replicas(
    deployment: str | None = None,
    namespace: str = "ruo",
    testset: str | os.PathLike[str] | None = None,
    models: Sequence[str] = ("mlp", "cnn"),
    results_dir: str | os.PathLike[str] | None = None,
) -> Workbench:
    """`prepare` for an experiment that changes the number of servers: a Deployment on Kubernetes, or servers started here.

    `models` are paths, or mlp and cnn for the demo's; on Kubernetes the model is the Deployment's own.
    """
    bench = Workbench(_table(testset), None, _results(results_dir))
    if deployment:
        bench.use_cluster(deployment, namespace)
    else:
        names = models.split(",") if isinstance(models, str) else models
        paths = [demo_model(name) if _is_demo(Path(name)) else Path(name) for name in names]
        bench.serve_replicas({path.stem: path for path in paths})
    return bench


def named(name: str, value: Any) -> dict[str, str]:
    """Names and values from a notebook's parameter such as "a=1,b=2"; nothing from None. Raises RuoError."""
    if isinstance(value, Mapping):
        return {str(key): str(one) for key, one in value.items()}
    pairs = [pair.partition("=") for pair in str(value or "").split(",") if pair.strip()]
    wrong = next((key for key, _, one in pairs if not key.strip() or not one.strip()), None)
    if wrong is not None:
        raise ArgumentError(f"{name}: {wrong!r} has no value; write it as NAME=VALUE,NAME=VALUE.")
    return {key.strip(): one.strip() for key, _, one in pairs}


def _model(model: str | os.PathLike[str] | None, demo: bool) -> Path | None:
    """The path of a model, or of the demo's; with the demo's table its dense model is what None stands for."""
    if model is None:
        return demo_model("mlp") if demo else None
    return demo_model(str(model)) if _is_demo(Path(model)) else Path(model)


def _table(testset: str | os.PathLike[str] | None) -> Path:
    if testset is None:
        return demo_testset()
    if not Path(testset).is_file():
        raise TableError(f"There is no table at {testset}; paths start in {Path.cwd().name}, where the notebook runs.")
    return Path(testset)


def _results(results_dir: str | os.PathLike[str] | None) -> Path:
    folder = Path(results_dir) if results_dir else Path(tempfile.mkdtemp(prefix="ruo-results-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def sizes(values: Any, name: str = "chunk_sizes") -> list[int | None]:
    """Request sizes from a notebook's parameter `name`: a list, one value, or text such as "1000,5000,none"."""
    items = values.split(",") if isinstance(values, str) else values if isinstance(values, Sequence) else [values]
    return [None if str(item).strip().lower() in ("none", "whole", "") else whole(name, item) for item in items]


def whole(name: str, value: Any) -> int:
    """A whole number from 1 up, from a parameter that came as 5, 5.0, 1e5 or "5"; raises RuoError."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= 1 or not number.is_integer():
        raise ArgumentError(f"{name}: {value!r} is not a whole number from 1 up.")
    return int(number)


def demo_testset() -> Path:
    """The demo's test set of 20,000 rows, made once for each user and version."""
    return _made("testset.csv", lambda folder: make_testset(folder / "testset.csv", _DEMO_ROWS))


def demo_model(name: str) -> Path:
    """The demo's model of that name, mlp or cnn, trained once for each user and version."""
    return _made(f"{name}.keras", lambda folder: make_demo(folder, 1, models=[name]))


def _is_demo(path: Path) -> bool:
    return not path.exists() and str(path) in ("mlp", "cnn")


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """A file of the demo's folder, made beside it first, since other notebooks may want it at the same time."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir()) / f"ruo-demo-{metadata.version('ruo')}-{_DEMO_ROWS}-{user}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            make(Path(work))
            (Path(work) / name).replace(folder / name)
    return folder / name
