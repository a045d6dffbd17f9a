"""Which server takes the next request: of those that are available, the one with the fewest outstanding.

A server that fails is left out for a while, twice as long each time, and comes back with one request that tries it. A
host name with several addresses (a headless Kubernetes Service) is several servers, looked up again every few seconds.
"""

import asyncio
import contextlib
import logging
import math
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Self

from yarl import URL

from ruo.arguments import require_types
from ruo.client.http import Endpoint, HttpClient, proxy_of
from ruo.client.retry import AbsentError, OverloadedError, RefusedError, RequestError, SilentError, back_off
from ruo.deploy import ServerAddress
from ruo.errors import ArgumentError, printable

_LOOK_UP_S = 2.0
_log = logging.getLogger("ruo")
# [TFS] "/v1/models/${MODEL_NAME}[/versions/${VERSION}|/labels/${LABEL}]:predict"
_V1 = re.compile(r"(.*?)/(v1)/models/([^/:]+)(?:/versions/([^/:]+)|/labels/([^/:]+))?(?::predict)?")
_V2 = re.compile(r"(.*?)/(v2)/models/([^/:]+)(?:/versions/([^/:]+))?()")
_FAILURES = 3  # in a row, before a server that still accepts connections is left out altogether


@dataclass(eq=False)
class Server:
    """One address: `name` stands in the records, `outstanding` counts its requests, `pause_until` is the next try."""

    name: str
    endpoint: Endpoint
    outstanding: int = 0
    sent: int = 0
    failures: int = 0
    failed_at: float = 0.0
    pause_until: float = 0.0
    is_left_out: bool = False
    seconds_per_row: float = float("inf")


class Servers:
    """The servers at `urls`, whose names are looked up now and then; an async context manager, while `http` is open."""

    def __init__(self, urls: Sequence[str], http: HttpClient) -> None:
        self._urls = urls
        self._http = http
        self._servers: dict[tuple[str, str], Server] = {}
        self._changed = asyncio.Event()
        self.dead_since = math.inf  # the first failure after the last answer of any server, be it that it is overloaded
        self.last_failure = RequestError("No server is available.")

    async def __aenter__(self) -> Self:
        await self._look_up()
        self._watch = asyncio.create_task(self._keep_looking_up())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._servers)

    async def take(self, until: float) -> Server | None:
        """The server for the next request; waits while none is available, and gives None at the time `until`."""
        while (server := self._choose()) is None:
            now = time.monotonic()
            if now >= until:
                return None
            self._changed.clear()
            wake = min([until, *(server.pause_until for server in self._servers.values() if not server.outstanding)])
            # not wait_for, which before Python 3.12 may lose a cancellation that comes as the event is set
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, wake - now)):
                    await self._changed.wait()
        server.outstanding += 1
        server.sent += 1
        return server

    def asks_of_all(self) -> int:
        """So many requests one after the other that each server gets one of them."""
        return 2 * len(self._servers) - 1

    def answered(self, server: Server) -> None:
        """Make a server that answered available again."""
        if server.is_left_out:
            _log.info("%s answers, and is taken back.", server.name)
        server.failures, server.pause_until, server.is_left_out = 0, 0.0, False
        self.dead_since = math.inf

    def failed(self, server: Server, error: RequestError, began: float) -> None:
        """Leave a server out for a while after a request that `began` then; altogether where nothing answers."""
        if isinstance(error, RefusedError):
            self.answered(server)  # the fault lies with the request
            return
        if began >= server.failed_at:  # requests that were in flight together fail together, and count once
            server.failures += 1
        server.failed_at = time.monotonic()
        lives = isinstance(error, OverloadedError) or server.outstanding > 1  # which may still be answered
        self.dead_since = math.inf if lives else min(self.dead_since, server.failed_at)
        self.last_failure = error
        server.pause_until = server.failed_at + back_off(server.failures, error.wait_s)
        is_left_out = isinstance(error, AbsentError | SilentError) or server.failures >= _FAILURES
        if is_left_out and not server.is_left_out:
            _log.info("%s is left out until it answers. %s", server.name, printable(str(error)))
        server.is_left_out = is_left_out

    def release(self, server: Server) -> None:
        """End a request that `take` began."""
        server.outstanding -= 1
        self._changed.set()

    def outstanding(self) -> int:
        """The requests in flight."""
        return sum(server.outstanding for server in self._servers.values())

    def available(self) -> list[Server]:
        """The servers that are not left out for a while."""
        now = time.monotonic()
        return [server for server in self._servers.values() if server.pause_until <= now]

    def _choose(self) -> Server | None:
        # a server that was left out is tried with one request at a time
        available = [s for s in self.available() if not (s.is_left_out and s.outstanding)]
        # a server that only asked for a pause is better than none
        candidates = available or [server for server in self._servers.values() if not server.is_left_out]
        return min(candidates, key=lambda server: (server.outstanding, server.sent), default=None)

    async def _keep_looking_up(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_UP_S)
            await self._look_up()

    async def _look_up(self) -> None:
        servers = {}
        for url in self._urls:
            # where the look-up fails, the known addresses stay, since the name server may be at fault
            addresses = await _addresses(url) or [address for name, address in self._servers if name == url] or [""]
            for address in addresses:
                name = str(URL(url).with_host(address)) if address else url
                known = self._servers.get((url, address))
                servers[url, address] = known or Server(name, Endpoint(self._http, url, address))
        self._servers = servers
        self._changed.set()


