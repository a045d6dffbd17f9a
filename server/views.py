"""The views other than inference: descriptions of the server and its model in each protocol, and of the routes."""

import math
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from flask import Response, request
from werkzeug.exceptions import ServiceUnavailable

from ruo.model.signature import TensorSpec
from ruo.wire import WireError
from ruo.wire.jsontext import loads
from ruo.wire.v1 import DATATYPES
from ruo.wire.v2 import datatype_of
from server.body import read_body
from server.metrics import Timing
from server.settings import Settings
from server.versions import Served, Serving

_PAGE = Path(__file__).with_name("status.html").read_text()
# the JSON of an answer, with the status of an error, or with headers
Message = dict[str, Any] | list[dict[str, Any]] | tuple[dict[str, Any], int] | tuple[dict[str, Any], dict[str, str]]


@dataclass(frozen=True)
class Views:
    """The Open Inference Protocol (V2), the parts of Triton's extensions that its tools use, and V1's descriptions."""

    serving: Serving

    def root(self) -> Message | Response:
        """Whether the server is alive; a browser gets a page that shows how it is."""
        if request.accept_mimetypes.best_match(["application/json", "text/html"]) == "text/html":
            return Response(_PAGE, content_type="text/html; charset=utf-8", headers={"Vary": "Accept"})
        return {"status": "alive"}, {"Vary": "Accept"}

    def server(self) -> Message:
        """The server's version and protocol extensions."""
        version = next((found.version for found in metadata.distributions(name="ruo")), "unknown")  # as in an image
        extensions = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]
        return {"name": "ruo", "version": version, "extensions": extensions}

    def ready(self) -> Message:
        """Whether a worker is ready, and how many of how many are."""
        workers = self.serving.ready_workers()
        state = {"live": True, "ready": workers > 0, "workers": workers, "of": self.serving.slots.expected()}
        if workers:
            behind = self.serving.behind
            return state if behind is None else {**state, "version": self.serving.get().version, "error": behind}
        return {**state, "error": self.serving.why_not_ready()}, 503

    def model_ready(self, version: str | None = None) -> Message:
        """Whether the model, or one version of it, is ready."""
        try:
            self.serving.get(version)
        except ServiceUnavailable as error:
            return {"name": self.serving.name, "ready": False, "error": error.description}, 503
        return {"name": self.serving.name, "ready": True}

    def metadata(self, version: str | None = None) -> Message:
        """The model's versions, tensors and the names of its columns if it has them, and the size limit of a request."""
        served = self.serving.get(version)
        return {
            "name": self.serving.name,
            "versions": [version] if version else self.serving.versions(),
            "platform": served.model.platform,
            "inputs": [_describe(spec) for spec in served.model.inputs],
            "outputs": [_describe(spec) for spec in served.model.outputs],
            "parameters": {**_about(served), "max_request_bytes": self.serving.settings.max_request_bytes},
        }

    def config(self, version: str | None = None) -> Message:
        """Triton's model configuration, as far as it applies; perf_analyzer reads it."""
        served = self.serving.get(version)
        row = sum(spec.dtype.itemsize * math.prod(map(abs, spec.shape[1:])) for spec in served.model.inputs)
        return {
            "name": self.serving.name,
            "platform": served.model.platform,
            "backend": "ruo",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": min(self.serving.settings.max_request_bytes // max(1, row), 2**31 - 1),
            "input": [_configure(spec) for spec in served.model.inputs],
            "output": [_configure(spec) for spec in served.model.outputs],
        }

    def stats(self, version: str | None = None) -> Message:
        """Triton's statistics, over all workers since the server's start."""
        served = self.serving.get(version)
        return {"model_stats": [_statistics(self.serving.name, served.version, self.serving.metrics.totals())]}

    def index(self) -> Message:
        """The models of this server; with `{"ready": true}` in the request, only those that are ready."""
        settings = self.serving.settings
        body = read_body(request.environ, min(1 << 16, settings.max_request_bytes), settings.body_timeout)
        message = loads(body) if len(body) else {}
        if not isinstance(message, dict) or not isinstance(message.get("ready", False), bool):
            raise WireError('The body must be empty or a JSON object; "ready" must be true or false.')
        ready = self.serving.ready_workers() > 0
        if message.get("ready") and not ready:
            return []
        reason = "" if ready else self.serving.why_not_ready()
        entry = {"name": self.serving.name, "state": "READY" if ready else "UNAVAILABLE", "reason": reason}
        return [{**entry, "version": version} for version in self.serving.versions() or [""]]

    def control(self) -> Message:
        """Refuse to load or unload by request: the model follows MODEL_PATH."""
        raise WireError("This server loads the model in MODEL_PATH; publish a version there instead.", 400)

    def model_v1(self, version: str | None = None) -> Message:
        """Whether the model is ready: KServe's answer and TensorFlow Serving's in one."""
        try:
            served = self.serving.get(version)
        except ServiceUnavailable as error:
            reason = error.description
            status = {"state": "LOADING", "status": {"error_code": "UNAVAILABLE", "error_message": reason}}
            return {"name": self.serving.name, "ready": False, "model_version_status": [status], "error": reason}, 503
        versions = [version] if version else self.serving.versions()
        status = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        statuses = [{"version": number, **status} for number in reversed(versions)]
        answer = {"name": self.serving.name, "ready": True, "model_version_status": statuses}
        headers = {"Ruo-Model-Version": served.version, "Ruo-Model-Sha256": served.sha256}
        return {**answer, "current_version": served.version, **_about(served)}, headers

    def metadata_v1(self, version: str | None = None) -> Message:
        """TensorFlow Serving's description of the model's tensors."""
        served = self.serving.get(version)
        signature = {
            "inputs": {spec.name: _tensor_info(spec) for spec in served.model.inputs},
            "outputs": {spec.name: _tensor_info(spec) for spec in served.model.outputs},
            "method_name": "tensorflow/serving/predict",
        }
        return {
            "model_spec": {"name": self.serving.name, "signature_name": "", "version": served.version},
            "metadata": {"signature_def": {"signature_def": {served.model.signature: signature}}},
        }

    def prometheus(self) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(
            self.serving.metrics.text(self.serving.slots.states()), content_type="text/plain; version=0.0.4"
        )


