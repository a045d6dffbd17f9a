"""Models that Keras 2 wrote, in an environment of its own."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from ruo.errors import ModelError
from ruo.model.loading import load_model
from ruo.wire import ONLY
from tests.environments import make_environment

pytestmark = [pytest.mark.soak, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models of Keras 2, beside rows and what it says of them."""
    python = make_environment("keras2", "tf-keras==2.21.0", "tensorflow-cpu==2.21.0")
    made = tmp_path_factory.mktemp("keras2")
    subprocess.run([python / "bin" / "python", Path(__file__).with_name("keras2_models.py"), made], check=True)
    return made


def test_what_keras_2_saved_predicts_as_it_did(folder):
    """Every layer, also those with arguments that Keras 3 does not know, and a SavedModel of what differs."""
    paths = [*folder.glob("*.h5"), folder / "hard-sigmoid"]
    assert len(paths) > 20
    for path in paths:
        if path.name == "hard-sigmoid.h5":
            continue
        stored = np.load(folder / f"{path.stem}.npz")
        model = load_model(path, trusted=True)
        (found,) = model.run(model.fit({ONLY: stored["rows"]}))
        np.testing.assert_allclose(found, stored["expected"], rtol=1e-5, atol=1e-5, err_msg=path.name)


@pytest.mark.parametrize(("name", "says"), [("hard-sigmoid.h5", "hard_sigmoid"), ("old.keras", "tf_keras")])
def test_what_keras_3_would_read_otherwise_is_refused(folder, name, says):
    """With the way to convert it."""
    with pytest.raises(ModelError, match=f"{says}.*export"):
        load_model(folder / name, trusted=True)
