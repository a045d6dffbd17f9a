"""The Flask application: every route in one table, one error handler, and nothing about tensors.

route -> wire.decode_request -> scheduler -> model -> wire.encode_response
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, g, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from ruo.errors import printable
from ruo.wire import WIRES, WireError
from ruo.wire.v2 import HEADER_LENGTH
from server.body import drain
from server.inference import Inference
from server.limits import check_token
from server.logs import REQUESTS
from server.metrics import Metrics
from server.settings import Settings
from server.versions import Serving
from server.views import Views, openapi

_PROBES = {"/", "/v2/health/live", "/v2/health/ready", "/v2/models/<model>/ready"}  # which need no token
_PROBES |= {"/v2/models/<model>/versions/<version>/ready"}
_PAPER_WAIT_S = 60.0  # the clients of 2023 do not retry, so their requests wait for the first model

log = logging.getLogger("gunicorn.error")


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application; `config` overrides the environment's settings (MODEL_PATH, MODEL_NAME, ...)."""
    settings = Settings.read(config)
    serving = Serving(settings)
    app = Flask("server", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's own provider
    app.url_map.strict_slashes = app.url_map.merge_slashes = False
    app.url_map.converters["default"] = _Name
    app.extensions["ruo"] = serving
    for method, path, view in _routes(serving):
        app.add_url_rule(path, f"{method} {path}", view, methods=[method], provide_automatic_options=False)
    app.before_request(partial(_admit, settings))
    app.after_request(partial(_record, serving.metrics))
    app.after_request(partial(_allow, settings))
    app.register_error_handler(Exception, _answer_error)
    return app


def _routes(serving: Serving) -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Everything that this server answers, each a method, a path and a view; openapi.yaml describes it."""
    views, inference = Views(serving), Inference(serving)
    infer, predict, paper = (partial(inference.answer, WIRES[wire], request) for wire in ("v2", "v1", "paper"))
    yield "GET", "/", views.root
    yield "GET", "/v2/health/live", lambda: {"live": True}
    yield "GET", "/v2/health/ready", views.ready
    yield "GET", "/v2", views.server
    for model in ("models/<model>", "models/<model>/versions/<version>"):
        yield "GET", f"/v2/{model}", views.metadata
        yield "GET", f"/v2/{model}/ready", views.model_ready
        yield "GET", f"/v2/{model}/config", views.config
        yield "GET", f"/v2/{model}/stats", views.stats
        yield "POST", f"/v2/{model}/infer", infer
        yield "GET", f"/v1/{model}", views.model_v1
        yield "GET", f"/v1/{model}/metadata", views.metadata_v1
        yield "POST", f"/v1/{model}:predict", predict
    yield "GET", "/v2/models/stats", views.stats
    yield "GET", "/v2/models", lambda: {"models": [serving.name]}
    yield "POST", "/v2/repository/index", views.index
    yield "POST", "/v2/repository/models/<model>/load", views.control
    yield "POST", "/v2/repository/models/<model>/unload", views.control
    yield "GET", "/v1/models", lambda: {"models": [serving.name]}
    yield "POST", "/test", partial(paper, wait_s=_PAPER_WAIT_S)
    yield "GET", "/metrics", views.prometheus
    yield "GET", "/openapi.json", partial(openapi, serving.settings)


class _Name(BaseConverter):
    """A name in a path; a colon ends it, and a verb follows, as in ``model:predict``."""

    regex = "[^/:]+"


def _admit(settings: Settings) -> Response | None:
    """Before every request: check its token, and the name of its model, which the views do not take."""
    g.began = time.perf_counter()
    if request.method == "OPTIONS" and settings.cors_origins:
        return Response(status=204)  # a browser asks before it asks, without the token
    if settings.ruo_token and str(request.url_rule) not in _PROBES:
        check_token(settings.ruo_token, request.headers.get("Authorization"))
    model = (request.view_args or {}).pop("model", settings.model_name)
    if model != settings.model_name:
        raise WireError(f'There is no model "{model}" here; this server has "{settings.model_name}".', 404)
    return None


def _allow(settings: Settings, response: Response) -> Response:
    """After every request: tell a browser whether its page may read the answer (CORS)."""
    origin, allowed = request.headers.get("Origin"), settings.cors_origins.replace(",", " ").split()
    if allowed:
        response.vary.add("Origin")
    if origin and ("*" in allowed or origin in allowed):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "*"
        response.headers["Access-Control-Allow-Headers"] = (
            f"Authorization, Content-Encoding, Content-Type, {HEADER_LENGTH}"
        )
        response.headers["Access-Control-Allow-Methods"] = "GET, POST"
    return response


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
        status = error.code or 500
        ours = {
            404: f"There is nothing at {request.path}; models are at /v2/models.",
            405: f"{request.path} does not take {request.method}.",
        }
        sentence = ours.get(status, str(error.description))
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
