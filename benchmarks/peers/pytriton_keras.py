"""A PyTriton server, run by its own Python: a Keras model, compiled by TensorFlow.

Arguments: the model, how many batches it computes at a time, and the ports for HTTP, gRPC and metrics.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

path, workers = sys.argv[1], int(sys.argv[2])
http, grpc, metrics = map(int, sys.argv[3:])
model = keras.saving.load_model(path, compile=False)
signature = [tf.TensorSpec(model.inputs[0].shape, tf.float32)]
call = tf.function(lambda rows: model(rows, training=False), input_signature=signature)


@batch
def infer(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": call(tf.constant(x)).numpy()}


config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
with Triton(config=config) as triton:
    triton.bind(
        model_name="model",
        infer_func=[infer] * workers,
        inputs=[Tensor(name="x", dtype=np.float32, shape=model.input_shape[1:])],
        outputs=[Tensor(name="y", dtype=np.float32, shape=model.output_shape[1:])],
        config=ModelConfig(max_batch_size=1_000_000),
    )
    triton.serve()
