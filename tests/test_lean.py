"""Keras without its trimmings: what stays away, and that it can be had afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(("backend", "needs"), [("tensorflow", []), ("openvino", ["scipy"])])
def test_keras_comes_without_what_scoring_does_not_need(backend: str, needs: list[str]) -> None:
    """Neither scikit-learn nor matplotlib is imported with it, both can be imported after it, and it scores."""
    program = """
import sys
from ruo.lean import import_keras
keras = import_keras()
import numpy as np
print(sorted({name.split('.')[0] for name in sys.modules} & {'sklearn', 'matplotlib', 'scipy', 'pandas', 'IPython'}))
import pandas, scipy, sklearn, matplotlib
print(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).predict_on_batch(np.zeros((5, 2))).shape)
"""
    environ = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split("\n")[:2] == [str(needs), "(5, 3)"], done.stderr
