"""Real Keras models, made once, the application around them, and a real server."""

import numpy as np
import pytest

from server.application import create_app
from tests.models import FEATURES, keras, models
from tests.server.serving import serve

__all__ = ["keras", "models"]  # fixtures


@pytest.fixture(scope="session")
def rows():
    """A table of features, (100, 8)."""
    return np.random.default_rng(7).normal(size=(100, FEATURES)).astype("f4")


@pytest.fixture(scope="session")
def expected(models, keras, rows):
    """What the models "mlp" and "other" predict for `rows` in this process."""
    names = ("mlp", "other")
    return {name: keras.saving.load_model(models[name]).predict_on_batch(rows) for name in names}


@pytest.fixture(scope="session")
def make_app(models):
    """Make an application around a model and give its test client, once the model is ready."""

    def make(model="mlp", **config):
        defaults = {"MODEL_PATH": models[model], "MODEL_POLL_SECONDS": 0}
        app = create_app({**defaults, **config})
        client = app.test_client()
        client.serving = app.extensions["ruo"]
        client.serving.start()
        client.serving._tried.wait(60)
        return client

    return make


@pytest.fixture(scope="session")
def client(make_app):
    """A test client of the application around the model "mlp"."""
    return make_app()


@pytest.fixture(scope="session")
def four_workers(models):
    """A real server of the model "mlp" with four workers."""
    settings = {"LOG_LEVEL": "info", "LOG_FORMAT": "json", "POD_NAME": "pod-7", "KERAS_BACKEND": "tensorflow"}
    with serve(models["mlp"], workers=4, **settings) as server:
        yield server
