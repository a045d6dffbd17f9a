"""Logging: one line per request, as text, or as JSON with LOG_FORMAT=json."""

from __future__ import annotations

import logging
import os
from typing import Any

import orjson
from gunicorn.glogging import Logger

REQUESTS = logging.getLogger("ruo.requests")


class JsonFormatter(logging.Formatter):
    """A record as one JSON object, together with the fields of `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


class ServerLogger(Logger):  # type: ignore[misc]  # gunicorn is not typed
    """Gunicorn's logger; the lines of the requests share its handlers and level."""

    def setup(self, cfg: Any) -> None:
        """Set handlers, formats and levels; Gunicorn calls it at its start and after each fork."""
        super().setup(cfg)
        if os.environ.get("LOG_FORMAT", "").lower() == "json":
            for handler in self.error_log.handlers:
                handler.setFormatter(JsonFormatter())
        REQUESTS.handlers = self.error_log.handlers
        REQUESTS.setLevel(self.error_log.level)
        REQUESTS.propagate = False
