"""Models compiled by OpenVINO, in a process of its own since Keras has one backend a process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ruo.model.loading import load_model
from tests.server.serving import HOME

PROGRAM = """
import json, sys
from tests.server.test_backends import outputs_of
print(json.dumps(outputs_of(*json.load(sys.stdin))))
"""


def outputs_of(paths, rows, odds, precision):
    """The platform and the outputs of every model, for rows of which two hold odd values."""
    found = {}
    for name, path in paths.items():
        model = load_model(Path(path), precision=precision)
        given = {spec.name: np.resize(rows, (len(rows), *spec.shape[1:])).astype(spec.dtype) for spec in model.inputs}
        for row, odd in enumerate(odds, 1):
            given[model.inputs[0].name][row].flat[3] = odd
        found[name] = model.platform, [values.tolist() for values in model.run(model.fit(given))]
    return found


@pytest.mark.parametrize(
    ("names", "odds", "precision", "tolerance"),
    [
        (("two",), [], "f32", 1e-6),
        (("mlp", "two", "image"), [], "bf16", 0.05),
        (("mlp", "image"), [np.nan, np.inf], "f32", 1e-6),  # OpenVINO by itself answers such rows with numbers
    ],
)
def test_openvino_predicts_as_tensorflow_does(models, rows, names, odds, precision, tolerance):
    """Several inputs and outputs, an image, a table: float32 to the last digits, bfloat16 where it is asked for."""
    question = {name: str(models[name]) for name in names}, rows.tolist(), odds, precision
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(question),
        env={**os.environ, "KERAS_BACKEND": "openvino", "PYTHONPATH": str(HOME)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (_, wanted) in outputs_of(*question).items():
        platform, outputs = found[name]
        assert platform == "openvino_keras"
        for answer, values in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(answer, values, atol=tolerance)
