"""The kinds of models that people have: what is served is what `predict` says, on every wire and with both backends."""

import os
import pickle
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from tests.server.models.answers import answers
from tests.server.models.kinds import FORMS, KINDS, NAMES, TENSORFLOW_ONLY, make
from tests.server.serving import HOME

# of Keras and TensorFlow, about what people's models are
pytestmark = [pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
LOOSE = {"bfloat16": 1e-2, "half": 2e-3, "mixed-bfloat16": 2e-2, "quantized": 2e-2}


@pytest.fixture(scope="module")
def made(keras, tmp_path_factory):
    """A kind, made when it is asked for: its path, rows for it, and what `predict` says of them."""
    folder = tmp_path_factory.mktemp("kinds")

    @cache
    def made(name):
        model, path, rows = make(keras, name, folder / name)
        model.run_eagerly = True  # which takes less time than to compile so many
        given = keras.tree.pack_sequence_as(getattr(model, "input", model.inputs[0]), list(rows.values()))
        given = keras.tree.map_structure(keras.ops.convert_to_tensor, given)
        return path, rows, [np.asarray(part) for part in keras.tree.flatten(model.predict(given, verbose=0))]

    return made


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.soak) for name in FORMS)])
def test_tensorflow_answers_as_predict_does(made, name):
    """Binary and JSON, V2 and V1; the same kinds in other forms on disk."""
    path, rows, expected = made(name)
    compare(answers(path, rows), expected, LOOSE.get(name, 1e-5))


BOTH = [name for name in NAMES if name not in TENSORFLOW_ONLY]


@pytest.mark.parametrize("names", [("softmax", "conv2d", "merged"), pytest.param(BOTH, marks=pytest.mark.soak)])
def test_openvino_answers_as_predict_does(made, names):
    """The same kinds, as far as OpenVINO can compute them, in a process of its own."""
    command = [sys.executable, "-m", "tests.server.models.answers"]
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    asked = pickle.dumps([(name, *made(name)[:2]) for name in names])
    done = subprocess.run(command, input=asked, env=environment, cwd=HOME, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    for name, found in pickle.loads(done.stdout).items():
        if isinstance(found, Exception):
            raise found
        compare(found, made(name)[2], LOOSE.get(name, 1e-5), name)


def compare(found, expected, tolerance, name=""):
    for wire in ("v2", "v2-json", "v1"):
        for answer, values in zip(found[wire].values(), expected, strict=True):
            said = f"{name} on {wire}"
            np.testing.assert_allclose(answer, values.astype("f4"), rtol=tolerance, atol=tolerance, err_msg=said)
