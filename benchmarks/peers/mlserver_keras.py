"""A runtime for MLServer, which imports this file: a Keras model, compiled by TensorFlow.

A tensor travels as one element of BYTES: as FP32 each number would become an object of Python, which takes three times
as long.
"""

import keras
import numpy as np
import tensorflow as tf
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Keras(MLModel):
    async def load(self) -> bool:
        model = keras.saving.load_model(self.settings.parameters.uri, compile=False)
        signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32)]
        self._shape = [-1, *model.input_shape[1:]]
        self._call = tf.function(lambda rows: model(rows, training=False), input_signature=signature)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = np.frombuffer(payload.inputs[0].data[0], np.float32).reshape(self._shape)
        answers = self._call(tf.constant(rows)).numpy()
        output = ResponseOutput(name="y", shape=[1], datatype="BYTES", data=[answers.tobytes()])
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=[output])
