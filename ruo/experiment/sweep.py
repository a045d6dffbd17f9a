"""The request-size sweep: a table scored again and again, in every combination of the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruo.errors import ArgumentError
from ruo.experiment.carry_out import carry_out
from ruo.experiment.measure import Servers, TableMeasurement
from ruo.experiment.plan import Plan, all_combinations
from ruo.experiment.results import Sweep, read_sweep
from ruo.provenance import Provenance, fingerprint, machine
from ruo.table import fingerprint_table

if TYPE_CHECKING:
    from ruo.table import Source

__all__ = ["sweep"]

ModelPath = str | os.PathLike[str]


def sweep(
    source: Source,
    url: Servers | Mapping[str, Servers],
    *,
    chunk_sizes: Sequence[int | None],
    runs: int = 5,
    wire: str | Sequence[str] = "v2",
    concurrency: int | Sequence[int] = 8,
    pipelined: Sequence[bool] = (True, False),
    replicas: Sequence[int] | None = None,
    seed: int = 0,
    warmup: int = 1,
    model: ModelPath | Mapping[str, ModelPath] | None = None,
    results_dir: str | os.PathLike[str],
    label_prefix: str = "Label_",
    timeout: float = 600.0,
    token: str | None = None,
    progress: bool | None = None,
) -> Sweep:
    """Score a table in every combination of the settings, in randomised blocks, and keep how long every run took.

    Most arguments are those of `ruo.score_csv`, of which some may be several values to measure; no request is repeated.

    Parameters
    ----------
    url
        An address, addresses or a deployment; or a mapping of these by model name, which makes the model a factor.
    chunk_sizes
        Rows per request; None is the whole table in one. Other sizes that hold all rows are left out.
    runs, warmup
        The number of measured blocks, and of warm-up blocks before them.
    pipelined
        How to send; False forms all requests before the first is sent, as the system of 2023 did.
    replicas
        The numbers of servers, for a deployment, which is scaled between the runs.
    seed
        Sets the order of the runs.
    model
        The file or folder that the server loaded, or one for each name; it is fingerprinted.
    results_dir
        The folder for the runs; the same call resumes an interrupted sweep there.
    """
    servers: dict[str | None, Servers] = {}
    servers |= url.items() if isinstance(url, Mapping) else [(None, url)]
    wires = [wire] if isinstance(wire, str) else list(wire)
    table = TableMeasurement(source, servers, wires[0] if wires else "v2", label_prefix, timeout, token)
    sizes, notes = _sizes_below(table.rows, chunk_sizes)
    combinations = all_combinations(
        {
            "model": list(servers),
            "replicas": [None] if replicas is None else list(replicas),
            "wire": wires,
            "concurrency": [concurrency] if isinstance(concurrency, int) else list(concurrency),
            "chunk_size": sizes,
            "pipelined": list(pipelined),
        }
    )
    plan = Plan(combinations, runs, warmup, seed, slow=None if replicas is None else "replicas")
    data = {"name": table.name, "rows": table.rows, "features": table.features, "label_prefix": label_prefix}
    provenance = Provenance(
        {
            "plan": {**plan.facts(), "timeout": timeout},
            "data": {**data, "sha256": fingerprint_table(source)},
            "model": _model_facts(model),
            "machine": machine(),
            "notes": notes,
        }
    )
    carry_out(plan, table, provenance, results_dir, progress=progress)
    return read_sweep(results_dir)


def _model_facts(model: ModelPath | Mapping[str, ModelPath] | None) -> dict[str, Any] | None:
    if isinstance(model, Mapping):
        return {name: _model_facts(path) for name, path in model.items()}
    return None if model is None else {"name": Path(model).name, "sha256": fingerprint(model)}


def _sizes_below(rows: int, chunk_sizes: Sequence[int | None]) -> tuple[list[int | None], list[str]]:
    """The sizes that are smaller than the table, and a sentence on each that is not."""
    sizes: list[int | None] = []
    notes = []
    for size in chunk_sizes:
        if size is not None and (isinstance(size, bool) or size != int(size) or size < 1):
            raise ArgumentError(f"chunk_sizes: {size!r} must be a whole number from 1 up, or None for the whole set.")
        if size is None or size < rows:
            sizes.append(None if size is None else int(size))
        else:
            notes.append(
                f"{size:,} rows per request was left out: the table has {rows:,} rows, and None sends them all."
            )
    if notes and not sizes:
        raise ArgumentError(f"No chunk_size is smaller than the table's {rows:,} rows; pass smaller ones, or None.")
    return sizes, notes
