"""What a notebook starts with: a table, a server with a model, a folder for the results, and its other parameters.

All of it may come as papermill gives it: 5, 5.0, "5", "1000,5000,none" or [1000, None]; and all of it is checked before
anything starts.
"""

import atexit
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ruo.compare.jobs import in_process, run_job
from ruo.compare.results import BOUND, SystemsCompared
from ruo.compare.systems import Systems, compare_systems
from ruo.deploy import Deployment, KubernetesDeployment, local_server
from ruo.errors import ArgumentError, ModelError
from ruo.experiment import Costs, Sweep, flops_per_row, measure_costs, slow_network, sweep
from ruo.experiment.sweep import score_first_row
from ruo.learn import Trained, make_demo, make_testset, train
from ruo.notebook import parameters as read
from ruo.tables import TableOptions, open_table

PathLike = str | os.PathLike[str]

_DEMO_ROWS = 20_000  # a sweep over it takes seconds
_NOISY = 3.0  # so much that a model errs on some rows
# how each parameter is read; one that is not here is not known to any notebook
_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "workers": read.optional_whole_number,
    "chunk_sizes": read.request_sizes,
    "runs": read.whole_number,
    "wire": read.wire_name,
    "concurrency": read.whole_number,
    "replicas": read.whole_numbers,
    "patience": read.number,
    "peers": read.parse_mapping,
    "seed": partial(read.whole_number, least=0),
    "round_trip_ms": read.number,
    "megabits": partial(read.number, least=0.001),
    "units": read.whole_numbers,
    "epochs": read.whole_number,
    "max_rows": read.optional_whole_number,
    "worst": read.whole_number,
}
# how each file of the demo is made in a folder
_MAKERS: Mapping[str, Callable[[Path], object]] = {
    "testset.csv": lambda folder: make_testset(folder / "testset.csv", _DEMO_ROWS),
    "noisy.csv": lambda folder: make_testset(folder / "noisy.csv", _DEMO_ROWS, noise=_NOISY),
    "other.csv": lambda folder: make_testset(folder / "other.csv", 5_000, seed=1, noise=_NOISY),
    "mlp.keras": lambda folder: make_demo(folder, 1, models=["mlp"]),
    "cnn.keras": lambda folder: make_demo(folder, 1, models=["cnn"]),
}


@dataclass(repr=False)
class Workbench:
    """The table, server and folder that a notebook works with; what it starts stops with the notebook's kernel."""

    testset: Path
    results_dir: Path
    parameters: dict[str, Any]  # the other ones, read and checked, by their names
    label_prefix: str = "Label_"  # how the names of the label columns begin
    model: Path | None = None  # the model's file; None where only the server has it
    url: str = ""  # the address of the server
    other: Path | None = None  # a second labelled table, from elsewhere or of a later time
    targets: dict[str, Deployment] = field(default_factory=dict)  # deployments to scale, by the names of their models
    models: dict[str, Path] = field(default_factory=dict)  # the files of those models
    running: ExitStack = field(default_factory=ExitStack)  # stops what was started, and restores a cluster's replicas

    def sweep(self, **options: Any) -> Sweep:
        """Call `ruo.experiment.sweep` for this table, its servers and models; the runs are kept in `results_dir`.

        Where the model's file is at hand, the job without a network is measured too, in each block.
        """
        names = ("chunk_sizes", "runs", "wire", "concurrency", "replicas", "patience")
        given = {name: value for name, value in self.parameters.items() if name in names}
        servers, models = self.targets or self.url, self.models or self.model
        with ExitStack() as bound:
            others = {}
            if not self.targets and self.model and self.model.suffix == ".keras" and self.testset.suffix == ".csv":
                others[BOUND] = partial(run_job, bound.enter_context(in_process(self.testset, self.model)))
            given |= {"model": models, "others": others, "results_dir": self.results_dir}
            return sweep(self.testset, servers, **(given | options))

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

    def compare_systems(self) -> SystemsCompared:
        """Call `ruo.compare.systems.compare_systems` for this table and model, with all servers on this machine."""
        assert self.model is not None  # prepare made sure of it
        given = self.parameters
        systems = Systems(self.testset, self.model, peers=given["peers"])
        how = {"seed": given["seed"], "patience_s": given["patience"], "log": print}
        return compare_systems(systems, given["chunk_sizes"], given["runs"], self.results_dir, **how)

    def train(self, **options: Any) -> Trained:
        """Call `ruo.learn.train` for this table."""
        return train(self.testset, label_prefix=self.label_prefix, **(self.parameters | options))

    def network(self) -> str:
        """Start a slower, simulated network in front of the server, and return its address."""
        delay, rate = self.parameters["round_trip_ms"], self.parameters["megabits"]
        url = next((target.urls[0] for target in self.targets.values()), self.url)  # of a pod that is there now
        return self.running.enter_context(slow_network(url, delay, rate))

    def __repr__(self) -> str:
        model = f"the model {self.model.name}" if self.model else ", ".join(self.models) or "its model"
        scored = f", scored by {model} at {self.url}" if self.url else ""
        return f"Workbench: {self.testset.name}{scored}; results in {self.results_dir}"