@cache
def openapi(settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    document: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text())
    del document["x-answers"]
    parameters, paths = document["components"]["parameters"], document["paths"]
    parameters["model"]["schema"]["enum"] = [settings.model_name]  # one object for all routes
    for path in [path for path in paths if path.startswith(("/v1/models/{model}", "/v2/models/{model}"))]:
        [(method, operation)] = paths[path].items()
        of_one = {"operationId": f"version_{operation['operationId']}", "parameters": [*parameters.values()]}
        of_one["summary"] = f"{operation['summary']}, of one version"
        paths[path.replace("{model}", "{model}/versions/{version}")] = {method: {**operation, **of_one}}
    if not settings.ruo_token:
        del document["security"]
    return document


def _about(served: Served) -> dict[str, Any]:
    """The fingerprint of the model, and the names of its columns where it has them."""
    return {"sha256": served.sha256, **({"features": served.model.features} if served.model.features else {})}


def _describe(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": list(spec.shape)}


def _configure(spec: TensorSpec) -> dict[str, Any]:
    # max_batch_size stands for the first dimension
    datatype = datatype_of(spec.dtype).replace("BYTES", "STRING")
    return {"name": spec.name, "data_type": f"TYPE_{datatype}", "dims": list(spec.shape[1:])}


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dtype = DATATYPES[datatype_of(spec.dtype)]
    dimensions = [{"size": str(size), "name": ""} for size in spec.shape]
    return {"name": spec.name, "dtype": dtype, "tensor_shape": {"dim": dimensions, "unknown_rank": False}}


def _statistics(model: str, version: str, totals: dict[str, float]) -> dict[str, Any]:
    # each part is a sum of stages; perf_analyzer reads those of the cache
    stages = {"success": Timing._fields, "queue": ["queue"], "cache_hit": [], "cache_miss": []}
    stages |= {"compute_input": ["decode"], "compute_infer": ["predict"], "compute_output": ["encode"]}
    count = int(totals["ruo_predict_seconds_count"])
    parts = {
        part: {"count": count if of else 0, "ns": int(1e9 * sum(totals[f"ruo_{stage}_seconds_sum"] for stage in of))}
        for part, of in stages.items()
    }
    parts["fail"] = {"count": int(totals["ruo_infer_failures_total"]), "ns": 0}
    counts = {"inference_count": int(totals["ruo_rows_total"]), "execution_count": count}
    return {"name": model, "version": version, **counts, "inference_stats": parts, "batch_stats": []}
