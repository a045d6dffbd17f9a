"""The system of 2023, ruo, and no network at all, side by side.

Every job runs in a new client process. Its clock starts before the reading, stops at the last prediction, and leaves
imports out. All servers run throughout, warm; those that are not measured are idle. Every prediction is compared with
that of the model in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ruo.compare.results import SystemsCompared, read_systems
from ruo.compare.systems import BOUND, PAPER, SYSTEMS, Systems
from ruo.experiment.carry_out import Plan, all_combinations, carry_out
from ruo.provenance import Provenance, fingerprint, machine

__all__ = ["ALL_SIZES", "compare_systems", "plan_systems"]

ALL_SIZES = (1_000, 5_000, 10_000, 50_000, 100_000, None)


def plan_systems(
    sizes: Sequence[int | None], runs: int, seed: int = 0, *, paper_once: bool = False, systems: Sequence[str] = SYSTEMS
) -> Plan:
    """Blocks with every system once at each size, and the bound once; `paper_once`: the paper's in only one of them."""
    sent = [name for name in systems if name != BOUND]
    combinations = [{"system": BOUND, "chunk_size": None}, *all_combinations({"system": sent, "chunk_size": sizes})]
    return Plan(combinations, runs, warmup=0, seed=seed, once={"system": PAPER} if paper_once else None)


def compare_systems(
    systems: Systems,
    sizes: Sequence[int | None],
    runs: int,
    results_dir: Path,
    *,
    seed: int = 0,
    paper_once: bool = False,
    patience_s: float = 10.0,
    log: Callable[[str], object] | None = None,
) -> SystemsCompared:
    """Run every system at each size (rows per request; None: all) in `runs` randomised blocks, as `carry_out` does.

    Raises ScoringError where the model cannot score the test set in one process.
    """
    plan = plan_systems(sizes, runs, seed, paper_once=paper_once, systems=(*SYSTEMS, *systems.peers))
    files = {"data": systems.testset, "model": systems.model}
    facts = {what: {"name": path.name, "sha256": fingerprint(path)} for what, path in files.items()}
    about = {"workers": systems.workers, "peers": systems.peers}
    provenance = Provenance({"plan": plan.facts(), **facts, "systems": about, "machine": machine()})
    carry_out(plan, systems, provenance, results_dir, patience_s=patience_s, progress=False, log=log)
    return read_systems(results_dir)
