"""One job of another server's own client, run by its own Python, so it imports nothing from ruo.

Arguments: mlserver or pytriton, the server's address, the CSV, rows per request, and a file for the predictions. These
clients only send requests, so the rest is here: the table, labels included, is read in batches with all CPUs, and four
requests are in flight. Prints the seconds from before the reading until all predictions and labels are in arrays.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl


def mlserver(address):
    """MLServer's gRPC stub, with the tensor as one element of BYTES."""
    import grpc
    from mlserver.grpc.dataplane_pb2 import InferTensorContents, ModelInferRequest
    from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    stub = GRPCInferenceServiceStub(grpc.insecure_channel(address, unlimited))

    def ask(rows):
        contents = InferTensorContents(bytes_contents=[rows.tobytes()])
        tensor = ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1], contents=contents)
        answer = stub.ModelInfer(ModelInferRequest(model_name="model", inputs=[tensor]))
        return np.frombuffer(answer.outputs[0].contents.bytes_contents[0], np.float32).reshape(len(rows), -1)

    return ask


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
    ask = {"mlserver": mlserver, "pytriton": pytriton}[kind](address)
    began = time.perf_counter()
    predictions = score(ask, testset, int(rows_per_request))
    total_s = time.perf_counter() - began
    np.save(answers, predictions)
    print(json.dumps({"total_s": total_s, "rows": len(predictions)}), flush=True)
    if kind == "pytriton":
        import os

        os._exit(0)  # its client's threads would wait for one another
