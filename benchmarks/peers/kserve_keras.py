"""A KServe server, run by its own Python: the model behind REST, in as many processes as asked for, and behind gRPC.

Arguments: the model, the number of processes, and the ports for HTTP and gRPC. KServe listens on all interfaces, and
takes 8 MB in a gRPC message at most.
"""

import asyncio
import sys
import threading
from functools import cached_property

from kserve import InferOutput, InferResponse, Model, ModelServer, logging

from benchmarks.peers import load


class Keras(Model):
    """Loads its model while the process starts: one that is silent for five seconds is killed."""

    def __init__(self, path: str):
        super().__init__("model")
        self._path, self.ready = path, True
        threading.Thread(target=lambda: self.score).start()

    def __reduce__(self):  # to another process goes where the model is
        return Keras, (self._path,)

    @cached_property
    def score(self):
        return load(self._path)

    async def predict(self, payload, headers=None, response_headers=None):
        answers = await asyncio.to_thread(lambda: self.score(payload.inputs[0].as_numpy()))
        output = InferOutput("y", list(answers.shape), "FP32")
        output.set_data_from_numpy(answers, binary_data=True)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    path, workers, http, grpc = sys.argv[1], *map(int, sys.argv[2:])
    server = ModelServer(http_port=http, grpc_port=grpc, workers=workers, enable_latency_logging=False)
    logging.logger.setLevel("WARNING")  # a line for each request otherwise
    server.start([Keras(path)])
