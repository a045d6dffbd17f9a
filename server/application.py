"""The Flask application: every route in one table, one error handler, nothing about tensors.

route -> wire.decode_request -> model -> wire.encode_response
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from flask import Flask, Request, Response, g, request
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from ruo.wire import WIRES, WireError
from server.body import drain
from server.direct import Direct
from server.inference import Inference
from server.limits import RefusedError, check_token
from server.logs import REQUESTS
from server.metrics import Metrics
from server.openapi import describe
from server.settings import Settings
from server.versions import Serving
from server.views import V1Views, V2Views, as_json, paper_view

__all__ = ["Route", "create_app", "routes_of"]

log = logging.getLogger("gunicorn.error")

_INFER = "/v2/models/<model>/infer"
_INFER_VERSION = "/v2/models/<model>/versions/<version>/infer"


class Route(NamedTuple):
    """One line of the table; `probe` marks what is answered without the token."""

    method: str
    path: str
    view: Callable[..., Response]
    probe: bool = False


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application; `config` overrides what the environment says (MODEL_PATH, MODEL_NAME, ...: see Settings)."""
    settings = Settings.read(config)
    metrics = Metrics()
    serving = Serving(settings, metrics)
    inference = Inference(settings, serving, metrics)
    routes = routes_of(settings, inference, metrics)
    app = Flask("server", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.url_map.converters["default"] = _Name
    app.extensions["ruo"] = serving
    for route in routes:
        app.add_url_rule(
            route.path,
            endpoint=f"{route.method} {route.path}",
            view_func=route.view,
            methods=[route.method],
            provide_automatic_options=False,
        )
    probes = {f"{route.method} {route.path}" for route in routes if route.probe}
    app.before_request(lambda: _let_in(settings.ruo_token, probes))
    app.after_request(partial(_note_response, metrics))
    app.register_error_handler(Exception, lambda error: _answer_error(error, request))
    app.wsgi_app = Direct(  # type: ignore[method-assign]  # as Flask says it is to be done
        app.wsgi_app, settings.model_name, partial(_answer_directly, settings, inference, metrics)
    )
    return app


def routes_of(settings: Settings, inference: Inference, metrics: Metrics) -> list[Route]:
    """Everything that this server answers."""
    v2, v1 = V2Views(settings, inference, metrics), V1Views(inference)
    table = [
        Route("GET", "/", v1.alive, probe=True),
        Route("GET", "/v2/health/live", v2.live, probe=True),
        Route("GET", "/v2/health/ready", v2.ready, probe=True),
        Route("GET", "/v2", v2.server),
        Route("GET", "/v2/models/<model>", v2.metadata),
        Route("GET", "/v2/models/<model>/versions/<version>", v2.metadata),
        Route("GET", "/v2/models/<model>/ready", v2.model_ready, probe=True),
        Route("GET", "/v2/models/<model>/versions/<version>/ready", v2.model_ready, probe=True),
        Route("GET", "/v2/models/<model>/config", v2.config),
        Route("GET", "/v2/models/<model>/versions/<version>/config", v2.config),
        Route("GET", "/v2/models/<model>/stats", v2.stats),
        Route("GET", "/v2/models/<model>/versions/<version>/stats", v2.stats),
        Route("POST", _INFER, v2.infer),
        Route("POST", _INFER_VERSION, v2.infer),
        Route("POST", "/v2/repository/index", v2.index),
        Route("POST", "/v2/repository/models/<model>/load", v2.control),
        Route("POST", "/v2/repository/models/<model>/unload", v2.control),
        Route("GET", "/v1/models", v1.models),
        Route("GET", "/v1/models/<model>", v1.model),
        Route("GET", "/v1/models/<model>/versions/<version>", v1.model),
        Route("GET", "/v1/models/<model>/metadata", v1.metadata),
        Route("GET", "/v1/models/<model>/versions/<version>/metadata", v1.metadata),
        Route("POST", "/v1/models/<model>:predict", v1.predict),
        Route("POST", "/v1/models/<model>/versions/<version>:predict", v1.predict),
        Route("POST", "/test", lambda: paper_view(inference)),
        Route("GET", "/metrics", lambda: Response(metrics.text(), content_type="text/plain; version=0.0.4")),
    ]
    document = describe([(route.method, route.path, route.probe) for route in table], settings)
    return [*table, Route("GET", "/openapi.json", lambda: as_json(document))]


def _answer_directly(
    settings: Settings,
    inference: Inference,
    metrics: Metrics,
    environ: dict[str, Any],
    start_response: Any,
    version: str | None,
) -> Iterable[bytes]:
    """A request for a prediction that does not come through Flask."""
    began = time.perf_counter()
    route = _INFER if version is None else _INFER_VERSION
    try:
        if settings.ruo_token:
            check_token(settings.ruo_token, environ.get("HTTP_AUTHORIZATION"))
        headers, parts = inference.answer(WIRES["v2"], environ, version)
    except Exception as error:  # noqa: BLE001  as Flask does
        response = _answer_error(error, Request(environ))
        _note(response.status_code, response.headers, environ, route, metrics, began)
        return response(environ, start_response)
    _note(200, headers, environ, route, metrics, began)
    start_response("200 OK", list(headers.items()))
    return parts


class _Name(BaseConverter):
    """A part of a path that names something; what follows a colon is a verb, as in ``model:predict``."""

    regex = "[^/:]+"


def _let_in(token: str, probes: set[str]) -> None:
    g.began = time.perf_counter()
    if token and request.endpoint not in probes:
        check_token(token, request.headers.get("Authorization"))


def _note_response(metrics: Metrics, response: Response) -> Response:
    _note(response.status_code, response.headers, request.environ, str(request.url_rule or "none"), metrics, g.began)
    return response


def _note(
    status: int,
    headers: Mapping[str, str] | Headers,
    environ: dict[str, Any],
    route: str,
    metrics: Metrics,
    began: float,
) -> None:
    """Count an answer and write its line in the log; probes and the like are in it at level debug only."""
    metrics.answered(route, status)
    level = logging.DEBUG if environ["REQUEST_METHOD"] == "GET" else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return
    fields = {
        "method": environ["REQUEST_METHOD"],
        "path": environ.get("PATH_INFO", "").encode("latin-1").decode(errors="replace"),  # as WSGI has it
        "status": status,
        "bytes_in": int(environ.get("CONTENT_LENGTH") or 0),
        "bytes_out": int(headers.get("Content-Length", 0)),
        "ms": round(1000 * (time.perf_counter() - began), 3),
        "timing": headers.get("Server-Timing", ""),
        "version": headers.get("Ruo-Model-Version", ""),
    }
    line = "%(method)s %(path)s %(status)s in %(ms)s ms, %(bytes_in)s bytes in, %(bytes_out)s out (%(timing)s)"
    record = logging.LogRecord(REQUESTS.name, level, __file__, 0, line, (fields,), None)  # not looking for its caller
    record.fields = fields
    REQUESTS.handle(record)


def _answer_error(error: Exception, request: Request) -> Response:
    if getattr(error, "status", None) != 408:  # that client is known not to send
        drain(request.environ)
    if isinstance(error, WireError):
        response = as_json({"error": str(error)}, error.status)
    elif isinstance(error, RefusedError):
        response = as_json({"error": str(error)}, error.status)
        response.headers.extend(error.headers)
    elif isinstance(error, HTTPException):
        response = as_json({"error": _http_sentence(error, request)}, error.code or 500)
        response.headers.extend(dict(error.get_headers()) if error.code == 405 else {})
        response.content_type = "application/json"
    else:
        log.error("%s %s failed", request.method, request.path, exc_info=error)
        response = as_json({"error": "The server failed on this request; its log says why."}, 500)
    if response.status_code == 503:
        response.headers["Retry-After"] = "1"
    return response


def _http_sentence(error: HTTPException, request: Request) -> str:
    if error.code == 404:
        return f"There is nothing at {request.path}; models are at /v2/models."
    if error.code == 405:
        return f"{request.path} does not take {request.method}."
    return str(error.description)
