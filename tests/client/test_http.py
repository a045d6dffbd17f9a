"""Requests and their answers over HTTP, against a server that runs a script for each connection."""

import asyncio
import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import psutil
import pytest

from ruo import ScoringError, ascore_csv, score_csv
from ruo.client.http import Endpoint, HttpClient, proxy_of
from ruo.client.retry import AbsentError, BrokenError, OverloadedError, RefusedError, RequestError, SilentError
from ruo.deploy.local import LocalServer
from ruo.errors import ArgumentError
from ruo.learn.demo import Demo
from ruo.wire import Encoded
from tests.client.conftest import Names, Scoring, Speak, read_request
from tests.conftest import ScriptedServer
from tests.proxy import Proxy

uvloop = pytest.importorskip("uvloop")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 22\r\n\r\n"
REASON = b'{"error": "too large"}'
RUNS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


def post(
    url, *bodies, run=asyncio.run, timeout_s=10.0, ca=None, keeps=True, address="", path="/", between=None, **how
) -> list[bytes]:
    """Post one body after the other to an endpoint, await `between` them, and return the bodies of the answers."""

    async def talk() -> list[bytes]:
        async with HttpClient(timeout_s, None, ca) as http:
            endpoint = Endpoint(http, url, address)
            endpoint.keeps_connections = keeps
            answers = []
            for body in bodies:
                answers.append((await endpoint.ask("POST", path, Encoded({}, [body]), **how))[1])
                if between:
                    await between()
            return answers

    return run(talk())


# ---- whole answers ----


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (OK, b"hi"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n", b"one two"),
        (b"HTTP/1.0 200 OK\r\n\r\nall until the end", b"all until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"hi"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000), bytes(3_000_000)),
    ],
)
@RUNS
def test_the_answer_is_whole(serving: Callable, run: Any, sent: bytes, body: bytes) -> None:
    """It ends by its length, by chunks, or with the connection; an interim response is skipped."""
    assert post(serving(sent).url, b"x", run=run) == [body]


@pytest.mark.parametrize(
    ("sent", "kind", "says"),
    [
        (b"404 Not Found\r\ncontent-length: 0\r\n\r\n", RefusedError, "404: Not Found"),
        (b'404 Not Found\r\nContent-Length: 15\r\n\r\n{"error":"why"}', RefusedError, "404: why"),
        (b"404 Not Found\r\nContent-Length: 8\r\n\r\nin  text", RefusedError, "404: in text"),
        (b"404 \r\nContent-Length: 0\r\n\r\n", RefusedError, "404: no reason given"),
        (b"204 No Content\r\n\r\n", RefusedError, "204: No Content"),
        (b"429 Slow Down\r\nContent-Length: 0\r\nretry-AFTER: 3\r\n\r\n", OverloadedError, "429: Slow Down"),
        (b"503 Busy\r\nContent-Length: 0\r\nRetry-After: 3\r\n\r\n", OverloadedError, "503: Busy"),
        (b"503 Busy\r\nContent-Length: 0\r\nRetry-After: -3\r\n\r\n", OverloadedError, "503: Busy"),
        (b"408 Late\r\nContent-Length: 0\r\n\r\n", SilentError, "408: Late"),
        (b"502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", BrokenError, "502: Bad Gateway"),
        (b"500 Oh\r\nContent-Length: 100\r\n\r\nno more", RefusedError, "500: no more"),
    ],
)
def test_a_refusal_has_its_status_and_reason(
    serving: Callable, sent: bytes, kind: type[RequestError], says: str
) -> None:
    """What the server says in JSON or in text, or else HTTP's own word; also where it breaks off. Retry-After is read."""
    with pytest.raises(kind, match=f"answered {says}$") as caught:
        post(serving(b"HTTP/1.1 " + sent).url, b"x")
    assert (type(caught.value), caught.value.status) == (kind, int(says[:3]))
    assert caught.value.wait_s == (None if kind is not OverloadedError else -3.0 if b": -3" in sent else 3.0)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 1 << 18, 3_000_001])
