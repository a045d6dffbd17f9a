"""What the application answers for models, on every wire; run as a program, for another backend of Keras."""

import pickle
import sys

from ruo.wire import WIRES
from server.application import create_app
from tests.server.asking import message


def answers(path, rows):
    """The outputs for `rows`, arrays by input: by wire, and then by name. A SavedModel may call its inputs otherwise."""
    settings = {"MODEL_PATH": path, "MODEL_POLL_SECONDS": 0, "RUO_TRUST_MODEL": "1"}
    app = create_app({**settings, "MODEL_MODULES": "tests.server.models.own"})
    serving = app.extensions["ruo"]
    inputs = [spec.name for spec in serving.get(wait_s=60).model.inputs]
    tensors = rows if set(rows) == set(inputs) else dict(zip(inputs, rows.values(), strict=True))
    client, found = app.test_client(), {}
    for name in ("v2", "v2-json", "v1"):
        wire, (data, headers) = WIRES[name], message(name, **tensors)
        answer = client.post(wire.path.format(model="model"), data=data, headers=headers)
        assert answer.status_code == 200, answer.text
        found[name] = wire.decode_response(answer.headers, answer.data).outputs
    return found


if __name__ == "__main__":
    found = {}
    for name, path, rows in pickle.load(sys.stdin.buffer):
        try:
            found[name] = answers(path, rows)
        except Exception as error:
            found[name] = error if isinstance(error, AssertionError) else RuntimeError(str(error))
    pickle.dump(found, sys.stdout.buffer)
