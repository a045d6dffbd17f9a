"""What a notebook starts with: a table, a server with a model, and a folder for the results.

Numbers and lists may come as papermill gives them: 5, 5.0, "5", "1000,5000,none" or [1000, None].
"""

import atexit
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

from ruo.compare.jobs import in_process
from ruo.compare.results import BOUND, SystemsCompared
from ruo.compare.systems import Systems, compare_systems
from ruo.deploy import Deployment, KubernetesDeployment, local_server
from ruo.errors import ArgumentError, TableError
from ruo.experiment import Costs, Sweep, flops_per_row, measure_costs, slow_network, sweep
from ruo.learn import Trained, make_demo, make_testset, train
from ruo.notebook.parameters import (
    optional_whole_number,
    parse_mapping,
    positive,
    request_sizes,
    seconds,
    strings,
    whole_number,
)

PathLike = str | os.PathLike[str]

_DEMO_ROWS = 20_000  # a sweep over it takes seconds


class Workbench:
    """The table, server and folder that a notebook works with; what it starts stops with the notebook's kernel."""

    def __init__(self, testset: PathLike | None, results_dir: PathLike | None, model: Path | None = None) -> None:
        self.testset = _table(testset)
        self.results_dir = Path(results_dir or tempfile.mkdtemp(prefix="ruo-results-"))
        self.results_dir.mkdir(parents=True, exist_ok=True)
        self.model = model  # the model's file; None where only the server has it
        self.url = ""  # the address of the server
        self.targets: dict[str, Deployment] = {}  # deployments to scale, by the names of their models
        self.models: dict[str, Path] = {}  # the files of those models
        self.label_prefix = "Label_"  # how the names of the label columns begin
        self.other: Path | None = None  # a second labelled table, from elsewhere or of a later time
        self.running = ExitStack()  # stops what was started, and restores a cluster's number of replicas
        atexit.register(self.running.close)

    def sweep(
        self,
        chunk_sizes: Any,
        runs: Any,
        concurrency: Any = 8,
        replicas: Any = None,
        patience: Any = 0,
        **options: Any,
    ) -> Sweep:
        """Call `ruo.experiment.sweep` for this table, its servers and models; the runs are kept in `results_dir`.

        Where the model's file is at hand, the job without a network is measured too, in each block.
        """
        with ExitStack() as bound:
            others = {}
            if replicas is None and self.model and self.model.suffix == ".keras" and self.testset.suffix == ".csv":
                others[BOUND] = bound.enter_context(in_process(self.testset, self.model))
            return sweep(
                self.testset,
                self.targets or self.url,
                chunk_sizes=request_sizes(chunk_sizes),
                runs=whole_number("runs", runs),
                concurrency=whole_number("concurrency", concurrency),
                replicas=None
                if replicas is None
                else [whole_number("replicas", number) for number in strings(replicas)],
                model=self.models or self.model,
                others=others,
                patience=seconds("patience", patience),
                results_dir=self.results_dir,
                **options,
            )

    def measure_costs(self, result: Sweep) -> dict[str | None, Costs]:
        """Call `ruo.experiment.measure_costs` for each model of a sweep over replicas."""
        runs = result.measured
        flops = {name: flops_per_row(path) for name, path in self.models.items()}
        return {
            name: measure_costs(
                self.testset, runs[runs["model"] == name], target.urls[0], shared=name in flops, flops=flops.get(name)
            )
            for name, target in self.targets.items()
        }

    def compare_systems(
        self, chunk_sizes: Any, runs: Any, peers: Any = None, *, seed: Any = 0, patience: Any = 0
    ) -> SystemsCompared:
        """Call `ruo.compare.systems.compare_systems` for this table and model, with all servers on this machine."""
        assert self.model is not None  # prepare_files requires one
        sizes, count = request_sizes(chunk_sizes), whole_number("runs", runs)
        patience_s = seconds("patience", patience)
        systems = Systems(self.testset, self.model, peers=parse_mapping("peers", peers))
        return compare_systems(
            systems, sizes, count, self.results_dir, seed=int(seed), patience_s=patience_s, log=print
        )

    def train(self, units: Any, epochs: Any, max_rows: Any = None, **options: Any) -> Trained:
        """Call `ruo.learn.train` for this table."""
        return train(
            self.testset,
            units=[whole_number("units", number) for number in strings(units)],
            epochs=whole_number("epochs", epochs),
            max_rows=optional_whole_number("max_rows", max_rows),
            label_prefix=self.label_prefix,
            **options,
        )

    def network(self, round_trip_ms: Any, megabits: Any) -> str:
        """Start a slower, simulated network in front of the server, and return its address."""
        delay, rate = positive("round_trip_ms", round_trip_ms), positive("megabits", megabits)
        return self.running.enter_context(slow_network(self.url, delay, rate))

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
    """Prepare a table and a server.

    Parameters
    ----------
    server_url : str, optional
        A running server; by default one is started on this machine.
    testset, results_dir : path, optional
        The table and the folder for the results; by default a demo of 20,000 rows and a temporary folder.
    model : path, optional
        The model of the server that is started, or ``mlp`` or ``cnn`` for the demo's; by default mlp with the demo.
    workers : int, optional
        The processes of the server that is started; by default one for each CPU.
    """
    # what a running server loaded is not known unless it is named
    known = None if server_url and model is None else _model_or_demo(model, testset)
    work = Workbench(testset, results_dir, known)
    processes = optional_whole_number("workers", workers)
    if server_url:
        work.url = server_url
    elif work.model:
        work.url = work.running.enter_context(local_server(work.model, processes)).url
    else:
        raise ArgumentError("A table of your own needs a model: pass model (a file), or server_url (a running server).")
    return work


