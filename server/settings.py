"""The settings of a server: every environment variable, its default and its meaning."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ruo.errors import SettingsError

_WORDS = {
    "keras_backend": ("tensorflow", "openvino"),
    "model_precision": ("f32", "bf16"),
    "log_level": ("debug", "info", "warning", "error", "critical"),
    "log_format": ("text", "json"),
}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """The settings of one server; each is the environment variable of the same name in capitals."""

    model_path: Path = Path("/app/model")  # a .keras or .h5 file, a SavedModel directory, or a folder of versions
    model_name: str = "model"  # its name in addresses
    model_sha256: str = ""  # if set, only the model with this fingerprint is loaded
    model_poll_seconds: float = 5.0  # how often to look for a new model; 0 looks once, at the start
    model_grace_seconds: float = 300.0  # how long a replaced version can still be requested by its number
    model_precision: str = "f32"  # bf16: OpenVINO computes in bfloat16, exact to two digits, faster on some CPUs
    model_modules: str = ""  # imported before a model is loaded, with RUO_TRUST_MODEL: names, with commas between them
    model_signature: str = ""  # of a SavedModel that has several
    ruo_trust_model: bool = False  # load .h5, SavedModel and Lambda layers too, which can run their author's code
    ruo_token: str = ""  # if set, every request except probes must carry it
    max_request_mb: float = 256.0  # the largest body, before and after decompression
    max_waiting: int = 32  # requests that may wait in one worker; more are refused at once
    max_waiting_mb: float = 1024.0  # the size of their bodies together
    request_timeout: float = 120.0  # seconds for one request to wait and compute
    body_timeout: float = 60.0  # seconds for one request's body to arrive
    cors_origins: str = ""  # of web pages that may ask, with commas between them, or *
    pod_name: str = ""  # sent in answers, so that a client can see which pod answered
    port: int = 8000  # to listen at, unless an option of Gunicorn says where
    web_concurrency: int = 0  # worker processes; 0 is one for each usable CPU
    worker_cores: int = 0  # CPUs that each worker has to itself; 0 shares all of them
    keras_backend: str = "tensorflow"  # what computes; openvino needs `pip install openvino scipy`
    log_level: str = "info"  # debug, info, warning (which omits the line for each request), error or critical
    log_format: str = "text"  # json writes one JSON object a line

    @property
    def max_request_bytes(self) -> int:
        """The largest body in bytes."""
        return int(self.max_request_mb * 2**20)

    @classmethod
    def read(cls, config: Mapping[str, Any] | None = None) -> Settings:
        """The settings from the environment, overridden by `config`; raises SettingsError."""
        given = {**os.environ, **(config or {})}
        values = {field.name: given.get(field.name.upper(), "") for field in fields(cls)}
        defaults = cls()
        settings = cls(**{name: _convert(name, value, getattr(defaults, name)) for name, value in values.items()})
        if settings.model_name == "stats" or set("/:") & set(settings.model_name):
            cure = 'give another, without / and :, and not "stats".'
            raise SettingsError(f"MODEL_NAME={settings.model_name!r} cannot be part of an address; {cure}")
        # a blank one, as of an empty file, would open the server to all
        token = settings.ruo_token
        if given.get("RUO_TOKEN") and not (token and token.isprintable()):
            raise SettingsError("RUO_TOKEN is blank or has line breaks or the like; give a token, or none at all.")
        if settings.model_modules and not settings.ruo_trust_model:
            raise SettingsError("MODEL_MODULES names code to run; set RUO_TRUST_MODEL=1 too, or leave it out.")
        return settings


def _convert(name: str, value: Any, default: Any) -> Any:
    """The value as the type of its default; an empty string is the default, as in docker's `-e NAME=`."""
    if isinstance(value, str) and not (value := value.strip()):  # a file's last line break is no part of a token
        return default
    words = (*_TRUE, *_FALSE) if isinstance(default, bool) else _WORDS.get(name, ())
    if words and (value := str(value).lower()) not in words:
        raise SettingsError(f"{name.upper()}={value!r} is not known; write {', '.join(words[:-1])} or {words[-1]}.")
    if isinstance(default, bool):
        return value in _TRUE
    if isinstance(default, (str, Path)):
        return type(default)(value)
    try:
        number = type(default)(value)
    except ValueError:
        number = -1
    if not 0 <= number < (65536 if name == "port" else math.inf):  # which NaN is not either
        kind = "whole number" if isinstance(default, int) else "number"
        bounds = "from 0 to 65535" if name == "port" else "of at least 0"
        raise SettingsError(f"{name.upper()}={value!r} must be a {kind} {bounds}; the default is {default}.")
    return number
