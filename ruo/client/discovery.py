"""What a server says about itself: its model, the model's version, and whether it takes binary tensors.

Sources: Open Inference Protocol, "inference_rest.md" for the metadata and the versioned paths; Triton,
"extension_model_repository.md" for the list of models; TensorFlow Serving, "RESTful API" for the versions on V1.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ruo.client.answers import chosen_output
from ruo.client.records import ModelInfo, TensorInfo
from ruo.errors import ScoringError
from ruo.wire import ONLY, WireError
from ruo.wire.v1 import DATATYPES, SIGNATURE

Ask = Callable[[str, str], Awaitable[Any]]  # method and path to parsed JSON; ScoringError with a refusal's status

_DTYPES = {theirs: name for name, theirs in DATATYPES.items()}
NO_SUCH_ROUTE = (400, 404, 405, 501)
_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


async def only_model(ask: Ask) -> str:
    """The name of a server's only model, as it stands in an address; "model" where the server has no list of models."""
    try:
        index = await _ask_if_known(ask, "POST", "/v2/repository/index")
    except ScoringError as error:
        if error.status != 403:
            raise
        message = f"The server keeps its list of models to itself; name one: http://host/v2/models/NAME ({error})"
        raise ScoringError(message, status=403) from None
    if index is None:
        return "model"
    try:
        names = sorted({str(entry["name"]) for entry in index})
    except _MALFORMED:
        raise ScoringError("The server's list of models does not follow the V2 protocol.") from None
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise ScoringError(f"The server has {len(names)} models ({known}); name one: http://host/v2/models/NAME")
    return names[0].replace("%", "%25")


async def takes_binary(ask: Ask) -> bool:
    """Whether the server lists the binary tensor extension; assumed where it lists no extensions at all."""
    about = await _ask_if_known(ask, "GET", "/v2")
    extensions = about.get("extensions") if isinstance(about, dict) else None
    return not isinstance(extensions, list) or "binary_tensor_data" in extensions


async def learn_model(ask: Ask, name: str, version: str = "", output: str = ONLY) -> ModelInfo:
    """The metadata of a model, or of one version of it, with the output of that name, or else its only one."""
    about = await ask("GET", f"/v2/models/{name}/versions/{version}" if version else f"/v2/models/{name}")
    try:
        inputs = [
            TensorInfo(str(tensor["name"]), str(tensor["datatype"]), tuple(map(int, tensor["shape"])))
            for tensor in about.get("inputs") or ()
        ]
        shapes = {str(tensor["name"]): tensor.get("shape") for tensor in about.get("outputs") or ()}
        output_name = chosen_output(shapes, output) if shapes else output
        extra = about.get("parameters") or {}
        limit = extra.get("max_request_bytes")
        output_shape: Any = shapes.get(output_name)
        is_shape = isinstance(output_shape, list) and all(isinstance(size, int) for size in output_shape)
        return ModelInfo(
            name,
            version=str((about.get("versions") or [""])[-1]),
            platform=str(about.get("platform", "")),
            inputs=tuple(inputs),
            output_name=output_name,
            sha256=str(extra.get("sha256", "")),
            max_request_bytes=limit if isinstance(limit, int) and limit > 0 else None,
            output_shape=tuple(output_shape) if is_shape else None,
            features=_feature_names(extra.get("features"), inputs),
        )
    except WireError as error:
        raise ScoringError(f"Model {name!r}: {error}.") from None
    except _MALFORMED:
        raise ScoringError(f"The server's metadata of model {name!r} does not follow the V2 protocol.") from None


def _feature_names(names: object, inputs: Sequence[TensorInfo]) -> tuple[str, ...]:
    """What ruo's server tells of the only input's columns; another server may mean something else by the word."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if [one.width for one in inputs] == [len(names)] else ()


async def learn_version(ask: Ask, name: str, version: str = "", label: str = "") -> ModelInfo:
    """A model's current version on V1, or that of a label, or the given one; none where the server does not tell it."""
    path = f"/v1/models/{name}" + (f"/versions/{version}" if version else f"/labels/{label}" if label else "")
    unknown = () if version or label else (*NO_SUCH_ROUTE, 200, 401, 403)  # 200 is a page that is not JSON
    about = await _ask_if_known(ask, "GET", path, unknown)
    try:
        # the newest comes first, both in TensorFlow Serving and in this project's server
        states = [entry for entry in about["model_version_status"] if entry["state"] == "AVAILABLE"]
        found, sha256, names = str(states[0]["version"]), str(about.get("sha256", "")), about.get("features")
    except _MALFORMED:  # as KServe's servers, which tell no version
        if label:
            message = f"The server does not tell which version of {name!r} has the label {label!r}; name the version."
            raise ScoringError(message) from None
        found, sha256, names = "", "", None
    inputs = await _inputs_v1(ask, path)
    return ModelInfo(name, found, "", inputs, sha256=sha256, features=_feature_names(names, inputs))


async def _inputs_v1(ask: Ask, path: str) -> tuple[TensorInfo, ...]:
    """The inputs that TensorFlow Serving's metadata list; none where a server has no such metadata."""
    about = await _ask_if_known(ask, "GET", f"{path}/metadata", (*NO_SUCH_ROUTE, 200, 401, 403))
    try:
        signatures = about["metadata"]["signature_def"]["signature_def"]
        tensors = (next(iter(signatures.values())) if len(signatures) == 1 else signatures[SIGNATURE])["inputs"]
        return tuple(TensorInfo(str(name), _DTYPES[of["dtype"]], _shape_v1(of)) for name, of in tensors.items())
    except _MALFORMED:
        return ()


def _shape_v1(tensor: dict[str, Any]) -> tuple[int, ...] | None:
    shape = tensor["tensor_shape"]
    return None if shape.get("unknown_rank") else tuple(int(size["size"]) for size in shape["dim"])


async def _ask_if_known(ask: Ask, method: str, path: str, unknown: tuple[int, ...] = NO_SUCH_ROUTE) -> Any:
    """The answer, or None where the server does not have the path."""
    try:
        return await ask(method, path)
    except ScoringError as error:
        if error.status not in unknown:
            raise
        return None
