"""One job of another server's own client, run by its own Python, so it imports nothing from ruo.

Arguments: the function below that makes the client, the server's address, the CSV, rows per request, and a file for the
predictions. These clients only send requests, so the rest is here: the table, labels included, is read in batches with
all CPUs, and four requests are in flight. Prints the seconds from before the reading until all predictions and labels
are in arrays.
"""

import asyncio
import importlib
import json
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl


def kserve_grpc(address):
    """KServe's gRPC stub, with binary tensors; its InferenceGRPCClient calls the same stub, and takes longer."""
    messages, infer = _grpc_stub(address, "kserve.protocol.grpc.grpc_predict_v2")

    def ask(rows):
        tensor = messages.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=rows.shape)
        tensors = {"inputs": [tensor], "raw_input_contents": [rows.tobytes()]}
        answer = infer(messages.ModelInferRequest(model_name="model", **tensors)).raw_output_contents[0]
        return np.frombuffer(answer, np.float32).reshape(len(rows), -1)

    return ask


def mlserver(address):
    """MLServer's gRPC stub, with the tensor as one element of BYTES."""
    messages, infer = _grpc_stub(address, "mlserver.grpc.dataplane")

    def ask(rows):
        tensor = messages.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(rows.tobytes())
        answer = infer(messages.ModelInferRequest(model_name="model", inputs=[tensor])).outputs[0]
        return np.frombuffer(answer.contents.bytes_contents[0], np.float32).reshape(len(rows), -1)

    return ask


def _grpc_stub(address, module):
    """The messages of a server's gRPC protocol, and the method that scores."""
    import grpc

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    messages, services = (importlib.import_module(module + end) for end in ("_pb2", "_pb2_grpc"))
    return messages, services.GRPCInferenceServiceStub(grpc.insecure_channel(address, unlimited)).ModelInfer


def kserve_rest(address):
    """KServe's REST client, with binary tensors both ways."""
    from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

    client, loop = InferenceRESTClient(RESTConfig(protocol="v2")), asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def infer(rows):
        tensor = InferInput("x", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows)
        request = InferRequest("model", [tensor], parameters={"binary_data_output": True})
        return (await client.infer(f"http://{address}", request, model_name="model")).outputs[0].as_numpy()

    return lambda rows: asyncio.run_coroutine_threadsafe(infer(rows), loop).result()


def pytriton(address):
    """PyTriton's client with a pool of threads, over HTTP with binary tensors."""
    from pytriton.client import FuturesModelClient

    client = FuturesModelClient(f"http://{address}", "model", max_workers=4)
    return lambda rows: client.infer_batch(rows).result()["y"]


def score(ask, testset, rows_per_request):
    """The predictions of all rows, in order."""
    columns = pl.read_csv(testset, n_rows=1).columns
    features = [name for name in columns if not name.startswith("Label_")]
    one_hot = [name for name in columns if name.startswith("Label_")]
    # labels that are 0 and 1 are read as whole numbers, which is faster
    table = pl.scan_csv(testset, schema_overrides=dict.fromkeys(features, pl.Float32))
    labels, answers = [], []
    with ThreadPoolExecutor(4) as pool:
        for batch in table.collect_batches(chunk_size=rows_per_request, maintain_order=True):
            answers.append(pool.submit(lambda batch: ask(batch.select(features).to_numpy(order="c")), batch))
            if one_hot:
                labels.append(batch.select(one_hot).to_numpy().argmax(axis=1))
        np.concatenate(labels or [[]])
        return np.concatenate([answer.result() for answer in answers])


if __name__ == "__main__":
    kind, address, testset, rows_per_request, answers = sys.argv[1:]
    clients = {make.__name__: make for make in (kserve_grpc, kserve_rest, mlserver, pytriton)}
    ask = clients[kind](address)
    began = time.perf_counter()
    predictions = score(ask, testset, int(rows_per_request))
    total_s = time.perf_counter() - began
    np.save(answers, predictions)
    print(json.dumps({"total_s": total_s, "rows": len(predictions)}), flush=True)
    os._exit(0)  # PyTriton's threads would wait for one another
