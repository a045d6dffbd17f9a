"""A PyTriton server, run by its own Python: the model, called as by ruo's server.

Arguments: the model, how many batches it computes at a time, and the ports for HTTP, gRPC and metrics.
"""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from benchmarks.peers import load

path, workers, http, grpc, metrics = sys.argv[1], *map(int, sys.argv[2:])
score = load(path)


@batch
def infer(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": score(x)}


config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
with Triton(config=config) as triton:
    x, y = (Tensor(name=name, dtype=np.float32, shape=(-1,)) for name in "xy")
    triton.bind("model", [infer] * workers, [x], [y], config=ModelConfig(max_batch_size=1_000_000))
    triton.serve()
