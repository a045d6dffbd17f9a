"""Repeated runs of a function, timed."""

import asyncio
import re
import sys

import pytest

from ruo.errors import ArgumentError, MissingPackageError
from ruo.timing import Runs, time_runs

FIVE = Runs((0.61, 0.62, 0.63, 0.61, 0.645), (1.5,))


@pytest.mark.parametrize(("runs", "warmup"), [(1, 0), (3, 2)])
def test_time_runs_calls_so_often(runs: int, warmup: int) -> None:
    """The function is called once for every run and every warm-up, and the two are kept apart; its errors come out."""
    calls: list[int] = []
    timed = time_runs(lambda: calls.append(1), runs=runs, warmup=warmup)
    assert (len(calls), len(timed.samples), len(timed.warmups), len(timed)) == (runs + warmup, runs, warmup, runs)
    with pytest.raises(ZeroDivisionError):
        time_runs(lambda: 1 / 0, runs=runs, warmup=warmup)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"runs": 0}, "runs=0 must be at least 1."),
        ({"warmup": -1}, "warmup=-1 must be 0 or more."),
        (
            {"function": lambda: asyncio.sleep(0)},
            "The function only makes a coroutine; pass one that runs it to its end.",
        ),
        ({"function": lambda: (one for one in "ab")}, "The function only makes a generator; pass one that"),
    ],
)
def test_what_cannot_be_timed(arguments: dict, sentence: str) -> None:
    """Wrong arguments are refused with a sentence that says what is right."""
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        time_runs(**{"function": lambda: None, **arguments})


def test_statistics_leave_the_warmups_out() -> None:
    """Mean, deviation and interval are those of the samples alone, by Student's t; a single run has only the first."""
    assert (FIVE.mean, FIVE.median, FIVE.std) == pytest.approx((0.623, 0.62, 0.0148324), rel=1e-5)
    half = 2.776445 * 0.0148324 / 5**0.5
    assert FIVE.interval == pytest.approx((0.623 - half, 0.623 + half), rel=1e-5)
    one = Runs((0.25,))
    assert (one.std, one.interval, repr(one)) == (None, None, "0.250 s (one run)")


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (1, "0.623 s ± 0.015 (mean of 5, 95 % interval 0.605 to 0.641)"),
        (1e-3, "0.623 ms ± 0.015 (mean of 5, 95 % interval 0.605 to 0.641)"),
        (100, "62.3 s ± 1.5 (mean of 5, 95 % interval 60.5 to 64.1)"),
        (10_000, "6230 s ± 148 (mean of 5, 95 % interval 6046 to 6414)"),
        (0, "0.00 ns ± 0.00 (mean of 5, 95 % interval 0.00 to 0.00)"),
    ],
)
def test_repr_is_one_line(factor: float, text: str) -> None:
    """The repr is one line, in the unit that suits the mean."""
    assert repr(Runs(tuple(factor * seconds for seconds in FIVE.samples))) == text


def test_html_shows_every_run() -> None:
    """A notebook shows each run, the warm-ups under their own name, and the line with the mean."""
    shown = FIVE._repr_html_()
    assert shown.count("<tr>") == 6
    assert "warm-up 1</td><td>1.500 s" in shown
    assert repr(FIVE) in shown


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SciPy runs are timed and shown, and only the interval says what to install."""
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "ruo.stats", raising=False)
    assert "mean of 5)" in repr(time_runs(lambda: None))
    with pytest.raises(MissingPackageError, match=r"^scipy is not installed; run: pip install 'ruo\[notebooks\]'$"):
        _ = FIVE.interval
