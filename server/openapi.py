"""The OpenAPI description of the server, from openapi.yaml."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from server.settings import Settings


@cache
def describe(settings: Settings) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    document: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("openapi.yaml").read_text())
    del document["x-answers"]
    document["components"]["parameters"]["model"]["schema"]["enum"] = [settings.model_name]  # one object for all routes
    if not settings.ruo_token:
        del document["security"]
    return document
