"""A runtime for MLServer, which imports this file: the sum and the maximum of each row."""

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Sums(MLModel):
    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype("f4")
        sums = np.stack([rows.sum(axis=1), rows.max(axis=1)], axis=1)
        outputs = [NumpyCodec.encode_output("y", sums)]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