def prepare(
    server_url: str | None = None,
    testset: PathLike | None = None,
    model: PathLike | None = None,
    results_dir: PathLike | None = None,
    *,
    needs: Literal["server", "model", "table"] = "server",
    models: Any = None,
    deployment: str | None = None,
    namespace: str = "ruo",
    other: PathLike | None = None,
    label_prefix: str = "Label_",
    **parameters: Any,
) -> Workbench:
    """Check all parameters of a notebook, and prepare what it needs; what is None is made.

    Parameters
    ----------
    server_url : str, optional
        A running server; by default one is started on this machine.
    testset, results_dir : path, optional
        The table and the folder for the results; by default a demo of 20,000 rows and a temporary folder.
    model : path, optional
        The model of the server that is started, or ``mlp`` or ``cnn`` for the demo's; by default mlp with the demo.
    needs : {"server", "model", "table"}
        What the notebook works with beside the table: a server, only a model's file, or nothing.
    models, deployment, namespace : optional
        Servers whose number of replicas can change: those of a Deployment, or one here for each of `models`.
    other : path, optional
        A second labelled table; where the table is the demo's and none is needed but it, the demo's second.
    label_prefix : str
        How the names of the label columns begin.
    **parameters
        The notebook's other parameters, such as ``runs`` and ``chunk_sizes``; its methods use them.

    Raises
    ------
    ArgumentError, TableError, ModelError, ScoringError
        A parameter cannot be read, a file is missing, or the server does not answer or does not take the table.
    """
    if unknown := set(parameters) - set(_READERS):
        raise ArgumentError(f"prepare has no parameter {min(unknown)!r}; it has {', '.join(_READERS)}.")
    given = {name: _READERS[name](name, value) for name, value in parameters.items()}
    if 1 not in given.get("replicas", [1]):
        raise ArgumentError("replicas: put 1 among them, since a gain is one over one replica.")
    options = TableOptions(label_prefix=label_prefix)
    for path in (testset, other):
        if path is not None:
            open_table(path, options)
    named = [*read.strings(models or []), *([str(model)] if model else [])]
    for name in named:
        if not Path(name).exists() and f"{name}.keras" not in _MAKERS:
            raise ModelError(f"There is no model at {name}; pass a file, or mlp or cnn for the demo's.")
    if testset is not None and not named and needs != "table" and not (server_url or deployment):
        hint = "pass model (a file)" + ("" if needs == "model" else ", or server_url (a running server)")
        raise ArgumentError(f"A table of your own needs a model: {hint}.")
    table = Path(testset) if testset is not None else _demo("noisy.csv" if needs == "table" else "testset.csv")
    folder = Path(results_dir or tempfile.mkdtemp(prefix="ruo-results-"))
    folder.mkdir(parents=True, exist_ok=True)
    work = Workbench(table, folder, given, label_prefix)
    atexit.register(work.running.close)
    if needs == "table":
        work.other = Path(other) if other else None if testset else _demo("other.csv")
    elif models is not None or deployment is not None:
        _start_replicas(work, deployment, namespace, models)
    else:
        # what a running server loaded is not known unless it is named
        work.model = _model(model or "mlp") if model or not server_url else None
        work.url = server_url or ""
        if needs == "server" and work.model and not server_url:
            work.url = work.running.enter_context(local_server(work.model, given.get("workers"))).url
    if work.url:  # the table fits the model, which is at hand: better said now than after minutes
        score_first_row(open_table(table, options), work.url, wire=given.get("wire", "v2"), retries=0, progress=False)
    return work


def _start_replicas(work: Workbench, deployment: str | None, namespace: str, models: Any) -> None:
    if deployment:
        work.targets = {deployment: work.running.enter_context(KubernetesDeployment(deployment, namespace))}
    else:
        paths = [_model(name) for name in read.strings(models)]
        work.models = {path.stem: path for path in paths}
        if not paths or len(work.models) < len(paths):
            raise ArgumentError("models: name one model or more, and files of different names.")
        for name, path in work.models.items():  # each worker is a replica with its own CPU
            work.targets[name] = work.running.enter_context(local_server(path, workers=1, cores=1))
    work.url = next(iter(work.targets.values())).urls[0]


def _model(model: PathLike) -> Path:
    return Path(model) if Path(model).exists() else _demo(f"{model}.keras")


def _demo(name: str) -> Path:
    """A file of the demo, made once per user and version; the rename makes it safe for concurrent notebooks."""
    folder = Path(tempfile.gettempdir()) / f"ruo-demo-{metadata.version('ruo')}-{_DEMO_ROWS}-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    if not (folder / name).exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _MAKERS[name](Path(work))
            (Path(work) / name).replace(folder / name)
    return folder / name
