"""What `ruo serve` needs beside a server on this machine: its port, and what to do with it."""

import errno
import json
import math
import os
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ruo.deploy.local import BACKLOG, LocalServer, fetch
from ruo.errors import DeploymentError, count, in_a_line, printable

_MOST_PORTS = 100
_MOST_VALUES = 256  # in an example that a person copies


def listen(host: str, port: int, takes_next: bool) -> socket.socket:
    """A socket that listens at the port; where it is in use, at the next free one if that is wanted."""
    host = host or "127.0.0.1"  # an empty one, as of a variable that is not set, would be each of this machine's
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _MOST_PORTS, 1 << 16) if takes_next else port + 1):
        try:
            return socket.create_server((host, candidate), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = (error.strerror or in_a_line(error)).partition(" (while")[0]  # which names the address again
                raise DeploymentError(f"{host}:{port} cannot be listened at: {reason}; name another.") from error
    raise DeploymentError(f"Port {port} is in use by {holder(port)}; name another one, or 0 for any that is free.")


def holder(port: int) -> str:
    """The process that listens at a port of this machine, as far as that can be told."""
    with suppress(Exception):  # psutil, of the extra `notebooks`, is not there, or may not look, or too late
        import psutil

        listening = [each for each in psutil.net_connections("tcp") if each.status == "LISTEN"]
        pid = next(each.pid for each in listening if each.laddr.port == port and each.pid)
        return f"process {pid} ({printable(' '.join(psutil.Process(pid).cmdline()))[:60]})"
    return "another process"


def usage(server: LocalServer, token: str | None) -> str:
    """What is served, where, and what to type next."""
    name = quote(os.environ.get("MODEL_NAME") or "model", safe="")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    about: dict[str, Any] = json.loads(fetch(f"{server.url}/v2/models/{name}", headers=headers)[1] or b"{}")
    version = f" version {about['versions'][-1]}" if about.get("versions") else ""
    with_token = ' -H "Authorization: Bearer $RUO_TOKEN"' if token else ""
    lines = [
        f"{server.model}{version}, {count(server.workers, 'worker')}: {server.url}",
        "",
        f"  curl{with_token} {server.url}{_example(name, about.get('inputs', []))}",
        f"  ruo score TABLE.csv {server.url} -o predictions.csv",
        f"  ruo status {server.url} --watch",
        "",
        *(["Requests must carry the token; ruo takes it from the variable RUO_TOKEN."] if token else []),
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)


def _example(name: str, inputs: list[dict[str, Any]]) -> str:
    """A request for one row of zeros where that is short, or else for the model's description."""
    shape = [1, *(max(1, size) for size in inputs[0]["shape"][1:])] if len(inputs) == 1 else []
    if not shape or math.prod(shape) > _MOST_VALUES:
        return f"/v2/models/{name}"
    values: Any = {"BYTES": "", "BOOL": False}.get(inputs[0]["datatype"], 0)
    for size in reversed(shape):
        values = [values] * size
    body = json.dumps({"instances": values}, separators=(",", ":"))
    return f"/v1/models/{name}:predict -d '{body}'"
