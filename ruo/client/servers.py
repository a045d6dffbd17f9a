"""Which server takes the next request: the one with the fewest outstanding, of those that are well.

A server that fails is left out for a while, twice as long each time, and comes back by one request that tries it.
A host name with several addresses (a headless Kubernetes Service) is several servers; the name is looked up again
every few seconds, so that replicas are taken up and left as they come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from ruo.client.http import Endpoint, proxy_of
from ruo.client.retry import AbsentError, RequestError, SilentError, back_off
from ruo.errors import ArgumentError

__all__ = ["Server", "Servers", "base_and_model"]

_LOOK_UP_S = 2.0
_FAILURES = 3  # in a row, before a server that still accepts connections is left out altogether


@dataclass(eq=False)
class Server:
    """One address: `name` stands in the records, `outstanding` counts its requests, `pause_until` is when to try it again."""

    name: str
    endpoint: Endpoint
    outstanding: int = 0
    sent: int = 0
    failures: int = 0
    failed_at: float = 0.0
    pause_until: float = 0.0
    is_left_out: bool = False
    is_gone: bool = False
    seconds_per_row: float = float("inf")


class Servers:
    """The servers that hold the model. `endpoint(url, address)` makes the way to one."""

    def __init__(self, urls: Sequence[str], endpoint: Callable[[str, str], Endpoint]) -> None:
        self._urls = list(dict.fromkeys(base_and_model(url)[0] for url in urls))
        self._endpoint = endpoint
        self._servers: dict[tuple[str, str], Server] = {}
        self._changed = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Look the names up, and go on doing so."""
        await self._look_up()
        if any(not _is_address(url) for url in self._urls):
            self._watch = asyncio.create_task(self._keep_looking_up())

    async def close(self) -> None:
        """Look no name up any more."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    def __len__(self) -> int:
        return sum(not server.is_gone for server in self._servers.values())

    async def take(self, until: float) -> Server | None:
        """The server for the next request; waits where none is well, and gives None at the time `until`."""
        while True:
            now = time.monotonic()
            server = self._choose(now)
            if server is not None:
                server.outstanding += 1
                server.sent += 1
                return server
            if now >= until:
                return None
            self._changed.clear()
            wake = min([until, *(server.pause_until for server in self._there() if not server.outstanding)])
            # not wait_for, which before Python 3.12 may lose a cancellation that comes as the event is set
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.001, wake - now)):
                    await self._changed.wait()

    def idle(self) -> Server | None:
        """A server that is well and has nothing to do; the fastest."""
        now = time.monotonic()
        free = [server for server in self._there() if not server.outstanding and server.pause_until <= now]
        return min(free, key=lambda server: server.seconds_per_row, default=None)

    def is_another_open(self, than: Server) -> bool:
        """Whether another server than this one is well."""
        now = time.monotonic()
        return any(server is not than and server.pause_until <= now for server in self._there())

    def answered(self, server: Server, rows: int, seconds: float) -> None:
        """The server answered: it is well."""
        server.failures, server.pause_until, server.is_left_out = 0, 0.0, False
        if rows:
            server.seconds_per_row = seconds / rows

    def failed(self, server: Server, error: RequestError, began: float) -> None:
        """A request that `began` then failed: leave the server out for a while, altogether where nobody listens."""
        if began >= server.failed_at:  # requests that were under way together fail together, and count once
            server.failures += 1
        server.failed_at = time.monotonic()
        server.pause_until = server.failed_at + back_off(server.failures, error.wait_s)
        server.is_left_out = isinstance(error, AbsentError | SilentError) or server.failures >= _FAILURES

    def release(self, server: Server) -> None:
        """The request is over, however it ended."""
        server.outstanding -= 1
        self._changed.set()

    def _there(self) -> list[Server]:
        return [server for server in self._servers.values() if not server.is_gone]

    def _choose(self, now: float) -> Server | None:
        there = self._there()
        # one that was left out is tried by one request at a time
        well = [s for s in there if s.pause_until <= now and not (s.is_left_out and s.outstanding)]
        # one that merely refused something is better than none
        able = well or [server for server in there if not server.is_left_out]
        return min(able, key=lambda server: (server.outstanding, server.sent), default=None)

    async def _keep_looking_up(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_UP_S)
            await self._look_up()

    async def _look_up(self) -> None:
        keys = []
        for url in self._urls:
            addresses = await _addresses(url) or [address for name, address in self._servers if name == url] or [""]
            keys += [(url, address) for address in addresses]
        for url, address in keys:
            if (url, address) not in self._servers:
                self._servers[url, address] = Server(_named(url, address), self._endpoint(url, address))
        for key, server in self._servers.items():
            server.is_gone = key not in keys
        self._changed.set()


def base_and_model(url: str) -> tuple[str, str | None]:
    """A server's address and the model's name, from http://host:8000 or http://host:8000/v2/models/NAME."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not _is_host(parts) or not url.isprintable():
        raise ArgumentError(f"{url!r} is not the address of a server; write it as http://host:8000.")
    if parts.username or parts.password:
        raise ArgumentError(f"The address of {parts.hostname} holds a user or password; pass a token instead.")
    base, _, model = url.rstrip("/").partition("/v2/models/")
    return base, model.split("/")[0] or None


def _is_host(parts: SplitResult) -> bool:
    """Whether an address has a host name that can stand in a request, and a port if any.

    127.1 and other short forms of an IP address are none: aiohttp takes them in full only.
    """
    try:
        parts.netloc.encode("idna")
        name, port = parts.hostname or "", parts.port
    except ValueError:  # UnicodeError is one
        return False
    is_short = name.replace(".", "").isdigit() and name.count(".") < 3
    return bool(name) and " " not in name and port != 0 and not is_short


async def _addresses(url: str) -> list[str]:
    """The addresses of a host that has several of a kind; an empty one for any other, since the system connects best.

    Nothing where the name is not known (any more): a name server that fails is no reason to leave a server.
    """
    if _is_address(url) or proxy_of(url):  # a proxy looks names up itself
        return [""]
    parts = urlsplit(url)
    try:
        infos = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    for family in (socket.AF_INET, socket.AF_INET6):
        addresses = sorted({str(info[4][0]) for info in infos if info[0] == family})
        if len(addresses) > 1:
            return addresses
        if addresses:
            break
    return [""]


def _is_address(url: str) -> bool:
    try:
        ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


def _named(url: str, address: str) -> str:
    if not address:
        return url
    parts = urlsplit(url)
    host = f"[{address}]" if ":" in address else address
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
