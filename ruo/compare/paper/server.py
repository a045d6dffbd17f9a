"""The server of 2023: ``MODEL_PATH=... gunicorn --workers 4 --bind 127.0.0.1:8000 --log-level debug ruo.compare.paper.server:app``.

A baseline to measure against, faithful also where it is slow or wrong, so nothing here is to be mended: the first
request to each worker pays for loading the model; the body is JSON within JSON, so it is decoded twice, to float64;
`predict` runs with its defaults, 32 rows at a time; and Gunicorn's own timeout of 30 s kills a worker that is still
busy with a large request.
"""

import json
import logging
import os
from typing import Any

import numpy as np
import tensorflow as tf
from flask import Flask, request

app = Flask(__name__)
model: Any = None

if __name__ != "__main__":  # imported by Gunicorn, whose log becomes this application's
    gunicorn_logger = logging.getLogger("gunicorn.error")
    app.logger.handlers = gunicorn_logger.handlers
    app.logger.setLevel(gunicorn_logger.level)


def get_model() -> Any:
    """The model at MODEL_PATH, loaded when it is first needed and kept for good."""
    global model  # noqa: PLW0603  as it was
    if model is None:
        path = os.environ.get("MODEL_PATH", "/app/model")
        app.logger.info("Loading model from %s", path)
        model = tf.keras.models.load_model(path)
        app.logger.info("Model loaded")
    return model


@app.route("/test", methods=["POST"])
def test() -> str:
    """Predictions of the rows in the body, as the text of a Python list."""
    data = np.array(json.loads(request.get_json()), dtype=np.float64)
    app.logger.debug("Received %d rows", len(data))
    result = get_model().predict(data)
    return str(result.tolist())
