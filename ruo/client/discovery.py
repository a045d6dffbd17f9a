"""What a server says of itself before it is sent anything: its model, the model's version, and what it can take.

Source: Open Inference Protocol, "inference_rest.md": server metadata, model metadata, the versioned paths; Triton,
"extension_model_repository.md" for the list of models.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ruo.client.records import ModelInfo
from ruo.errors import ScoringError

__all__ = ["Ask", "learn_model", "learn_version", "only_model", "takes_binary"]

# method and path to the answer, parsed; raises ScoringError with the status of a refusal
Ask = Callable[[str, str], Awaitable[Any]]

_NO_SUCH_ROUTE = (400, 404, 405, 501)


async def only_model(ask: Ask) -> str:
    """The name of the only model a server has; "model" where the server keeps no list."""
    try:
        index = await ask("POST", "/v2/repository/index")
    except ScoringError as error:
        if error.status in _NO_SUCH_ROUTE:
            return "model"
        if error.status == 403:
            message = f"The server keeps its list of models to itself; name one: http://host/v2/models/NAME ({error})"
            raise ScoringError(message, status=403) from None
        raise
    try:
        names = sorted({str(entry["name"]) for entry in index})
    except (KeyError, TypeError):
        raise ScoringError("The server's list of models does not follow the V2 protocol.") from None
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise ScoringError(f"The server has {len(names)} models ({known}); name one: http://host/v2/models/NAME")
    return names[0]


async def learn_model(ask: Ask, name: str) -> ModelInfo:
    """The model's metadata; raises ScoringError where it does not follow the protocol or takes several inputs."""
    return _model_info(name, await ask("GET", f"/v2/models/{name}"))


async def takes_binary(ask: Ask) -> bool:
    """Whether the server lists the binary tensor extension; one that lists no extensions at all is believed to have it."""
    try:
        about = await ask("GET", "/v2")
    except ScoringError as error:
        if error.status in _NO_SUCH_ROUTE:
            return True
        raise
    extensions = about.get("extensions") if isinstance(about, dict) else None
    return not isinstance(extensions, list) or "binary_tensor_data" in extensions


async def learn_version(ask: Ask, name: str, version: str) -> ModelInfo | None:
    """The metadata of one version of the model, None where it cannot be asked for by an address of its own."""
    try:
        about = await ask("GET", f"/v2/models/{name}/versions/{version}")
    except ScoringError as error:
        if error.status in _NO_SUCH_ROUTE:
            return None
        raise
    return _model_info(name, about)._replace(version=version)


def _model_info(name: str, about: Any) -> ModelInfo:
    try:
        (first, *others) = about["inputs"]
        output = (about.get("outputs") or [{}])[0]
        extra = about.get("parameters") or {}
        limit = extra.get("max_request_bytes")
        info = ModelInfo(
            name,
            str((about.get("versions") or [""])[-1]),
            str(about.get("platform", "")),
            str(first["name"]),
            str(first["datatype"]),
            tuple(map(int, first["shape"])),
            str(output["name"]) if output else "",
            str(extra.get("sha256", "")),
            limit if isinstance(limit, int) and limit > 0 else None,
            _shape(output.get("shape")),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ScoringError(f"The server's metadata of model {name!r} does not follow the V2 protocol.") from None
    if others:
        names = ", ".join(str(tensor["name"]) for tensor in about["inputs"])
        raise ScoringError(f"Model {name!r} takes {1 + len(others)} inputs ({names}); a table can fill only one.")
    return info


def _shape(sizes: Any) -> tuple[int, ...] | None:
    """A shape that is nice to know, so that a wrong one is no reason to stop."""
    whole = isinstance(sizes, list) and all(isinstance(size, int) for size in sizes)
    return tuple(sizes) if whole else None
