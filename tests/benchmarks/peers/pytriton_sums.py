"""A PyTriton server, run by its own Python: the sum and the maximum of each row. Arguments: three ports."""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


@batch
def sums(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": np.stack([x.sum(axis=1), x.max(axis=1)], axis=1)}


http, grpc, metrics = map(int, sys.argv[1:])
config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
with Triton(config=config) as triton:
    triton.bind(
        model_name="sums",
        infer_func=sums,
        inputs=[Tensor(name="x", dtype=np.float32, shape=(3,))],
        outputs=[Tensor(name="y", dtype=np.float32, shape=(2,))],
        config=ModelConfig(max_batch_size=100_000),
    )
    triton.serve()
