"""The client of 2023: ``python -m ruo.compare.paper.client testset.csv http://localhost:8000/test``.

A baseline to measure against, faithful also where it is slow or wrong, so nothing here is to be mended: every request
is formed, and held in memory, before the first is sent; the rows go as JSON within JSON, each request over a new
connection, ten at a time; a request that fails vanishes without a word, and the exit status is 0 all the same.

Added for measuring: the clocks, which leave imports out, the JSON line on stdout at the end, and ``--answers``. gevent
replaces Python's sockets when grequests is imported, so this is for a process of its own.
"""

import grequests  # isort: skip  first, since it replaces the sockets that the others would import

import argparse
import json
import logging
import sys
import time
from typing import Any

import numpy as np
import pandas as pd

from ruo.machine import peak_rss_mb

log = logging.getLogger("ruo.compare.paper.client")


def form_requests(path: str, url: str, chunk_size: int) -> list[Any]:
    """One request for each `chunk_size` rows, or one with all rows if that is 0; not yet sent."""
    requests = []
    # never without chunksize: pandas 3 then reads a large file with threads, which hang on gevent's queues
    for number, chunk in enumerate(pd.read_csv(path, chunksize=chunk_size or sys.maxsize)):
        log.info("Forming request for chunk %d...", number)
        features = chunk.drop(columns=[name for name in chunk.columns if "Label_" in name])
        requests.append(grequests.post(url, json=features.to_json(orient="values")))
    return requests


def send_requests(requests: list[Any]) -> list[Any]:
    """The responses in the order they came; what failed is not among them."""
    responses = []
    for response in grequests.imap(requests, size=10):
        log.info("Response: %d, %d bytes", response.status_code, len(response.content))
        responses.append(response)
    return responses


def main() -> None:
    """Score the CSV and print what was measured."""
    parser = argparse.ArgumentParser(description="Score a CSV as the system of 2023 did.")
    parser.add_argument("csv")
    parser.add_argument("url", help="with its path: http://localhost:8000/test")
    parser.add_argument("--chunk-size", type=int, default=10_000, help="rows per request; 0: all rows in one request")
    parser.add_argument("--answers", help="write the predictions here, as .npy, after the clocks have stopped")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO)

    began = time.perf_counter()
    requests = form_requests(arguments.csv, arguments.url, arguments.chunk_size)
    formed = time.perf_counter()
    responses = send_requests(requests)
    ended = time.perf_counter()

    measured = {
        "forming_s": formed - began,
        "sending_s": ended - formed,
        "total_s": ended - began,
        "requests": len(requests),
        "responses": len(responses),
        "ok_responses": sum(response.ok for response in responses),
        "peak_rss_mb": peak_rss_mb(),
    }
    if arguments.answers:  # in the order of the requests; the rows of a request that failed are left out
        answered = [request.response for request in requests if request.response is not None and request.response.ok]
        answers = [np.array(json.loads(response.text), np.float32) for response in answered]
        np.save(arguments.answers, np.concatenate(answers) if answers else np.empty((0, 0), np.float32))
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
