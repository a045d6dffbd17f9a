"""Whether predictions equal a reference."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["TOLERANCE", "largest_difference"]

# Requests of other sizes are other matrix products, which round differently in the last digits of a float32.
TOLERANCE = 1e-5


def largest_difference(answers: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """The largest absolute difference; infinity where the shapes differ, NaN where only one of two values is NaN."""
    if answers.shape != reference.shape:
        return float("inf")
    difference = np.abs(reference - answers)
    difference[np.isnan(reference) & np.isnan(answers)] = 0  # the model answered NaN both times
    return float(difference.max(initial=0))
