"""The log's lines."""

import json
import logging
import sys

import pytest

from server.logs import REQUESTS, JsonFormatter


@pytest.fixture
def lines(monkeypatch):
    """What the log of the requests gets."""
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append(record)

    monkeypatch.setattr(REQUESTS, "handlers", [Keep()])
    monkeypatch.setattr(REQUESTS, "propagate", False)
    yield records
    REQUESTS.setLevel(logging.NOTSET)


@pytest.mark.parametrize(("level", "expected"), [("WARNING", 0), ("INFO", 2), ("DEBUG", 4)])
def test_the_level_decides(client, rows, lines, level, expected):
    """At warning no request is in the log, at info those with a body, at debug the questions too."""
    REQUESTS.setLevel(level)
    for path in ("/v2/health/live", "/metrics"):
        client.get(path)
    client.post("/test", json=rows.tolist())
    client.post("/test", data=b"{")
    assert len(lines) == expected


def test_a_line_says_what_happened(client, rows, lines):
    """The line has the path, the status, the milliseconds and the sizes."""
    REQUESTS.setLevel("INFO")
    client.post("/test", data=b"no json")
    message = lines[0].getMessage()
    assert message.startswith("POST /test 400 in ")
    assert "7 bytes in" in message
    answer = client.post("/test", json=rows.tolist())
    assert f", {len(answer.data)} out (decode;dur=" in lines[1].getMessage()


def test_a_line_of_a_prediction_on_v2_says_the_same(client, rows, lines):
    """Its sizes and its times are in the line, whatever the protocol."""
    REQUESTS.setLevel("INFO")
    body = {"inputs": [{"name": "x", "shape": [1, 8], "datatype": "FP32", "data": rows[0].tolist()}]}
    answer = client.post("/v2/models/model/infer", json=body)
    message = lines[0].getMessage()
    assert message.startswith("POST /v2/models/model/infer 200 in ")
    assert f"{len(json.dumps(body))} bytes in, {len(answer.data)} out (decode;dur=" in message


def test_json_lines_have_fields_and_exceptions():
    """As JSON a line is one object, with the fields beside the message and an exception as text."""
    try:
        raise ValueError("inside")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "%s failed", ("it",), sys.exc_info())
    record.fields = {"status": 500}
    line = JsonFormatter().format(record)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["message"], entry["level"], entry["status"]) == ("it failed", "error", 500)
    assert "ValueError: inside" in entry["exception"]
