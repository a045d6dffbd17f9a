"""Logging: one line per request, as text, or as JSON with LOG_FORMAT=json."""

import json
import logging
import os
from typing import Any

from gunicorn.glogging import Logger

from ruo.errors import printable

REQUESTS = logging.getLogger("ruo.requests")
IS_JSON = os.environ.get("LOG_FORMAT", "").lower() == "json"


class LineFormatter(logging.Formatter):
    """A record on one line, whatever characters a client has put in it; the lines of an exception are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        record.msg, record.args = printable(record.getMessage()), None
        first, *exception = super().format(record).splitlines()
        return "\n  ".join([first, *map(printable, exception)])


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
        return json.dumps(entry, default=str)  # which, unlike orjson, takes any string


class ServerLogger(Logger):  # type: ignore[misc]  # gunicorn is not typed
    """Gunicorn's logger; the lines of the requests share its handlers and level."""

    def setup(self, cfg: Any) -> None:
        """Set handlers, formats and levels; Gunicorn calls it at its start and after each fork."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(JsonFormatter() if IS_JSON else LineFormatter(self.error_fmt, self.datefmt))
        for handler in self.access_log.handlers:
            handler.setFormatter(LineFormatter(self.access_fmt))
        REQUESTS.handlers = self.error_log.handlers
        REQUESTS.setLevel(self.error_log.level)
        REQUESTS.propagate = False


def as_json(line: bytes) -> bytes:
    """A line of others, such as TensorFlow, as JSON; a line that `JsonFormatter` has made stays."""
    if line.startswith(b'{"time": '):
        return line
    record = logging.makeLogRecord({"msg": line.decode(errors="replace").rstrip(), "levelname": "WARNING"})
    return JsonFormatter().format(record).encode() + b"\n"
