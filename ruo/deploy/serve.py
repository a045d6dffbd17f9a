"""What `ruo serve` needs beside a server on this machine: its port, and what to do with it."""

import errno
import json
import os
import socket
from contextlib import suppress
from functools import reduce
from typing import Any

from ruo.deploy.local import BACKLOG, LocalServer, fetch
from ruo.errors import DeploymentError, printable

_MOST_PORTS = 100
_MOST_VALUES = 256  # in an example that a person copies


def listen(host: str, port: int, takes_next: bool) -> socket.socket:
    """A socket that listens at the port; where it is in use, at the next free one if that is wanted."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _MOST_PORTS, 1 << 16) if takes_next else port + 1):
        try:
            return socket.create_server((host, candidate), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
                raise DeploymentError(f"{host}:{port} cannot be listened at: {reason}; name another.") from error
    raise DeploymentError(f"Port {port} is in use by {holder(port)}; name another one, or 0 for any that is free.")


def holder(port: int) -> str:
    """The process that listens at a port of this machine, as far as that can be told."""
    with suppress(ImportError):
        import psutil  # the extra `notebooks` brings it

        with suppress(psutil.Error, OSError):
            for connection in psutil.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                    command = " ".join(psutil.Process(connection.pid).cmdline())
                    return f"process {connection.pid} ({printable(command)[:60]})"
    return "another process"


def usage(server: LocalServer, token: str | None) -> str:
    """What is served, where, and what to type next."""
    name = os.environ.get("MODEL_NAME") or "model"
    answer = fetch(f"{server.url}/v2/models/{name}", headers={"Authorization": f"Bearer {token}"} if token else None)
    about: dict[str, Any] = json.loads(answer[1]) if answer and answer[0] == 200 else {}
    version = f" version {about['versions'][-1]}" if about.get("versions") else ""
    workers = "1 worker" if server.workers == 1 else f"{server.workers} workers"
    with_token = ' -H "Authorization: Bearer $RUO_TOKEN"' if token else ""
    lines = [
        f"{server.model}{version}, {workers}: {server.url}",
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
    if len(inputs) == 1:
        sizes = [max(1, size) for size in inputs[0]["shape"][1:]]
        zero: Any = {"BYTES": "", "BOOL": False}.get(inputs[0]["datatype"], 0)
        if reduce(lambda product, size: product * size, sizes, 1) <= _MOST_VALUES:
            row = reduce(lambda inner, size: [inner] * size, reversed(sizes), zero)
            body = json.dumps({"instances": [row]}, separators=(",", ":"))
            return f"/v1/models/{name}:predict -d '{body}'"
    return f"/v2/models/{name}"
