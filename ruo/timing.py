"""A function timed several times; every run is kept, so that the spread can be seen."""

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any

from ruo.arguments import typed
from ruo.errors import ArgumentError, MissingPackageError, needs

_UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))


@dataclass(frozen=True, repr=False)
class Runs:
    """The time of each run: `samples` in seconds, in order; the `warmups` before them do not count."""

    samples: tuple[float, ...]
    warmups: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        """The arithmetic mean."""
        return statistics.fmean(self.samples)

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.samples)

    @property
    def std(self) -> float | None:
        """The sample standard deviation (n - 1); None for one run."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t; None for one run. Needs SciPy."""
        if len(self.samples) < 2:
            return None
        with needs("notebooks"):
            from ruo.stats import mean_interval  # scoring and serving need no SciPy
        return mean_interval(self.samples)[1:3]

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        unit, number = self._unit()
        mean = f"{number(self.mean)} {unit}"
        if self.std is None:
            return f"{mean} (one run)"
        about = f"mean of {len(self)}"
        with contextlib.suppress(MissingPackageError):  # a repr must not fail; .interval says what is missing
            about += f", 95 % interval {' to '.join(map(number, self.interval or ()))}"
        return f"{mean} ± {number(self.std)} ({about})"

    def _repr_html_(self) -> str:
        unit, number = self._unit()
        rows = [(f"warm-up {place}", seconds) for place, seconds in enumerate(self.warmups, 1)]
        rows += [(f"run {place}", seconds) for place, seconds in enumerate(self.samples, 1)]
        cells = "".join(f"<tr><td>{name}</td><td>{number(seconds)} {unit}</td></tr>" for name, seconds in rows)
        return f"<table><caption>{self!r}</caption>{cells}</table>"

    def _unit(self) -> tuple[str, Callable[[float], str]]:
        """The unit that suits the mean, and what writes seconds in it: the mean gets three significant digits."""
        unit, factor = next(((unit, factor) for unit, factor in _UNITS if self.mean * factor >= 0.1), _UNITS[-1])
        digits = math.floor(math.log10(self.mean * factor)) if self.mean > 0 else 0
        return unit, lambda seconds: f"{seconds * factor:.{max(0, 2 - digits)}f}"


@typed
def time_runs(function: Callable[[], Any], runs: int = 5, warmup: int = 1) -> Runs:
    """Call a function `warmup` + `runs` times and keep how long each call took.

    Parameters
    ----------
    function : callable
        Called without arguments; its result is dropped, and an exception ends the runs.
    runs, warmup : int
        The number of calls that count, and of calls before them that do not.

    Returns
    -------
    Runs
        Such as ``0.623 s ± 0.011 (mean of 5, 95 % interval 0.609 to 0.637)``.

    Raises
    ------
    ArgumentError
        `runs` is less than 1, `warmup` is negative, or `function` returns a coroutine or a generator.

    Examples
    --------
    >>> time_runs(lambda: score_csv("testset.csv", "http://localhost:8000"), runs=5).median
    """
    if runs < 1:
        raise ArgumentError(f"runs={runs} must be at least 1.")
    if warmup < 0:
        raise ArgumentError(f"warmup={warmup} must be 0 or more.")
    seconds = []
    for _ in range(warmup + runs):
        started = time.perf_counter_ns()
        result = function()
        seconds.append((time.perf_counter_ns() - started) / 1e9)
        if isinstance(result, Coroutine | Generator):
            result.close()
            raise ArgumentError(f"The function only makes a {type(result).__name__}; pass one that runs it to its end.")
        del result  # kept until here, so that freeing a large result is not timed
    return Runs(tuple(seconds[warmup:]), tuple(seconds[:warmup]))
