"""Keras without its trimmings: what stays away, and that it can be had afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("backend", ["tensorflow", "openvino"])
def test_keras_comes_without_what_scoring_does_not_need(backend: str) -> None:
    """None of it is imported with it, all can be imported after it, and it scores; what needs scipy finds it."""
    program = """
import sys
from ruo.model.keras_import import import_keras
keras = import_keras()
import numpy as np
print(sorted({name.split('.')[0] for name in sys.modules} & {'sklearn', 'matplotlib', 'scipy', 'pandas', 'IPython'}))
import pandas, scipy, sklearn, matplotlib
print(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).predict_on_batch(np.zeros((5, 2))).shape)
print(keras.ops.stft(keras.ops.convert_to_tensor(np.zeros((2, 512), 'f4')), 256, 64, 256)[0].shape)
"""
    environ = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split("\n")[:3] == ["[]", "(5, 3)", "(2, 9, 129)"], done.stderr