def model_address(servers: ServerAddress) -> tuple[list[str], str, str, str, str]:
    """The servers' own addresses, and the protocol, model, version and label that the addresses name, or "" for each."""
    urls: Any = getattr(servers, "urls", servers)
    require_types({"url": urls}, {"url": str | Sequence[str]})
    urls = [urls] if isinstance(urls, str) else urls
    if not len(urls):
        raise ArgumentError("No server is given; pass an address such as http://localhost:8000.")
    bases, *named = (list(dict.fromkeys(filter(None, parts))) for parts in zip(*map(_parts, urls), strict=True))
    for what, values in zip(("protocols", "models", "versions", "labels"), named, strict=True):
        if len(values) > 1:
            raise ArgumentError(f"The addresses name different {what}, {' and '.join(values)}; name one.")
    protocol, model, version, label = map("".join, named)
    if version and label:
        raise ArgumentError(f"The addresses name the version {version} and the label {label}; name one.")
    return bases, protocol, model, version, label


def _parts(url: str) -> tuple[str, ...]:
    """An address's base, protocol, model, version and label."""
    form = "write it as http://host:8000 or http://host:8000/v2/models/NAME"
    if "@" in url:  # it is not shown
        raise ArgumentError("The address of a server holds a user or password; pass a token instead.")
    if not _is_server(url):
        shown = repr(url.partition("?")[0]) + " with a query" * ("?" in url)  # which may hold a key
        raise ArgumentError(f"{shown} is not the address of a server; {form}.")
    match = _V1.fullmatch(url.rstrip("/")) or _V2.fullmatch(url.rstrip("/"))
    parts = match.groups(default="") if match else (url.rstrip("/"), "", "", "", "")
    if re.search(r"/v[12]/models(/|$)", parts[0]):
        raise ArgumentError(f"{url!r} is not the address of a model; {form}[/versions/VERSION].")
    return parts


def _is_server(url: str) -> bool:
    try:
        parts = URL(url)
        host = parts.raw_host or ""
        host.encode("idna")
    except ValueError:  # of which UnicodeError is a kind
        return False
    is_short = host.replace(".", "").isdigit() and host.count(".") < 3  # such as 127.1, which aiohttp does not take
    is_host = bool(host) and " " not in host and not is_short
    is_bare = not parts.raw_query_string and not parts.raw_fragment and url.isprintable()
    if parts.scheme == "unix":
        return is_bare and not host and len(parts.path) > 1
    return parts.scheme in ("http", "https") and is_host and is_bare and parts.port != 0


async def _addresses(url: str) -> list[str]:
    """A host's addresses where it has several of one family, otherwise [""] for any; [] where the look-up fails."""
    parts = URL(url)
    with contextlib.suppress(ValueError):
        ip_address(parts.raw_host or "")
        return [""]
    if parts.scheme == "unix" or proxy_of(url):  # which looks names up itself
        return [""]
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(parts.raw_host, parts.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    first = min((info[0] for info in infos), default=None)  # IPv4, where there is one
    addresses = sorted({str(info[4][0]) for info in infos if info[0] == first})
    return addresses if len(addresses) > 1 else [""]
