"""What a notebook begins with: a table, a server that holds a model, and a folder for the results.

Parameters come as papermill gives them: 5, 5.0, "5", "1000,5000,none" or [1000, None].
"""

from __future__ import annotations

import atexit
import os
import statistics
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from ruo.compare.jobs import time_in_process
from ruo.compare.results import SystemsCompared
from ruo.compare.run import compare_systems
from ruo.compare.systems import Systems
from ruo.deploy import Deployment, KubernetesDeployment, local_server
from ruo.errors import ArgumentError, TableError
from ruo.experiment import Costs, Sweep, flops_per_row, measure_costs, slow_network, sweep
from ruo.learn import Trained, make_demo, make_testset, train
from ruo.notebook.parameters import optional_whole_number, parse_mapping, positive, request_sizes, strings, whole_number

__all__ = ["Workbench", "prepare", "prepare_files", "prepare_replicas", "prepare_tables"]

PathLike = str | os.PathLike[str]
Server = TypeVar("Server")

_DEMO_ROWS = 20_000  # a sweep over it takes seconds
_OTHER_ROWS = 5_000


class Workbench:
    """What a notebook works with. Whatever it started ends with the notebook's kernel.

    Attributes
    ----------
    testset, results_dir : Path
        The table, and the folder for the results.
    model : Path or None
        The model's file; None where it is the server's own.
    url : str
        The address of the server.
    targets, models : dict
        The deployments and the models' files by the models' names, where the number of servers is to change.
    other : Path or None
        A second labelled table, from elsewhere or of a later time.
    label_prefix : str
        How the names of the label columns begin.
    """

    def __init__(self, testset: Path, model: Path | None, results_dir: Path, label_prefix: str = "Label_") -> None:
        self.testset = testset
        self.model = model
        self.results_dir = results_dir
        self.label_prefix = label_prefix
        self.other: Path | None = None
        self.url = ""
        self.targets: dict[str, Deployment] = {}
        self.models: dict[str, Path] = {}
        self._open = ExitStack()
        atexit.register(self._open.close)

    def start(self, server: AbstractContextManager[Server]) -> Server:
        """Enter a context that ends with the notebook's kernel."""
        return self._open.enter_context(server)

    def sweep(self, chunk_sizes: Any, runs: Any, concurrency: Any = 8, replicas: Any = None, **options: Any) -> Sweep:
        """Call `ruo.experiment.sweep` on the table, its servers and their models, and keep the runs in `results_dir`."""
        return sweep(
            self.testset,
            self.targets or self.url,
            chunk_sizes=request_sizes(chunk_sizes),
            runs=whole_number("runs", runs),
            concurrency=whole_number("concurrency", concurrency),
            replicas=None if replicas is None else [whole_number("replicas", number) for number in strings(replicas)],
            model=self.models or self.model,
            results_dir=self.results_dir,
            **options,
        )

    def measure_costs(self, result: Sweep) -> dict[str | None, Costs]:
        """Call `ruo.experiment.measure_costs` for each model of a sweep over replicas."""
        runs = result.measured
        return {
            name: measure_costs(
                self.testset,
                runs[runs["model"] == name],
                target.urls[0],
                shared=name in self.models,
                flops=flops_per_row(self.models[name]) if name in self.models else None,
            )
            for name, target in self.targets.items()
        }

    def compare_systems(
        self, chunk_sizes: Any, runs: Any, peers: Any = None, *, seed: int = 0, patience: float = 10.0
    ) -> SystemsCompared:
        """Call `ruo.compare.run.compare_systems` on the table and the model, with all servers on this machine."""
        sizes, count = request_sizes(chunk_sizes), whole_number("runs", runs)
        assert self.model is not None  # prepare_files refuses a workbench without one
        with Systems(self.testset, self.model, peers=parse_mapping("peers", peers)) as systems:
            return compare_systems(systems, sizes, count, self.results_dir, seed=seed, patience_s=patience, log=print)

    def train(self, units: Any, epochs: Any, max_rows: Any = None, **options: Any) -> Trained:
        """Call `ruo.learn.train` on the table."""
        return train(
            self.testset,
            units=[whole_number("units", number) for number in strings(units)],
            epochs=whole_number("epochs", epochs),
            max_rows=optional_whole_number("max_rows", max_rows),
            label_prefix=self.label_prefix,
            **options,
        )

    def network(self, round_trip_ms: Any, megabits: Any) -> str:
        """Return the address of the server behind a slower, simulated network."""
        delay, rate = positive("round_trip_ms", round_trip_ms), positive("megabits", megabits)
        return self.start(slow_network(self.url, delay, rate))

    def seconds_in_process(self, runs: int = 1) -> float | None:
        """Return the mean time of the whole job with no network at all; None where the model is not at hand."""
        if self.model is None or self.model.suffix != ".keras" or self.testset.suffix != ".csv":
            return None
        return statistics.fmean(time_in_process(self.testset, self.model, runs))

    def close(self) -> None:
        """Stop what was started, and leave a cluster as it was."""
        self._open.close()

    def __repr__(self) -> str:
        model = f"the model {self.model.name}" if self.model else ", ".join(self.models) or "its model"
        scored = f", scored by {model} at {self.url}" if self.url else ""
        return f"Workbench: {self.testset.name}{scored}; results in {self.results_dir.name}"