def prepare_files(
    testset: PathLike | None = None, model: PathLike | None = None, results_dir: PathLike | None = None
) -> Workbench:
    """Prepare the table and the model for an experiment that starts its servers itself; arguments as in `prepare`."""
    path = _model_or_demo(model, testset)
    if path is None:
        raise ArgumentError("A table of your own needs a model: pass model (a file).")
    return Workbench(testset, results_dir, path)


def prepare_replicas(
    deployment: str | None = None,
    namespace: str = "ruo",
    testset: PathLike | None = None,
    models: Any = ("mlp", "cnn"),
    results_dir: PathLike | None = None,
) -> Workbench:
    """Prepare a table and servers whose number of replicas can change; other arguments as in `prepare`.

    The servers are those of a `deployment`, or else one here for each of `models` (files, ``mlp`` or ``cnn``).
    """
    work = Workbench(testset, results_dir)
    if deployment:
        work.targets = {deployment: work.running.enter_context(KubernetesDeployment(deployment, namespace))}
    else:
        work.models = {path.stem: path for path in map(_model, strings(models))}
        for name, path in work.models.items():  # each worker is a replica with its own CPU
            work.targets[name] = work.running.enter_context(local_server(path, workers=1, cores=1))
    work.url = next(iter(work.targets.values())).urls[0]
    return work


def prepare_tables(
    table: PathLike | None = None,
    other: PathLike | None = None,
    results_dir: PathLike | None = None,
    label_prefix: str = "Label_",
) -> Workbench:
    """Prepare a labelled table to train with, and perhaps another to judge by; by default the demo's."""
    work = Workbench(table, results_dir)
    if table is None:
        work.other = work.results_dir / "demo-other.csv"
        make_testset(work.other, 5_000, seed=1)
    else:
        work.label_prefix = label_prefix
        work.other = _table(other) if other else None
    return work


def _model_or_demo(model: PathLike | None, testset: PathLike | None) -> Path | None:
    return None if model is None and testset is not None else _model(model or "mlp")


def _model(model: PathLike) -> Path:
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


def _made(name: str, make: Callable[[Path], object]) -> Path:
    """Return a file of the demo, made once per user and version; the rename makes it safe for concurrent notebooks."""
    folder = Path(tempfile.gettempdir()) / f"ruo-demo-{metadata.version('ruo')}-{_DEMO_ROWS}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            make(Path(work))
            (Path(work) / name).replace(folder / name)
    return folder / name
