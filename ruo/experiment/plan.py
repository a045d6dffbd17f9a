"""The plan of an experiment: which runs, and in which order.

Every block holds every combination once, in its own random order, so that a slow minute affects all settings alike:
Abedi and Brecht, "Conducting Repeatable Experiments in Highly Variable Cloud Computing Environments", ICPE'17.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruo.errors import ArgumentError

__all__ = ["Plan", "Trial", "all_combinations"]

Levels = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One planned run, with the level of each factor. Measured blocks count from 1; warm-up blocks end at 0."""

    run: int  # in the order of time, from 1
    block: int
    warmup: bool
    position: int  # in the block, from 1
    levels: dict[str, Any]


def all_combinations(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the factors' levels."""
    for name, levels in factors.items():
        if not levels:
            raise ArgumentError(f"{name} has no level to measure; pass one or more.")
        if any(level in levels[:index] for index, level in enumerate(levels)):
            raise ArgumentError(f"{name}={list(levels)} has a level twice; pass each once.")
    return [dict(zip(factors, levels, strict=True)) for levels in itertools.product(*factors.values())]


@dataclass(frozen=True)
class Plan:
    """Blocks of runs, each with every combination of levels once; the order depends on the seed alone."""

    combinations: Sequence[Levels]
    runs: int  # measured blocks
    warmup: int = 1  # blocks before them
    seed: int = 0
    # a factor that takes long to change: within a block its levels come one after the other (a split-plot design)
    slow: str | None = None
    # combinations with these levels come in one block only, drawn for each of them
    once: Levels | None = None

    def __post_init__(self) -> None:
        if self.runs < 1:
            raise ArgumentError(f"runs={self.runs} must be at least 1.")
        if self.warmup < 0:
            raise ArgumentError(f"warmup={self.warmup} must be 0 or more.")

    def trials(self) -> list[Trial]:
        """All runs in the order of time."""
        trials: list[Trial] = []
        only_block = self._only_blocks()
        for block in range(1 - self.warmup, self.runs + 1):
            rng = random.Random(f"{self.seed}/{block}")  # noqa: S311  its random() is the same in every Python
            selected = [
                dict(levels)
                for number, levels in enumerate(self.combinations)
                if only_block.get(number, block) == block
            ]
            shuffled = sorted(selected, key=lambda _: rng.random())
            if slow := self.slow:
                place = {level: rng.random() for level in dict.fromkeys(levels[slow] for levels in selected)}
                shuffled.sort(key=lambda levels: place[levels[slow]])
            for position, levels in enumerate(shuffled, 1):
                trials.append(Trial(len(trials) + 1, block, block < 1, position, levels))
        return trials

    def facts(self) -> dict[str, Any]:
        """The plan in the types of JSON: the levels of each factor, the number of trials, and how they are ordered."""
        factors: dict[str, list[Any]] = {}
        for levels in self.combinations:
            for name, level in levels.items():
                known = factors.setdefault(name, [])
                known += [] if level in known else [level]
        order = {"runs": self.runs, "warmup": self.warmup, "seed": self.seed, "slow": self.slow}
        once = None if self.once is None else dict(self.once)
        return {"factors": factors, "trials": len(self.trials()), **order, "once": once}

    def _only_blocks(self) -> dict[int, int]:
        """The block of each combination that comes once, by the combination's number."""
        rng = random.Random(f"{self.seed}/once")  # noqa: S311  as above
        once = (self.once or {}).items()
        numbers = [number for number, levels in enumerate(self.combinations) if once and once <= levels.items()]
        return {number: 1 + int(rng.random() * self.runs) for number in numbers}
