"""The Flask application: every route in one table, one error handler, nothing about tensors.

route -> wire.decode_request -> model -> wire.encode_response
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from ruo.wire import ONLY, WIRES, InferRequest, InferResponse, Wire, WireError
from ruo.wire.v2 import datatype_of
from server.model import Model, TensorSpec, decode_raw
from server.serving import NotReadyError, Serving

__all__ = ["create_app"]

log = logging.getLogger("gunicorn.error")

# The clients of 2023 do not try again, so a request that comes while the model is being loaded waits for it.
_PAPER_WAIT_S = 60.0


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application; `config` overrides what the environment says (MODEL_PATH, MODEL_NAME, MAX_REQUEST_MB)."""
    settings = {
        "MODEL_PATH": os.environ.get("MODEL_PATH", "/app/model"),
        "MODEL_NAME": os.environ.get("MODEL_NAME", "model"),
        "MAX_REQUEST_MB": float(os.environ.get("MAX_REQUEST_MB", "256")),
        **(config or {}),
    }
    app = Flask("server", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(settings["MAX_REQUEST_MB"] * 2**20)
    app.url_map.strict_slashes = False
    app.register_error_handler(Exception, _answer_error)
    serving = Serving(Path(settings["MODEL_PATH"]), settings["MODEL_NAME"])
    app.extensions["ruo"] = serving
    for method, path, view in _routes(serving):
        app.add_url_rule(path, endpoint=f"{method} {path}", view_func=view, methods=[method])
    return app


def _routes(serving: Serving) -> list[tuple[str, str, Callable[..., Response]]]:
    v2 = _Views(serving, WIRES["v2"])
    return [
        ("GET", "/v2", v2.server),
        ("GET", "/v2/health/live", v2.live),
        ("GET", "/v2/health/ready", v2.ready),
        ("GET", "/v2/models/<model>", v2.metadata),
        ("GET", "/v2/models/<model>/ready", v2.model_ready),
        ("POST", "/v2/models/<model>/infer", v2.infer),
        ("POST", "/v2/repository/index", v2.index),
        ("POST", "/v1/models/<model>:predict", _Views(serving, WIRES["v1"]).infer),
        ("POST", "/test", _Views(serving, WIRES["paper"], _PAPER_WAIT_S).infer),
    ]


class _Views:
    """The routes of one wire."""

    def __init__(self, serving: Serving, wire: Wire, wait_s: float = 0.0) -> None:
        self._serving = serving
        self._wire = wire
        self._wait_s = wait_s

    def server(self) -> Response:
        return _json({"name": "ruo", "version": _version(), "extensions": ["binary_tensor_data", "model_repository"]})

    def live(self) -> Response:
        return _json({"live": True})

    def ready(self) -> Response:
        self._serving.start()
        workers = self._serving.ready_workers()
        state = {"live": True, "ready": workers > 0, "workers": workers}
        if workers:
            return _json(state)
        return _json({**state, "error": self._serving.why_not_ready()}, 503)

    def model_ready(self, model: str) -> Response:
        self._require(model)
        return _json({"name": model, "ready": bool(self._serving.model())})

    def metadata(self, model: str) -> Response:
        self._require(model)
        loaded = self._serving.model()
        return _json(
            {
                "name": model,
                "versions": [self._serving.version],
                "platform": loaded.platform,
                "inputs": [_describe(spec) for spec in loaded.inputs],
                "outputs": [_describe(spec) for spec in loaded.outputs],
            }
        )

    def index(self) -> Response:
        state = "READY" if self._serving.ready_workers() else "UNAVAILABLE"
        entry = {"name": self._serving.name, "version": self._serving.version, "state": state, "reason": ""}
        return _json([entry])

    def infer(self, model: str | None = None) -> Response:
        if model is not None:
            self._require(model)
        loaded = self._serving.model(self._wait_s)
        clock = [time.perf_counter()]
        asked = _decode(self._wire, loaded)
        arrays = loaded.fit(asked.inputs)
        clock.append(time.perf_counter())
        outputs = loaded.run(arrays)
        clock.append(time.perf_counter())
        answer = InferResponse(outputs, self._serving.name, self._serving.version, asked.id)
        headers, buffers = self._wire.encode_response(answer, asked)
        clock.append(time.perf_counter())
        response = Response([bytes(buffer) for buffer in buffers], headers=headers)  # Gunicorn takes bytes only
        response.headers["Server-Timing"] = _server_timing(clock)
        return response

    def _require(self, model: str) -> None:
        if model != self._serving.name:
            raise WireError(f'There is no model "{model}" here; this server has "{self._serving.name}".', 404)


def _decode(wire: Wire, model: Model) -> InferRequest:
    asked = wire.decode_request(dict(request.headers), request.get_data(cache=False))
    if wire.name == "v2" and ONLY in asked.inputs:
        if len(model.inputs) > 1:
            raise WireError("A raw binary request fits a model with one input only.")
        asked.inputs[ONLY] = decode_raw(asked.inputs[ONLY], model.inputs[0])
    known = [spec.name for spec in model.outputs]
    for name in asked.outputs or ():
        if name not in known:
            raise WireError(f'The model has no output "{name}"; its outputs are {", ".join(known)}.')
    return asked


def _answer_error(error: Exception) -> Response:
    if isinstance(error, WireError):
        return _json({"error": str(error)}, error.status)
    if isinstance(error, NotReadyError):
        response = _json({"error": str(error)}, 503)
        response.headers["Retry-After"] = "1"
        return response
    if isinstance(error, HTTPException):
        response = _json({"error": _http_sentence(error)}, error.code or 500)
        response.headers.extend(dict(error.get_headers()) if error.code == 405 else {})
        response.content_type = "application/json"
        return response
    log.exception("%s %s failed", request.method, request.path)
    return _json({"error": "The server failed on this request; its log says why."}, 500)


def _http_sentence(error: HTTPException) -> str:
    if error.code == 404:
        return f"There is nothing at {request.path}; models are at /v2/models."
    if error.code == 405:
        return f"{request.path} does not take {request.method}."
    if error.code == 413:
        limit = request.max_content_length or 0
        return f"The body is larger than {limit / 2**20:g} MB, the most this server takes; send fewer rows at once."
    return str(error.description)


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": list(spec.shape)}


def _server_timing(clock: list[float]) -> str:
    names = ("decode", "predict", "encode")
    spans = zip(names, clock, clock[1:], strict=False)
    return ", ".join(f"{name};dur={1000 * (end - begin):.3f}" for name, begin, end in spans)


def _json(message: object, status: int = 200) -> Response:
    return Response(orjson.dumps(message), status, content_type="application/json")


def _version() -> str:
    try:
        return version("ruo")
    except PackageNotFoundError:  # run from a checkout or an image that holds the sources only
        return "unknown"
