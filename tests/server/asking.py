"""What a client sends and reads, by hand or without a pause, and what its tests wait for."""

import gzip
import json
import threading
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import zstandard
from prometheus_client.parser import text_string_to_metric_families

from ruo.wire import WIRES, InferRequest

INFER = "/v2/models/model/infer"
RAW = {"Inference-Header-Content-Length": "0"}
PACK = {
    "gzip": partial(gzip.compress, compresslevel=1),
    "deflate": partial(zlib.compress, level=1),
    "zstd": zstandard.compress,
}
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


def ask(url, data=None, headers=(), timeout=60):
    """One request on a connection of its own: status, headers, body, and the seconds that it took."""
    began = time.monotonic()
    question = urllib.request.Request(url, data, dict(headers))
    try:
        with urllib.request.urlopen(question, timeout=timeout) as answer:
            status, given, body = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            status, given, body = error.code, error.headers, error.read()
    seconds = time.monotonic() - began
    return SimpleNamespace(status=status, headers=given, body=body, json=lambda: json.loads(body), seconds=seconds)


def message(wire, **tensors):
    """A request's body in one piece, and its headers, on a wire: ``message("v2", x=array)``."""
    encoded = WIRES[wire].encode_request(InferRequest(tensors))
    return b"".join(bytes(buffer) for buffer in encoded.buffers), encoded.headers


def head(length, extra=""):
    """The head of a request whose body of that length is rows and nothing else."""
    named = f"Host: a\r\nInference-Header-Content-Length: 0\r\nContent-Length: {length}\r\n{extra}\r\n"
    return f"POST {INFER} HTTP/1.1\r\n{named}".encode()


def read_answer(stream):
    """The status and the body of the next answer on a connection."""
    status, length = int(stream.readline().split()[1]), 0
    while (line := stream.readline()) != b"\r\n":
        name, value = line.decode().split(":", 1)
        length = int(value) if name.lower() == "content-length" else length
    return status, stream.read(length)


def predictions(body, rows=100):
    """What a binary answer of the model "mlp" ends with, (rows, 3)."""
    return np.frombuffer(body[-rows * 12 :], "f4").reshape(-1, 3)


def samples(text):
    """The values of Prometheus' text by name and labels."""
    families = text_string_to_metric_families(text)
    return {(each.name, *sorted(each.labels.values())): each.value for family in families for each in family.samples}


def total(text, name):
    """The sum of the samples of that name in Prometheus' text."""
    return sum(value for (each, *_), value in samples(text).items() if each == name)


def wait_for(condition, seconds=60):
    """Return what the condition says as soon as that is true."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)
    return found


@contextmanager
def clients_without_a_pause(count, ask_once):
    """Clients that ask again and again until the block ends; gives the list of their answers."""
    stop, answers = threading.Event(), []

    def work():
        while not stop.is_set():
            answers.append(ask_once())

    with ThreadPoolExecutor(count) as pool:
        clients = [pool.submit(work) for _ in range(count)]
        try:
            yield answers
        finally:
            stop.set()
        for client in clients:
            client.result()
