"""The Flask application: every route in one table, one error handler, and nothing about tensors.

route -> wire.decode_request -> scheduler -> model -> wire.encode_response
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from ruo.wire import WIRES, WireError
from server.body import drain
from server.inference import Inference
from server.limits import check_token
from server.logs import REQUESTS, printable
from server.metrics import Metrics
from server.openapi import describe
from server.scheduler import Scheduler
from server.settings import Settings
from server.versions import Serving
from server.views import V1Views, V2Views, metrics_view

Route = tuple[str, str, Callable[..., Any]]  # a method, a path and what answers them

_PROBES = {"/", "/v2/health/live", "/v2/health/ready", "/v2/models/<model>/ready"}  # which need no token
_PROBES |= {"/v2/models/<model>/versions/<version>/ready"}
_PAPER_WAIT_S = 60.0  # the clients of 2023 do not retry, so their requests wait for the first model

log = logging.getLogger("gunicorn.error")


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application; `config` overrides the environment's settings (MODEL_PATH, MODEL_NAME, ...)."""
    settings = Settings.read(config)
    metrics, scheduler = Metrics(), Scheduler()
    serving = Serving(settings, metrics, scheduler)
    inference = Inference(settings, serving, scheduler, metrics)
    app = Flask("server", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's own provider
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["default"] = _Name
    app.extensions["ruo"] = serving
    for method, path, view in _routes(settings, serving, inference, metrics):
        app.add_url_rule(path, f"{method} {path}", view, methods=[method], provide_automatic_options=False)
    app.before_request(partial(_admit, settings))
    app.after_request(partial(_record, metrics))
    app.register_error_handler(Exception, _answer_error)
    return app


def _routes(settings: Settings, serving: Serving, inference: Inference, metrics: Metrics) -> list[Route]:
    """Everything that this server answers; openapi.yaml describes it."""
    v2, v1 = V2Views(settings, serving, metrics), V1Views(serving)
    infer, predict, paper = (partial(inference.answer, WIRES[wire], request) for wire in ("v2", "v1", "paper"))
    model_v2, model_v1 = "/v2/models/<model>", "/v1/models/<model>"
    one_v2, one_v1 = f"{model_v2}/versions/<version>", f"{model_v1}/versions/<version>"
    return [
        ("GET", "/", lambda: {"status": "alive"}),
        ("GET", "/v2/health/live", lambda: {"live": True}),
        ("GET", "/v2/health/ready", v2.ready),
        ("GET", "/v2", v2.server),
        ("GET", model_v2, v2.metadata),
        ("GET", one_v2, v2.metadata),
        ("GET", f"{model_v2}/ready", v2.model_ready),
        ("GET", f"{one_v2}/ready", v2.model_ready),
        ("GET", f"{model_v2}/config", v2.config),
        ("GET", f"{one_v2}/config", v2.config),
        ("GET", f"{model_v2}/stats", v2.stats),
        ("GET", f"{one_v2}/stats", v2.stats),
        ("POST", f"{model_v2}/infer", infer),
        ("POST", f"{one_v2}/infer", infer),
        ("POST", "/v2/repository/index", v2.index),
        ("POST", "/v2/repository/models/<model>/load", v2.control),
        ("POST", "/v2/repository/models/<model>/unload", v2.control),
        ("GET", "/v1/models", lambda: {"models": [serving.name]}),
        ("GET", model_v1, v1.model),
        ("GET", one_v1, v1.model),
        ("GET", f"{model_v1}/metadata", v1.metadata),
        ("GET", f"{one_v1}/metadata", v1.metadata),
        ("POST", f"{model_v1}:predict", predict),
        ("POST", f"{one_v1}:predict", predict),
        ("POST", "/test", partial(paper, wait_s=_PAPER_WAIT_S)),
        ("GET", "/metrics", partial(metrics_view, metrics, serving)),
        ("GET", "/openapi.json", partial(describe, settings)),
    ]


class _Name(BaseConverter):
    """A name in a path; a colon ends it, and a verb follows, as in ``model:predict``."""

    regex = "[^/:]+"


def _admit(settings: Settings) -> None:
    """Before every request: check its token, and the name of its model, which the views do not take."""
    g.began = time.perf_counter()
    if settings.ruo_token and str(request.url_rule) not in _PROBES:
        check_token(settings.ruo_token, request.headers.get("Authorization"))
    model = (request.view_args or {}).pop("model", settings.model_name)
    if model != settings.model_name:
        raise WireError(f'There is no model "{model}" here; this server has "{settings.model_name}".', 404)


def _record(metrics: Metrics, response: Response) -> Response:
    """After every request: count it and log it, at level debug for GET."""
    metrics.requests.labels(str(request.url_rule or "none"), response.status_code).inc()
    level = logging.DEBUG if request.method == "GET" else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return response
    fields = {
        "method": request.method,
        "path": request.path,
        "status": response.status_code,
        "bytes_in": request.content_length or 0,
        "bytes_out": int(response.headers.get("Content-Length", 0)),
        "ms": round(1000 * (time.perf_counter() - g.began), 3),
        "timing": response.headers.get("Server-Timing", ""),
        "version": response.headers.get("Ruo-Model-Version", ""),
    }
    line = "%(method)s %(path)s %(status)s in %(ms)s ms, %(bytes_in)s bytes in, %(bytes_out)s out (%(timing)s)"
    REQUESTS.log(level, line, fields, extra={"fields": fields})
    return response


def _answer_error(error: Exception) -> Response:
    headers = {}
    if isinstance(error, WireError):
        sentence, status = str(error), error.status
    elif isinstance(error, HTTPException):
        sentence, status = _sentence(error), error.code or 500
        headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    else:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        sentence, status = "The server failed on this request; its log says why.", 500
    if status != 408:  # this client has stopped sending
        drain(request.environ)
    response = jsonify(error=printable(sentence))
    response.status_code = status
    response.headers.extend(headers)
    if status == 503:
        response.headers["Retry-After"] = "1"
    return response


def _sentence(error: HTTPException) -> str:
    if error.code == 404:
        return f"There is nothing at {request.path}; models are at /v2/models."
    if error.code == 405:
        return f"{request.path} does not take {request.method}."
    return str(error.description)
