"""Models compiled by OpenVINO, in a process of its own since Keras has one backend a process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from ruo.model.loading import load_model

PROGRAM = """
import json, pathlib, sys
import numpy as np
from ruo.model.loading import load_model

paths, rows, odds, precision = json.load(sys.stdin)
found = {}
for name, path in paths.items():
    model = load_model(pathlib.Path(path), precision=precision)
    given = {spec.name: np.resize(rows, (len(rows), *spec.shape[1:])).astype(spec.dtype) for spec in model.inputs}
    for odd, row in zip(odds, (1, 2)):
        given[model.inputs[0].name][row].flat[3] = odd
    found[name] = [model.platform, [values.tolist() for values in model.run(model.fit(given))]]
json.dump(found, sys.stdout)
"""


@pytest.mark.parametrize(
    ("names", "odds", "precision", "tolerance"),
    [
        (("mlp", "two", "image"), [], "f32", 1e-6),
        (("mlp", "two", "image"), [], "bf16", 0.05),
        (("mlp", "image"), [np.nan, np.inf], "f32", 1e-6),  # OpenVINO by itself answers such rows with numbers
    ],
)
def test_openvino_predicts_as_tensorflow_does(models, rows, names, odds, precision, tolerance):
    """Several inputs and outputs, an image, a table: float32 to the last digits, bfloat16 where it is asked for."""
    paths = {name: str(models[name]) for name in names}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps([paths, rows.tolist(), odds, precision]),
        env={**os.environ, "KERAS_BACKEND": "openvino"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in paths:
        model = load_model(models[name])
        given = {spec.name: np.resize(rows, (len(rows), *spec.shape[1:])).astype(spec.dtype) for spec in model.inputs}
        for odd, row in zip(odds, (1, 2), strict=False):
            given[model.inputs[0].name][row].flat[3] = odd
        platform, outputs = found[name]
        assert platform == "openvino_keras"
        for answer, values in zip(outputs, model.run(model.fit(given)), strict=True):
            np.testing.assert_allclose(answer, values, atol=tolerance)
