"""The request-size sweep: a table scored again and again, in every combination of the settings."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ruo.arguments import typed
from ruo.client.scores import Predictions, Scores
from ruo.client.scoring import score_csv
from ruo.deploy import LocalServer, ServerAddress
from ruo.errors import ArgumentError, DeploymentError, RuoError, TableError, count
from ruo.experiment.carry_out import Measurement, Plan, Trial, all_combinations, carry_out, compare_answers
from ruo.experiment.results import Sweep, read_sweep
from ruo.experiment.validity import is_enough
from ruo.machine import peak_rss_mb, reset_peak_rss
from ruo.provenance import Provenance, fingerprint, machine
from ruo.tables import Source, Table, TableOptions, open_table

ModelPath = str | os.PathLike[str]
Job = Callable[[], tuple[dict[str, Any], Predictions]]  # scores the table: what it measured, or an `error`, and answers


@typed
def sweep(
    source: Source,
    url: ServerAddress | Mapping[str, ServerAddress],  # a mapping by the names of models makes the model a factor
    *,
    chunk_sizes: Sequence[int | None],  # rows per request, below those of the table; None: the whole table in one
    runs: int = 5,  # measured blocks
    wire: str | Sequence[str] = "v2",
    concurrency: int | Sequence[int] = 8,
    pipelined: Sequence[bool] = (True, False),  # False: form all requests before the first is sent, as in 2023
    replicas: Sequence[int] | None = None,  # numbers of servers to which a deployment is scaled between the runs
    seed: int = 0,  # sets the order of the runs
    warmup: int = 1,  # blocks before the measured ones
    model: ModelPath | Mapping[str, ModelPath] | None = None,  # what the server loaded, or by name; it is fingerprinted
    others: Mapping[str, Job] | None = None,  # other systems, by name, which score the table once in each block
    patience: float = 0.0,  # seconds for waiting until the machine is quiet, and as many for further blocks
    results_dir: str | os.PathLike[str],  # the folder for the runs; the same call resumes an interrupted sweep there
    label_prefix: str = "Label_",
    timeout: float = 600.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Score a table in every combination of the settings, in randomised blocks, and keep how long every run took.

    Most arguments are those of `ruo.score_csv`, of which some may be several values to measure; no request is repeated.
    """
    by_name: Mapping[Any, ServerAddress] = url if isinstance(url, Mapping) else {None: url}
    servers = {name: [value] if isinstance(value, str) else value for name, value in by_name.items()}
    wires = [wire] if isinstance(wire, str) else list(wire)
    options = {"wire": next(iter(wires), None), "label_prefix": label_prefix, "timeout": timeout, "token": token}
    table = _TableMeasurement(source, servers, options, others or {})
    sizes, notes = _sizes_below(table.rows, chunk_sizes)
    factors = {
        "model": list(servers),
        "replicas": [None] if replicas is None else list(replicas),
        "wire": wires,
        "concurrency": [concurrency] if isinstance(concurrency, int) else list(concurrency),
        "chunk_size": sizes,
        "pipelined": list(pipelined),
    }
    combinations = [*all_combinations(factors), *({"system": name} for name in others or {})]
    plan = Plan(combinations, runs, warmup, seed, slow=None if replicas is None else "replicas")
    facts = {
        "plan": {**plan.facts(), "timeout": timeout},
        "data": {**table.facts, "label_prefix": label_prefix, "sha256": table.table.fingerprint()},
        "model": _model_facts(model),
        "machine": machine(),
        "notes": notes,
    }
    enough = partial(is_enough, blocks=runs)
    carry_out(plan, table, Provenance(facts), results_dir, patience_s=patience, enough=enough, progress=progress)
    return read_sweep(results_dir)


def _model_facts(model: ModelPath | Mapping[str, ModelPath] | None) -> dict[str, Any] | None:
    if isinstance(model, Mapping):
        return {name: _model_facts(path) for name, path in model.items()}
    return None if model is None else {"name": Path(model).name, "sha256": fingerprint(model)}


def _sizes_below(rows: int, chunk_sizes: Sequence[int | None]) -> tuple[list[int | None], list[str]]:
    """The sizes that are smaller than the table, and a sentence on each that is not."""
    for size in chunk_sizes:
        if size is not None and size < 1:
            raise ArgumentError(f"chunk_sizes: {size!r} must be at least 1, or None for the whole set.")
    sizes = [size if size is None else int(size) for size in chunk_sizes if size is None or size < rows]
    left_out = [size for size in chunk_sizes if size not in sizes]
    if left_out and not sizes:
        raise ArgumentError(f"chunk_sizes: none is below the table's {count(rows, 'row')}; pass smaller ones, or None.")
    why = f"the table has {count(rows, 'row')}, and None sends it whole."
    return sizes, [f"{count(size, 'row')} per request was left out: {why}" for size in left_out if size]


