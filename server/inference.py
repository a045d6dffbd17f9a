"""The path of one request: admitted, received, decoded, scored, encoded."""

import os
import socket
import time
import zlib
from collections.abc import Mapping
from typing import cast

from flask import Request, Response

from ruo.model.signature import Model, decode_raw
from ruo.wire import ONLY, InferRequest, InferResponse, Wire, WireError
from ruo.wire.messages import Buffer
from ruo.wire.v1 import SIGNATURE
from server.body import read_body
from server.limits import Gate
from server.metrics import Timing
from server.versions import Serving


class Inference:
    """Answers requests for predictions on every wire."""

    def __init__(self, serving: Serving) -> None:
        self._serving, settings = serving, serving.settings
        self._gate = Gate(settings.max_waiting, settings.max_waiting_mb * 2**20)
        self._worker = f"{settings.pod_name or socket.gethostname()}/{os.getpid()}"

    def answer(self, wire: Wire, request: Request, version: str | None = None, wait_s: float = 0.0) -> Response:
        """Predictions by a version (by default the current one); waits up to `wait_s` seconds for the first model."""
        settings, metrics = self._serving.settings, self._serving.metrics
        failures, in_flight = metrics.failures.count_exceptions(), metrics.in_flight.track_inprogress()
        with self._gate.place(request.content_length or 0) as grow, in_flight, failures:
            deadline = time.monotonic() + settings.request_timeout
            served = self._serving.get(version, wait_s)
            model, began = served.model, time.perf_counter()
            body = read_body(request.environ, settings.max_request_bytes, settings.body_timeout, grow)
            message = _decode(wire, model, request, body)
            arrays = model.fit(message.inputs)
            decoded = time.perf_counter()
            with metrics.waiting.track_inprogress():
                results, waited = self._serving.scheduler.run(model, arrays, deadline)
            computed = time.perf_counter()
            outputs = {spec.name: array for spec, array in zip(model.outputs, results, strict=True)}
            answer = InferResponse(outputs, self._serving.name, served.version, message.id)
            headers, buffers = wire.encode_response(answer, message)
            parts = [bytes(buffer) for buffer in buffers]  # WSGI accepts bytes only
            if sum(map(len, parts)) < 1 << 16:  # Gunicorn sends each part separately
                parts = [b"".join(parts)]
            # Most clients list several codings whatever they want, and between two machines compressing takes longer than
            # sending; so only a client that names exactly one has its answer compressed.
            coding = request.headers.get("Accept-Encoding", "").strip().lower()
            if coding in ("gzip", "deflate"):
                packer = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
                parts = [packer.compress(b"".join(parts)) + packer.flush()]
                headers["Content-Encoding"] = coding
            timing = Timing(decoded - began, waited, computed - decoded - waited, time.perf_counter() - computed)
            metrics.scored(served.version, len(arrays[0]), timing)
            headers |= {
                "Content-Length": str(sum(map(len, parts))),
                "Vary": "Accept-Encoding",
                "Server-Timing": timing.header(),
                "Ruo-Model-Version": served.version,
                "Ruo-Model-Sha256": served.sha256,
                "Ruo-Worker": self._worker,
            }
            return Response(parts, headers=headers)


def _decode(wire: Wire, model: Model, request: Request, body: Buffer) -> InferRequest:
    message = wire.decode_request(cast(Mapping[str, str], request.headers), body)
    if message.binary and ONLY in message.inputs:
        if len(model.inputs) > 1:
            raise WireError("A raw binary request fits a model with one input only.")
        message.inputs[ONLY] = decode_raw(message.inputs[ONLY], model.inputs[0])
    if message.signature not in ("", SIGNATURE, model.signature):
        raise WireError(f'There is no signature "{message.signature:.60}" here; the only one is "{model.signature}".')
    known = [spec.name for spec in model.outputs]
    for name in message.outputs or ():
        if name not in known:
            raise WireError(f'The model has no output "{name}"; its outputs are {", ".join(known)}.')
    return message
