"""Other inference servers, each in its own environment, to measure beside ruo, with the model that ruo compiles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ruo.model.loading import load_model
from ruo.wire.messages import Array


def load(path: str) -> Callable[[Array], Array]:
    """A model as a function from rows to predictions, called as by ruo's server."""
    model = load_model(Path(path), trusted=True)
    shape = [-1, *model.inputs[0].shape[1:]]

    def score(rows: Array) -> Array:
        rows = rows.reshape(shape)
        size = model.rows_per_call([rows])
        return np.concatenate([model.run([rows[start : start + size]])[0] for start in range(0, len(rows), size)])

    return score
