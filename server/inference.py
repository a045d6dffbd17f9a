"""The way of one request: let in, received, decoded, scored, encoded."""

from __future__ import annotations

import os
import socket
import time
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from werkzeug.datastructures import EnvironHeaders

from ruo.wire import ONLY, InferRequest, InferResponse, Wire, WireError
from ruo.wire.messages import Buffer
from ruo.wire.v2 import HEADER_LENGTH
from server.body import read_body
from server.limits import Gate
from server.metrics import Metrics, Timing
from server.model import Model, decode_raw
from server.settings import Settings
from server.versions import Served, Serving

__all__ = ["Answer", "Inference"]

_LONGEST_HEAD = 1 << 16
_JOINED_BYTES = 1 << 16


class Answer(NamedTuple):
    """Predictions as they are sent: headers, Content-Length among them, and the body's parts one after the other."""

    headers: dict[str, str]
    parts: list[bytes]


class Inference:
    """Answers requests for predictions on every wire."""

    def __init__(self, settings: Settings, serving: Serving, metrics: Metrics) -> None:
        self.serving = serving
        self._settings = settings
        self._metrics = metrics
        self._gate = Gate(settings.max_waiting, settings.max_waiting_mb * 2**20)
        self._worker = f"{settings.pod_name or socket.gethostname()}/{os.getpid()}"

    def answer(self, wire: Wire, environ: dict[str, Any], version: str | None = None, wait_s: float = 0.0) -> Answer:
        """The answer to a request (WSGI, PEP 3333), from one version of the model; raises WireError and RefusedError."""
        with self._gate.place(int(environ.get("CONTENT_LENGTH") or 0)), self._metrics.in_flight():
            deadline = time.monotonic() + self._settings.request_timeout
            return self._answer(wire, environ, self.serving.get(version, wait_s), deadline)

    def _answer(self, wire: Wire, environ: dict[str, Any], served: Served, deadline: float) -> Answer:
        model = served.model
        began = time.perf_counter()
        sent_with = cast(Mapping[str, str], EnvironHeaders(environ))
        head = _head_bytes(wire, sent_with)
        body = read_body(environ, self._settings.max_request_bytes, self._settings.body_timeout, head or 0)
        asked = _decoded(wire, model, sent_with, body)
        arrays = model.fit(asked.inputs)
        del body
        decoded = time.perf_counter()
        with self._metrics.waiting():
            outputs, waited = model.run_timed(arrays, deadline)
        computed = time.perf_counter()
        answer = InferResponse(outputs, self.serving.name, served.version, asked.id)
        headers, buffers = wire.encode_response(answer, asked)
        parts = [bytes(buffer) for buffer in buffers]  # Gunicorn takes bytes only, and makes a call of each
        if sum(map(len, parts)) < _JOINED_BYTES:
            parts = [b"".join(parts)]
        coding, parts = _compressed(parts, environ.get("HTTP_ACCEPT_ENCODING", ""))
        timing = Timing(decoded - began, waited, computed - decoded - waited, time.perf_counter() - computed)
        self._metrics.scored(served.version, len(arrays[0]), timing)
        about = {
            "Content-Length": str(sum(map(len, parts))),
            "Vary": "Accept-Encoding",
            "Server-Timing": timing.header(),
            "Ruo-Model-Version": served.version,
            "Ruo-Model-Sha256": served.sha256,
            "Ruo-Worker": self._worker,
        }
        return Answer({**headers, **coding, **about}, parts)


def _head_bytes(wire: Wire, headers: Mapping[str, str]) -> int | None:
    """How many bytes stand before binary tensors; None where there are none, or more bytes than any request needs."""
    text = headers.get(HEADER_LENGTH, "")
    is_number = wire.name == "v2" and text.isascii() and text.isdigit() and len(text) < 10
    return int(text) if is_number and int(text) < _LONGEST_HEAD else None


def _decoded(wire: Wire, model: Model, headers: Mapping[str, str], body: Buffer) -> InferRequest:
    asked = wire.decode_request(headers, body)
    if wire.name == "v2" and ONLY in asked.inputs:
        if len(model.inputs) > 1:
            raise WireError("A raw binary request fits a model with one input only.")
        asked.inputs[ONLY] = decode_raw(asked.inputs[ONLY], model.inputs[0])
    known = [spec.name for spec in model.outputs]
    for name in asked.outputs or ():
        if name not in known:
            raise WireError(f'The model has no output "{name}"; its outputs are {", ".join(known)}.')
    return asked


def _compressed(parts: list[bytes], accepted: str) -> tuple[dict[str, str], list[bytes]]:
    """The body as gzip or deflate where the client takes nothing else, and the header that says so.

    Most clients list these beside each other whatever they want, and on the way from one machine to the next
    compressing takes longer than sending; so only a client that names exactly one is taken at its word.
    """
    coding = accepted.strip().lower()
    if coding not in ("gzip", "deflate"):
        return {}, parts
    packer = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
    return {"Content-Encoding": coding}, [packer.compress(b"".join(parts)) + packer.flush()]
