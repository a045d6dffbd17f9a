"""The log's lines."""

import json
import logging
import os
import socket
import subprocess
import sys
import time

import pytest

from server.logs import REQUESTS, JsonFormatter, LineFormatter
from tests.server.asking import INFER, wait_for
from tests.server.serving import CONFIG, gunicorn


@pytest.mark.parametrize(("level", "expected"), [("WARNING", 0), ("INFO", 2), ("DEBUG", 4)])
def test_the_level_decides(client, rows, caplog, level, expected):
    """At warning no request is in the log, at info those with a body, at debug the questions too."""
    caplog.set_level(level, REQUESTS.name)
    for path in ("/v2/health/live", "/metrics"):
        client.get(path)
    client.post("/test", json=rows.tolist())
    client.post("/test", data=b"{")
    assert [record.name for record in caplog.records] == [REQUESTS.name] * expected


def test_a_line_says_what_happened(client, rows, caplog):
    """The line has the path, the status, the milliseconds, the sizes and the times, whatever the protocol."""
    caplog.set_level("INFO", REQUESTS.name)
    client.post("/test", data=b"no json")
    message = caplog.messages[0]
    assert message.startswith("POST /test 400 in ")
    assert "7 bytes in" in message
    tensor = {"name": "x", "shape": [1, 8], "datatype": "FP32", "data": rows[0].tolist()}
    for path, body in (("/test", rows.tolist()), (INFER, {"inputs": [tensor]})):
        answer = client.post(path, json=body)
        message = caplog.messages[-1]
        assert message.startswith(f"POST {path} 200 in ")
        assert f"{len(json.dumps(body))} bytes in, {len(answer.data)} out (decode;dur=" in message


@pytest.fixture
def record():
    """A record with an exception, and with characters in both that are not to be seen as they are."""
    try:
        raise ValueError("inside\n\x1b[31mFORGED")
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "%s failed", ("it\n\ud800",), sys.exc_info())
    record.fields = {"status": 500}
    return record


def test_json_lines_have_fields_and_exceptions(record):
    """As JSON a line is one object, with the fields beside the message and an exception as text."""
    line = JsonFormatter().format(record)
    entry = json.loads(line)
    assert line.isprintable()
    assert (entry["message"], entry["level"], entry["status"]) == ("it\n\ud800 failed", "error", 500)
    assert "ValueError: inside" in entry["exception"]


# as Gunicorn's master with a worker, and with its successor
WITH_WORKER = """
import os, runpy, sys
hooks = runpy.run_path(sys.argv[1])
if worker := os.fork():
    sys.exit(os.waitpid(worker, 0)[1])
os.write(2, (b"." * 99 + b"\\n") * 2500)
"""
REPLACED = """
import os, runpy, sys
hooks = runpy.run_path(sys.argv[1])
if os.fork():
    os._exit(0)
hooks["pre_exec"](None)
os.execv(sys.executable, [sys.executable, "-c", "import os, time; time.sleep(0.1); os.write(2, bytes(250_000))"])
"""


@pytest.mark.parametrize(("program", "path", "size"), [(WITH_WORKER, "/dev/full", 0), (REPLACED, "log", 250_000)])
def test_json_lines_hold_nobody_up(tmp_path, program, path, size):
    """Neither on a full disk, nor once the master that made them JSON has ended because another took its place."""
    with (tmp_path / path).open("wb") as log:
        command = [sys.executable, "-c", program, CONFIG]
        subprocess.run(command, stderr=log, env={**os.environ, "LOG_FORMAT": "json"}, timeout=10, check=True)
    wait_for(lambda: size in (0, (tmp_path / path).stat().st_size), 10)


def test_lines_of_text_show_what_cannot_be_printed(record):
    """As text a message is one line, and only indented lines of its exception follow."""
    first, *others = LineFormatter("%(levelname)s %(message)s").format(record).split("\n")
    assert first == r"ERROR it\n\ud800 failed"
    assert r"  \x1b[31mFORGED" in others
    assert all(line.startswith("  ") and line.isprintable() for line in others)


FORGED = ["/a%0a[2000-01-01]%20[1]%20[INFO]%20FORGED", "/a%1b[31mred", "/a%e2%80%a8b", "/%ff%0d%0aFORGED", "/a%00b"]


def test_nobody_writes_a_line_of_their_own(models):
    """Line breaks and escapes, in a path, a header or instead of a head, are shown as such in every line of the log."""
    options = ["--access-logfile=-", "--log-level=debug", "--access-logformat=ACCESS %(U)s %(a)s %({x-evil}i)s"]
    heads = [f"POST {path} HTTP/1.1\r\nHost: a\r\nX-Evil: \x9b31m\r\nContent-Length: 0\r\n\r\n" for path in FORGED]
    heads += ["GET /\x1b[31m\x9b HTTP/1.1\r\n\r\n", "\x1b[31m\n\nFORGED\r\n\r\n", "GET / HTTP/9.\x1b\r\n\r\n"]
    with gunicorn(models["mlp"], *options) as running:
        running.wait_until_ready(60)
        for head in heads:
            with socket.create_connection(("127.0.0.1", int(running.url.rsplit(":")[-1]))) as connection:
                connection.sendall(head.encode("latin-1"))
                assert b"application/json" in connection.recv(1000)
        time.sleep(0.2)
        text = running.log.read_bytes().decode()
    assert "ACCESS" in text
    assert "FORGED" in text
    assert not any(line.startswith(("[2000", "FORGED")) for line in text.splitlines())
    assert text.replace("\n", "").isprintable()
