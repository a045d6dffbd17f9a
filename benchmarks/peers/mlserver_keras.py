"""A runtime for MLServer, which imports this file: the model, called as by ruo's server.

A tensor travels as one element of BYTES: as FP32 each number would become an object of Python, which takes three times
as long.
"""

import numpy as np
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from benchmarks.peers import load


class Keras(MLModel):
    async def load(self) -> bool:
        self._score = load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        answers = self._score(np.frombuffer(payload.inputs[0].data[0], np.float32))
        output = ResponseOutput(name="y", shape=[1], datatype="BYTES", data=[answers.tobytes()])
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])