def prepare(
    server_url: str | None = None,
    testset: PathLike | None = None,
    model: PathLike | None = None,
    results_dir: PathLike | None = None,
    workers: Any = None,
) -> Workbench:
    """Make a workbench with a table and a server.

    Parameters
    ----------
    server_url : str, optional
        A running server; by default one is started on this machine.
    testset : path, optional
        The table; by default a demo of 20,000 rows. Relative paths start where the notebook runs.
    model : path, optional
        The model for the server that is started, or ``mlp`` or ``cnn`` for the demo's; by default mlp with the demo.
    results_dir : path, optional
        The folder for the results; by default a temporary one.
    workers : int, optional
        The processes of the server that is started; by default one for each CPU.

    Raises
    ------
    TableError
        If there is no such table.
    ArgumentError
        If there is a table but neither a model nor a server.
    DeploymentError
        If no server starts.
    """
    work = Workbench(_table(testset), _model_or_demo(model, testset), _folder(results_dir))
    processes = optional_whole_number("workers", workers)
    if server_url:
        work.url = server_url
    elif work.model:
        work.url = work.start(local_server(work.model, processes)).url
    else:
        raise ArgumentError("A table of your own needs a model: pass model (a file), or server_url (a running server).")
    return work


def prepare_files(
    testset: PathLike | None = None, model: PathLike | None = None, results_dir: PathLike | None = None
) -> Workbench:
    """Make a workbench for an experiment that starts its servers itself: the table, the model and the folder only."""
    path = _model_or_demo(model, testset)
    if path is None:
        raise ArgumentError("A table of your own needs a model: pass model (a file).")
    return Workbench(_table(testset), path, _folder(results_dir))


def prepare_replicas(
    deployment: str | None = None,
    namespace: str = "ruo",
    testset: PathLike | None = None,
    models: Any = ("mlp", "cnn"),
    results_dir: PathLike | None = None,
) -> Workbench:
    """Make a workbench for an experiment that changes the number of servers.

    Parameters
    ----------
    deployment, namespace : str, optional
        A Deployment on Kubernetes, whose model is its own; by default servers are started on this machine.
    models : list of str
        Files of models, or ``mlp`` and ``cnn`` for the demo's.
    testset, results_dir : path, optional
        As in `prepare`.
    """
    work = Workbench(_table(testset), None, _folder(results_dir))
    if deployment:
        work.targets = {deployment: work.start(KubernetesDeployment(deployment, namespace))}
    else:
        work.models = {path.stem: path for path in map(_model, strings(models))}
        # each worker is a replica, with one CPU of its own
        work.targets = {name: work.start(local_server(path, workers=1, cores=1)) for name, path in work.models.items()}
    work.url = next(iter(work.targets.values())).urls[0]
    return work


def prepare_tables(
    table: PathLike | None = None,
    other: PathLike | None = None,
    results_dir: PathLike | None = None,
    label_prefix: str = "Label_",
) -> Workbench:
    """Make a workbench for training: a labelled table, perhaps another one, and the folder; no model and no server.

    Without a `table` both are the demo's: the `other` is made of digits of which half are in the table too.
    """
    work = Workbench(_table(table), None, _folder(results_dir), label_prefix if table else "Label_")
    if table is None:
        work.other = work.results_dir / "demo-other.csv"
        make_testset(work.other, _OTHER_ROWS, seed=1)
    elif other is not None:
        work.other = _table(other)
    return work


def _model_or_demo(model: PathLike | None, testset: PathLike | None) -> Path | None:
    return None if model is None and testset is not None else _model(model or "mlp")


def _model(model: PathLike) -> Path:
    """Return the path of a model; ``mlp`` and ``cnn`` are the demo's, unless there are such files."""
    path = Path(model)
    if path.exists() or str(path) not in ("mlp", "cnn"):
        return path
    return _made(f"{path}.keras", lambda folder: make_demo(folder, 1, models=[str(path)]))


def _table(testset: PathLike | None) -> Path:
    if testset is None:
        return _made("testset.csv", lambda folder: make_testset(folder / "testset.csv", _DEMO_ROWS))
    if not Path(testset).is_file():
        raise TableError(f"There is no table at {testset}; paths start in {Path.cwd().name}, where the notebook runs.")
    return Path(testset)


def _folder(results_dir: PathLike | None) -> Path:
    folder = Path(results_dir) if results_dir else Path(tempfile.mkdtemp(prefix="ruo-results-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """Return a file of the demo, made once for each user and version; aside first, since several notebooks may want it."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    folder = Path(tempfile.gettempdir()) / f"ruo-demo-{metadata.version('ruo')}-{_DEMO_ROWS}-{user}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            make(Path(work))
            (Path(work) / name).replace(folder / name)
    return folder / name
