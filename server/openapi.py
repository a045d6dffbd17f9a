"""The OpenAPI description of the server, made from its table of routes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from server.settings import Settings

__all__ = ["INDEX", "PREDICT_V1", "PREDICT_V2", "ROWS", "Route", "describe"]


class Route(NamedTuple):
    """One line of the table of routes; `body` describes its requests, and a probe needs no token."""

    method: str
    path: str
    view: Callable[..., Any]
    summary: str
    body: dict[str, Any] | None = None
    is_probe: bool = False


def _object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(items: Any, **limits: int) -> dict[str, Any]:
    return {"type": "array", "items": items, **limits}


_TEXT, _FREE = {"type": "string"}, {"type": "object"}
_SHAPE = _list({"type": "integer", "minimum": 0})
_TENSOR = _object(
    "name", "shape", "datatype", name=_TEXT, shape=_SHAPE, datatype=_TEXT, parameters=_FREE, data=_list({})
)
_OUTPUTS = _list(_object("name", name=_TEXT, parameters=_FREE))
_V2_REQUEST = _object("inputs", id=_TEXT, parameters=_FREE, inputs=_list(_TENSOR, minItems=1), outputs=_OUTPUTS)
_V1_REQUEST = _object(signature_name=_TEXT, instances=_list({}), inputs={"oneOf": [_list({}), _FREE]})
_ERROR = _object("error", error=_TEXT)

# the bodies of requests, by content type
PREDICT_V2 = {"application/json": {"schema": _V2_REQUEST}, "application/octet-stream": {"schema": {}}}
PREDICT_V1 = {"application/json": {"schema": _V1_REQUEST}}
ROWS = {"application/json": {"schema": {"oneOf": [_list(_list({"type": "number"})), _TEXT]}}}
INDEX = {"application/json": {"schema": _object(ready={"type": "boolean"})}}


def describe(routes: list[Route], settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    paths: dict[str, Any] = {}
    for route in routes:
        template = re.sub(r"<(\w+)>", r"{\1}", route.path)
        paths.setdefault(template, {})[route.method.lower()] = _operation(route, settings)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "ruo",
            "version": "1",
            "description": "Serves a Keras model: V2, V1 and the protocol of 2023.",
        },
        "paths": paths,
    }
    if settings.ruo_token:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return document


def _operation(route: Route, settings: Settings) -> dict[str, Any]:
    has_token = bool(settings.ruo_token) and not route.is_probe
    content = "text/plain" if route.path == "/metrics" else "application/json"
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": {content: {}}}}
    for code, meaning in _errors(route, has_token):
        answers[code] = {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}
    named = {"model": {"enum": [settings.model_name]}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}{route.path}").strip("_"),
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", **named.get(name, {})}}
            for name in re.findall(r"<(\w+)>", route.path)
        ],
        "responses": answers,
    }
    if route.body:
        operation["requestBody"] = {"required": route.body is not INDEX, "content": route.body}
    if route.body is PREDICT_V2:
        answers["200"]["content"]["application/octet-stream"] = {}
    if has_token:
        operation["security"] = [{"token": []}]
    return operation


def _errors(route: Route, has_token: bool) -> list[tuple[str, str]]:
    has_name = "<" in route.path
    uses_model = has_name or route.path in ("/test", "/v2/health/ready")
    errors = [
        ("400", "The request breaks its protocol", route.method == "POST"),
        ("401", "The token is missing or wrong", has_token),
        ("404", "There is no such model or version", has_name),
        ("408", "The body arrived too slowly", route.body),
        ("413", "The body is too large", route.body),
        ("415", "The Content-Encoding is not known", route.body),
        ("503", "The model is not ready, or the server is busy; retry as Retry-After says", uses_model),
    ]
    return [(code, meaning) for code, meaning, applies in errors if applies]
