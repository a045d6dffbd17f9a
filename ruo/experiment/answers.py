"""Whether predictions are the same as the reference."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["TOLERANCE", "answers_equal", "largest_difference"]

# Requests of other sizes are other matrix products, which round differently in the last digits of a float32.
TOLERANCE = 1e-5

Array = np.ndarray[Any, Any]


def largest_difference(answers: Array, reference: Array) -> float:
    """The largest absolute difference of any number; infinity for another shape, NaN where only one of two is NaN."""
    if answers.shape != reference.shape:
        return float("inf")
    difference = np.abs(reference - answers)
    difference[np.isnan(reference) & np.isnan(answers)] = 0  # the model's answer, both times
    return float(difference.max(initial=0))


def answers_equal(answers: Array, reference: Array) -> dict[str, Any]:
    """`max_abs_difference` (None where it is no finite number) and `answers_equal`, within the tolerance, for JSON."""
    largest = largest_difference(answers, reference)
    finite = largest if np.isfinite(largest) else None
    return {"max_abs_difference": finite, "answers_equal": bool(largest <= TOLERANCE)}
