"""The OpenAPI description of the server, made from its table of routes."""

from __future__ import annotations

import re
from typing import Any

from server.settings import Settings

__all__ = ["describe"]

_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "datatype": {"type": "string"},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}},
    },
}
_V2_REQUEST = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parameters": {"type": "object"}},
            },
        },
    },
}
_V1_REQUEST = {
    "type": "object",
    "properties": {
        "signature_name": {"type": "string"},
        "instances": {"type": "array", "items": {}},
        "inputs": {"oneOf": [{"type": "array", "items": {}}, {"type": "object"}]},
    },
}
_ROWS = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}

# what the end of a path takes and gives; everything else takes nothing and gives an object
_BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/infer", {"application/json": {"schema": _V2_REQUEST}, "application/octet-stream": {"schema": {}}}),
    (":predict", {"application/json": {"schema": _V1_REQUEST}}),
    ("/test", {"application/json": {"schema": {"oneOf": [_ROWS, {"type": "string"}]}}}),
    ("/index", {"application/json": {"schema": {"type": "object", "properties": {"ready": {"type": "boolean"}}}}}),
]
_SUMMARIES = [
    ("/v2/models/<model>/infer", "Predictions (Open Inference Protocol, JSON and binary tensors)"),
    ("/infer", "Predictions of one version"),
    (":predict", "Predictions (V1)"),
    ("/test", "Predictions (the protocol of 2023: JSON rows, also inside a JSON string)"),
    ("/health/live", "Whether the server lives"),
    ("/health/ready", "Whether a worker has its model warm"),
    ("/ready", "Whether the model is ready"),
    ("/config", "Triton's model configuration"),
    ("/stats", "Triton's statistics, over all workers"),
    ("/repository/index", "The models of this server"),
    ("load", "Refused: the model follows MODEL_PATH"),
    ("/metrics", "Numbers for Prometheus"),
    ("/metadata", "The model's tensors (TensorFlow Serving)"),
    ("/v1/models", "The names of the models"),
    ("/v2", "What this server is and can do"),
    ("/", "Whether the server lives (KServe)"),
]


def describe(routes: list[tuple[str, str, bool]], settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document; `routes` are (method, path, is a probe)."""
    paths: dict[str, Any] = {}
    for method, path, probe in [*routes, ("GET", "/openapi.json", False)]:
        template = re.sub(r"<(\w+)>", r"{\1}", path)
        paths.setdefault(template, {})[method.lower()] = _operation(method, path, probe, settings)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "ruo", "version": "1", "description": "Serves a Keras model: V2, V1 and the wire of 2023."},
        "paths": paths,
    }
    if settings.ruo_token:
        document["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return document


def _operation(method: str, path: str, probe: bool, settings: Settings) -> dict[str, Any]:
    content = "text/plain" if path == "/metrics" else "application/json"
    answers: dict[str, Any] = {"200": {"description": "The answer", "content": {content: {}}}}
    for code, meaning in _errors(method, path, probe, bool(settings.ruo_token)):
        answers[code] = {"description": meaning, "content": {"application/json": {"schema": _ERROR}}}
    named = {"model": {"enum": [settings.model_name]}}
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": next((words for end, words in _SUMMARIES if path.endswith(end)), "The model's tensors and versions"),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", **named.get(name, {})}}
            for name in re.findall(r"<(\w+)>", path)
        ],
        "responses": answers,
    }
    body = next((body for end, body in _BODIES if path.endswith(end)), None)
    if body:
        operation["requestBody"] = {"required": not path.endswith("/index"), "content": body}
        if "application/octet-stream" in body:
            answers["200"]["content"] = {"application/json": {}, "application/octet-stream": {}}
    if settings.ruo_token and not probe:
        operation["security"] = [{"token": []}]
    return operation


def _errors(method: str, path: str, probe: bool, token: bool) -> list[tuple[str, str]]:
    codes = []
    if method == "POST":
        codes.append(("400", "The request breaks its protocol"))
    if token and not probe:
        codes.append(("401", "The token is missing or wrong"))
    if "<" in path:
        codes.append(("404", "There is no such model or version"))
    if path.endswith(("/infer", ":predict", "/test", "/index")):
        codes += [("408", "The body came too slowly"), ("413", "The body is too large")]
        codes += [("415", "The Content-Encoding is not known")]
    if "<" in path or path in ("/test", "/v2/health/ready"):
        codes.append(("503", "The model is not ready, or the server is busy; Retry-After says when to try again"))
    return codes