def score_first_row(table: Table, url: ServerAddress, **options: Any) -> None:
    """Score the first row of a table, so that what does not fit is said at once, and not after minutes."""
    first = pl.DataFrame(next(table.blocks(1)).array, schema=table.features)
    try:
        score_csv(first, url, **options)
    except TableError as error:
        raise TableError(str(error).replace("the DataFrame", table.name)) from None


class _TableMeasurement(Measurement):
    """Scores a table and compares the predictions with those of the first run, or of an extra run on resuming."""

    def __init__(
        self, source: Source, servers: Mapping[Any, ServerAddress], options: dict[str, Any], others: Mapping[str, Job]
    ) -> None:
        self._source = source
        self._servers = servers
        self._options = {"progress": False, **options}
        self._others = others
        self._references: dict[str | None, Predictions] = {}
        self._replicas: dict[str | None, int] = {}
        self.table = table = open_table(source, TableOptions(label_prefix=options["label_prefix"]))
        self.rows = sum(block.rows for block in table.blocks(10_000))
        columns = hashlib.sha256(repr((table.features, table.options)).encode()).hexdigest()[:12]
        self.facts = {"name": table.name, "rows": self.rows, "features": len(table.features), "columns": columns}

    def begin(self, resumed: bool) -> None:
        """Score something, so that a wrong address raises an error instead of filling a sweep with failed runs."""
        for model in self._servers:
            if resumed:
                self._references[model] = score_csv(self._source, self._urls(model), **self._options).predictions
            else:
                score_first_row(self.table, self._urls(model), **self._options)

    def prepare(self, trial: Trial) -> None:
        """Scale the model's servers."""
        model, replicas = trial.levels.get("model"), trial.levels.get("replicas")
        if replicas is None or self._replicas.get(model) == replicas:
            return
        servers = self._servers[model]
        if isinstance(servers, Sequence):
            raise DeploymentError("An address cannot be scaled; pass local_server(...) or a KubernetesDeployment.")
        servers.scale(replicas)
        self._replicas[model] = replicas

    def measure(self, trial: Trial) -> dict[str, Any]:
        """Score the table once; the result has the columns of a sweep."""
        if "system" in trial.levels:
            measured, predictions = self._others[trial.levels["system"]]()
            checked = {} if measured.get("error") else self._checked(next(iter(self._servers)), predictions)
            return {"rows": self.rows, **measured, **checked}
        size, urls = trial.levels["chunk_size"] or self.rows, self._urls(trial.levels["model"])
        setting = {"rows_per_request": size, "rows": self.rows, "server": ", ".join(urls)}
        try:
            return setting | self._score(urls, **trial.levels)
        except ArgumentError:  # a level that cannot be measured at all
            raise
        except RuoError as error:
            return setting | {"error": str(error)}
        except MemoryError:
            return setting | {"error": "The client has not enough memory for such requests; send smaller ones."}

    def _urls(self, model: str | None) -> list[str]:
        servers = self._servers[model]
        return list(servers if isinstance(servers, Sequence) else servers.urls)

    def _score(self, urls: list[str], model: str | None, replicas: int | None, **levels: Any) -> dict[str, Any]:
        before_mb, began = reset_peak_rss(), time.process_time()
        scores = score_csv(self._source, urls, retries=0, **{**self._options, **levels})
        cpu_s = time.process_time() - began
        return {
            **_facts(scores, replicas, isinstance(self._servers[model], LocalServer)),
            "client_cpu_s": cpu_s,
            "client_cpu_share": cpu_s / scores.timings.total_s,
            "memory_mb": float(np.maximum(peak_rss_mb() - before_mb, 0)),  # NaN stays NaN
            **self._checked(model, scores.predictions),
        }

    def _checked(self, model: str | None, predictions: Predictions) -> dict[str, Any]:
        difference, is_equal = compare_answers(predictions, self._references.setdefault(model, predictions))
        return {"max_abs_difference": difference, "answers_equal": is_equal}


def _facts(scores: Scores, replicas: int | None, is_local: bool) -> dict[str, Any]:
    requests, balance = scores.requests, scores.balance()
    # without the decoding, during which the server waits for the body; NaN where it reports no times
    server_s = float((requests["predict_s"] + requests["encode_s"]).sum(skipna=False))
    # a worker is named HOST/PROCESS, and on Kubernetes a pod is a host; a server that names none is an address
    pods = balance["worker"].str.replace(r"^([^/]*)/[^/]*$", r"\1", regex=True)
    is_process = is_local or (replicas is None and pods.nunique() == 1)
    rows = balance.groupby("worker" if is_process else pods)["rows"].sum()
    workers = replicas or len(rows)
    return {
        "requests": len(requests),
        "bytes": int(requests["bytes"].sum()),
        **scores.timings._asdict(),
        "request_median_s": float(requests["seconds"].median()),
        "request_max_s": float(requests["seconds"].max()),
        "server_s": server_s,
        "server_busy": server_s / (workers * scores.timings.sending_s),
        "workers": workers,
        "rows_by_worker": rows.to_dict(),
        "retries": int((requests["attempts"] - 1).sum()),
        "model_version": scores.model.version,
    }