@RUNS
def test_the_body_arrives_as_it_was(serving: Callable, run: Any, size: int) -> None:
    """A body of any size is sent whole, with its length and the host's name."""
    server = serving(OK)
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)

    assert post(server.url, body, run=run, path="/v2/a b/ü") == [b"hi"]
    head, _, rest = server.requests[0].partition(b"\r\n\r\n")
    assert rest == body
    assert head.startswith(b"POST /v2/a%20b/%C3%BC HTTP/1.1\r\n")
    assert all(line.encode() in head for line in (f"Host: 127.0.0.1:{server.port}", f"Content-Length: {size}"))
    assert b"Transfer-Encoding" not in head


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\non",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: ten\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-x\r\n",
        bytes(range(256)) * 10,
    ],
)
@RUNS
def test_half_an_answer_is_none(serving: Callable, run: Any, sent: bytes) -> None:
    """An answer that breaks off or is not HTTP is a broken connection, and the request is not sent again."""
    server = serving(sent)
    with pytest.raises(BrokenError, match=rf"The connection to {server.url}/ broke \("):
        post(server.url, b"x", run=run)
    assert server.connections == 1


def test_what_was_not_asked_for_is_not_done(serving: Callable) -> None:
    """No cookie is sent back, no redirect is followed, and a compressed body is not unpacked."""
    cookie = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    redirect = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    with pytest.raises(RefusedError, match="answered in gzip, which was not asked for; let it, or the proxy before it"):
        post(serving(OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")).url, b"x")
    server = serving(cookie, cookie, redirect)
    with pytest.raises(RefusedError, match="answered 302, a redirect to /there; use that address"):
        post(server.url, b"x", b"x", b"x")
    assert len(server.requests) == 3
    assert not any(b"Cookie" in request for request in server.requests)
    assert all(b"Accept-Encoding: identity" in request for request in server.requests)


# ---- answers before the request is whole ----


def early(wait_s: float, *pieces: bytes) -> Speak:
    """Answer after the beginning of a request, and close the connection so much later."""

    def script(connection: socket.socket, number: int) -> None:
        connection.recv(300)
        for piece in pieces:
            connection.sendall(piece)
        time.sleep(wait_s)

    return script


EARLY = pytest.mark.parametrize(
    "script",
    [early(0, TOO_LARGE + REASON), early(0.005, TOO_LARGE, REASON), early(1, TOO_LARGE + REASON)],
    ids=["closed at once", "closed later", "left open"],
)


@EARLY
@pytest.mark.parametrize("size", [2 << 20, 16 << 20])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_answer_may_come_before_the_request_is_whole(
    serving: Callable, certificates: dict[str, Path], script: Speak, size: int, scheme: str
) -> None:
    """The refusal of a large body is read even where the server closes the connection without reading the body."""
    server = serving(script)
    if scheme == "https":
        server.encrypt(certificates)
    for _ in range(5):
        with pytest.raises(RefusedError, match="answered 413: too large"):
            post(f"{scheme}://localhost:{server.port}", bytes(size), ca=str(certificates["ca.pem"]))


@EARLY
def test_an_early_answer_under_uvloop(serving: Callable, script: Speak) -> None:
    """The refusal is read as well, except where uvloop sees the reset first; then the next try reads it."""
    server = serving(script)
    errors: list[RequestError] = []
    for _ in range(10):
        with pytest.raises(RequestError) as caught:
            post(server.url, bytes(4 << 20), run=uvloop.run)
        errors.append(caught.value)

    assert {type(error) for error in errors} <= {RefusedError, BrokenError}
    assert sum(error.status == 413 for error in errors) >= 7


# ---- kept connections ----


def test_small_requests_share_a_connection_and_large_ones_do_not(serving: Callable) -> None:
    """Small requests share a connection; a large one, and one on a wire without ids, get their own."""
    small, large = serving(OK, OK.replace(b"hi", b"ho"), *[OK] * 7), serving(*[OK] * 9)
    began = time.monotonic()
    heard = post(small.url, bytes(4), bytes(4), bytes(1000), bytes(4))
    assert heard == [b"hi", b"ho", b"hi", b"hi"] or small.connections > 1
    assert small.connections <= 1 + (time.monotonic() - began) // 0.25
    post(large.url, bytes(4), bytes(2 << 20), bytes(2 << 20), bytes(4))
    assert large.connections == 4
    without_ids = serving(*[OK] * 9)
    post(without_ids.url, b"x", b"x", b"x", keeps=False)
    assert without_ids.connections == 3


def test_a_connection_is_shared_for_a_moment_only(serving: Callable) -> None:
    """Requests in quick succession do not stay with one server process for ever."""
    server = serving(*[OK] * 100)
    began = time.monotonic()
    post(server.url, *[b"x"] * 30, between=partial(asyncio.sleep, 0.02))
    assert 2 <= server.connections <= 1 + (time.monotonic() - began) / 0.25


def _close_after_one(connection: socket.socket, number: int) -> None:
    read_request(connection)
    connection.sendall(OK)


def _close_on_the_second_request(connection: socket.socket, number: int) -> None:
    _close_after_one(connection, number)
    read_request(connection)


@pytest.mark.parametrize("script", [_close_after_one, _close_on_the_second_request])
@RUNS
def test_a_kept_connection_that_the_server_closes_is_no_failure(serving: Callable, run: Any, script: Speak) -> None:
    """The request is sent again on a new connection, once, which does not count as a retry; a new one that ends fails."""
    server = serving(script)
    assert post(server.url, b"x", b"x", b"x", run=run) == [b"hi"] * 3
    assert server.connections == 3
    once = serving(lambda connection, number: script(connection, number) if number == 1 else read_request(connection))
    with pytest.raises(BrokenError, match="closed it before its answer was complete"):
        post(once.url, b"x", b"x", run=run)
    assert once.connections == 2


@pytest.mark.parametrize("is_together", [True, False])
@RUNS
def test_unrequested_bytes_answer_no_request(serving: Callable, run: Any, is_together: bool) -> None:
    """A second answer to one request, with the first or a little later, ends the connection."""
    answered, sent = threading.Event(), threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        own = OK.replace(b"hi", b"%02d" % number)
        while read_request(connection):
            connection.sendall(own + OK if is_together else own)
            if not is_together:
                answered.wait(5)
                answered.clear()
                connection.sendall(OK)
            sent.set()

    async def between() -> None:
        answered.set()
        await asyncio.to_thread(sent.wait, 5)
        sent.clear()
        await asyncio.sleep(0.01)

    server = serving(script)
    assert post(server.url, b"x", b"x", b"x", run=run, between=between) == [b"01", b"02", b"03"]


# ---- bounds of time and memory ----


def _endless(head: bytes, piece: bytes, sent: list[int], wait_s: float = 0.0) -> Speak:
    """Answer with a head and one piece after the other, for ever; `sent` are the bytes of the pieces."""

    def script(connection: socket.socket, number: int) -> None:
        read_request(connection)
        connection.sendall(head)
        while True:
            time.sleep(wait_s)
            sent.append(connection.send(piece))

    return script


_drip = partial(_endless, sent=[], wait_s=0.02)
DRIPS = {
    "nothing": lambda connection, number: time.sleep(3),
    "a head byte by byte": _drip(b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "a body byte by byte": _drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "chunk by chunk": _drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "interim responses": _drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    "a refusal byte by byte": _drip(b"HTTP/1.1 400 Bad\r\nContent-Length: 1000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("name", DRIPS)
@pytest.mark.parametrize("size", [1, 16 << 20])
@RUNS
def test_a_try_has_its_time(serving: Callable, run: Any, name: str, size: int) -> None:
    """A server that has not finished its answer at the time-out is silent, whatever it has sent or read by then."""
    began = time.monotonic()
    with pytest.raises(SilentError, match=r"gave no answer within 0\.4 s; raise timeout, or send smaller chunks"):
        post(serving(DRIPS[name]).url, bytes(size), run=run, timeout_s=0.4)
    assert 0.4 <= time.monotonic() - began < 2


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
MANY = b"fffff\r\n" + bytes(0xFFFFF) + b"\r\n"
SHORT = b"".join(b"X-%d: y\r\n" % count for count in range(100_000))
NO_END = "not an answer in HTTP|before its answer was complete"
FLOODS = {
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", MANY, "answered more than 3,000,000"),
    "chunks": (b"HTTP/1.1 200 OK\r\n" + CHUNKED, MANY, "answered more than 3,000,000"),
    "no end": (b"HTTP/1.0 200 OK\r\n\r\n", MANY, "answered more than 3,000,000"),
    "a refusal": (b"HTTP/1.1 400 Bad\r\n" + CHUNKED, MANY, "answered 400: "),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", MANY, "not an answer in HTTP"),
    "headers": (b"HTTP/1.1 200 OK\r\n", SHORT, NO_END),
    "trailers": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"0\r\n", SHORT, NO_END),
}


@pytest.mark.parametrize("name", FLOODS)
@RUNS
def test_an_answer_that_is_too_long_is_refused(serving: Callable, run: Any, name: str) -> None:
    """It is refused long before it fills the memory, by its stated length or while it arrives; so are its headers."""
    head, piece, sentence = FLOODS[name]
    sent: list[int] = []
    with pytest.raises(BrokenError if "HTTP" in sentence else RefusedError, match=sentence):
        post(serving(_endless(head, piece, sent)).url, b"x", run=run, most_bytes=3_000_000)
    assert sum(sent) < 40_000_000


# ---- where to ----


@contextmanager
def deaf(port: int = 0) -> Iterator[str]:
    """An address that neither accepts nor refuses a connection, like that of a machine that is switched off."""
    with socket.socket() as listener, socket.socket() as one, socket.socket() as two:
        listener.bind(("127.0.0.9", port))
        listener.listen(0)
        for client in (one, two):  # the backlog is full then
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.9:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_where_nothing_listens_the_server_is_absent(gone: str) -> None:
    """An address that refuses, or does not react, is absent and not silent; the error has the reason."""
    with deaf() as url, pytest.raises(AbsentError, match=r"Nothing answers at .* \(no connection in time\)"):
        post(url, b"x", timeout_s=2.0)
    with pytest.raises(AbsentError, match=rf"Nothing answers at {gone}/ \(connection refused\); start"):
        post(gone, b"x")


def test_an_address_that_does_not_answer_costs_a_moment_once(serving: Callable, names: Names) -> None:
    """A host's addresses are tried one after the other without long waits, and the one that answers is remembered."""
    names.addresses = ["127.0.0.9", "127.0.0.1"]
    port = serving(*[OK] * 9).port
    with deaf(port):
        began = time.monotonic()
        assert post(f"http://ruo-headless.test:{port}", *[b"x"] * 20, keeps=False) == [b"hi"] * 20
        assert time.monotonic() - began < 1.5


def test_one_address_of_a_host(serving: Callable, certificates: dict[str, Path]) -> None:
    """The connection goes to that address; the Host header and the name in the certificate are the host's."""
    server = serving(OK, host="127.0.0.3")
    assert post(f"http://nowhere.test:{server.port}", b"x", address="127.0.0.3") == [b"hi"]
    server.encrypt(certificates)
    ca = str(certificates["ca.pem"])
    assert post(f"https://localhost:{server.port}", b"x", address="127.0.0.3", ca=ca) == [b"hi"]
    with pytest.raises(RefusedError, match="cannot be trusted"):
        post(f"https://nowhere.test:{server.port}", b"x", address="127.0.0.3", ca=ca)

    assert f"Host: nowhere.test:{server.port}".encode() in server.requests[0]
    assert f"Host: localhost:{server.port}".encode() in server.requests[1]


def test_the_environments_proxy_is_used(serving: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go through HTTP_PROXY except to the hosts in NO_PROXY; an absent proxy is named."""
    proxy, server = serving(OK), serving(OK)
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1,::1,three.test:8000")
    assert post("http://model.test:8000/v2", b"x") == [b"hi"]
    assert [proxy_of(f"http://{host}:8000") for host in ("[::1]", "[::2]", "three.test")] == [None, proxy.url, None]
    assert proxy.requests[0].startswith(b"POST http://model.test:8000/v2/ HTTP/1.1\r\n")
    assert b"Host: model.test:8000" in proxy.requests[0]
    assert post(server.url, b"x") == [b"hi"]
    assert (proxy.connections, server.connections) == (1, 1)

    proxy.close()
    for address, name in ((proxy.url, "127.0.0.1"), ("no-proxy.invalid:3128", "no-proxy.invalid")):
        monkeypatch.setenv("http_proxy", address)
        with pytest.raises(AbsentError, match=rf"The proxy {name} on the way to http://model.test.*NO_PROXY"):
            post("http://model.test:8000", b"x")


def test_a_proxy_that_refuses_is_named(serving: Callable, small_csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says of the way to a server is not what the server says of its models."""
    monkeypatch.setenv("https_proxy", serving(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").url)
    with pytest.raises(ScoringError, match=r"^The proxy on the way to https://model\.test.* answered 403: Forbidden"):
        score_csv(small_csv, "https://model.test")


def test_too_many_open_files_are_said(serving: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is not blamed, and the request is tried again."""
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.setattr("ruo.client.http._Socket", Mock(side_effect=error))
    with pytest.raises(OverloadedError, match=r"No connection .* \(too many open files\); lower concurrency, or raise"):
        post(serving(OK).url, b"x")


@pytest.mark.parametrize(
    "proxy",
    [":::", "http://u:secret@host:x", "http://[secret", "http://host:99999", "http://host:0", "socks5://host:9"],
)
def test_what_is_no_proxy_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """The error names the variable, and not its value, which may hold a password."""
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ArgumentError, match="^HTTP_PROXY is not the address of an HTTP proxy") as caught:
        post("http://model.test:8000", b"x")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["a\r\nX-Evil: y", "a b", "ü", "a#b", "a?b"])
def test_a_name_in_a_path_stays_in_it(serving: Callable, name: str) -> None:
    """A model's name with line breaks, spaces or other letters is quoted."""
    server = serving(OK)
    post(server.url, b"x", path=f"/v2/models/{name}/infer")

    assert re.fullmatch(rb"POST /v2/models/[a-zA-Z0-9%:-]+/infer HTTP/1.1", server.requests[0].split(b"\r\n")[0])
    assert b"\nX-Evil" not in server.requests[0]


# ---- whole runs ----


def test_a_run_works_under_uvloop(demo: Demo, server: LocalServer, demo_scores: Scoring, expected: np.ndarray) -> None:
    """It works with uvloop's `run`, and in a separate thread where uvloop's policy is set."""
    scores = uvloop.run(ascore_csv(demo.testset, server.url, chunk_size=100))
    np.testing.assert_allclose(scores.predictions, expected, atol=1e-5)

    before = asyncio.get_event_loop_policy()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    try:
        demo_scores()
    finally:
        asyncio.set_event_loop_policy(before)


@pytest.mark.parametrize(("wire", "shares"), [("v2", True), ("v2-json", True), ("v1", False), ("paper", False)])
def test_wires_with_ids_share_connections(server: LocalServer, demo_scores: Scoring, wire: str, shares: bool) -> None:
    """On other wires an answer to another request could not be noticed."""
    with Proxy(server.url) as proxy:
        demo_scores(url=proxy.url, chunk_size=50, wire=wire, concurrency=2)

    assert (proxy.connections < 45) == shares


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [asyncio.run, pytest.param(uvloop.run, marks=pytest.mark.soak)], ids=["asyncio", "uvloop"]
)
def test_nothing_is_left_behind(small_csv: Path, serving: Callable, well: ScriptedServer, gone: str, run: Any) -> None:
    """200 runs, some of which fail, leave no open socket and no task."""
    hanging = serving(DRIPS["a body byte by byte"]).url
    ports = {int(url.rpartition(":")[2]) for url in (well.url, hanging, gone)}

    async def runs() -> tuple[int, int]:
        for number in range(200):
            url = {0: hanging, 1: gone}.get(number % 40, well.url)
            with suppress(ScoringError):
                await ascore_csv(small_csv, url, chunk_size=4, retries=0, timeout=0.2 if url == hanging else 5)
        await asyncio.sleep(0.01)  # what was cancelled ends in the next turn of the loop
        left = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port in ports]
        return len(asyncio.all_tasks()), len(left)

    assert run(runs()) == (1, 0)
