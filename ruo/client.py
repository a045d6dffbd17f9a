"""One chunk of rows to its predictions: with retries > choose a server > send once.

Every request takes a connection of its own. A kept-alive connection stays with the server process that accepted
it, so that some processes get several and others none; a new connection goes to whoever is free, and costs a
tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
import numpy as np

from ruo.errors import ScoringError
from ruo.wire import ONLY, WIRES, Encoded, InferRequest, Wire, WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import DATATYPES

__all__ = ["Answer", "Chunk", "Client", "ModelInfo", "RequestRecord"]

# Worth another try: the server is overloaded, restarting or not ready, or a proxy in front of it says so.
RETRY_STATUS = frozenset({429, 502, 503, 504})
_LONGEST_WAIT_S = 30.0  # between two tries, also where Retry-After asks for more


class ModelInfo(NamedTuple):
    """The model that answers: `platform` names its format; `input_shape` has -1 where a size is free."""

    name: str
    version: str
    platform: str
    input_name: str = ONLY
    input_datatype: str = "FP32"
    input_shape: tuple[int, ...] | None = None


@dataclass
class Chunk:
    """Rows `start` to `start + rows`, encoded and ready to send."""

    start: int
    rows: int
    body: Encoded


@dataclass
class RequestRecord:
    """What one chunk's request did: `began_s` on the clock of `time.perf_counter`, `seconds` of its last try.

    `server` is the address, `worker` the process or pod behind it; `decode_s`, `queue_s`, `predict_s` and `encode_s` are
    the server's own times, NaN where it tells none.
    """

    start: int
    rows: int
    bytes: int
    attempts: int = 0
    server: str = ""
    worker: str = ""
    version: str = ""
    status: int | None = None
    began_s: float = 0.0
    seconds: float = 0.0
    decode_s: float = float("nan")
    queue_s: float = float("nan")
    predict_s: float = float("nan")
    encode_s: float = float("nan")


class Answer(NamedTuple):
    """A chunk's predictions, (rows, ...), or the error that took their place."""

    record: RequestRecord
    predictions: Array | None
    error: ScoringError | None = None


class _RefusedError(Exception):
    """One try that failed; `again` says whether another may succeed, `wait_s` is the server's Retry-After."""

    def __init__(self, message: str, again: bool, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.again = again
        self.status = status
        self.wait_s = wait_s


@dataclass
class Client:
    """Sends chunks to one or several servers that hold the same model; use as an async context manager."""

    urls: Sequence[str]
    wire: Wire
    concurrency: int
    retries: int
    timeout: float
    token: str | None = field(repr=False, default=None)
    model: ModelInfo = field(default=ModelInfo("model", "", ""))

    def __post_init__(self) -> None:
        self._bases = [_base_and_model(url)[0] for url in self.urls]
        self._outstanding = dict.fromkeys(self._bases, 0)

    async def __aenter__(self) -> Self:
        headers = {"User-Agent": "ruo"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            headers=headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def learn_model(self) -> ModelInfo:
        """Ask for the model's metadata and keep it; the paper's wire has none, so nothing is asked there."""
        if self.wire.name == "paper":
            return self.model
        name = _base_and_model(self.urls[0])[1] or await self._only_model()
        if self.wire.name == "v1":
            self.model = ModelInfo(name, "", "")
            return self.model
        path = f"/v2/models/{name}"
        self.model = _model_info(
            name, await self._with_retries(lambda base: self._get_json(base + path), RequestRecord(0, 0, 0))
        )
        return self.model

    def encode(self, start: int, features: Array) -> Chunk:
        """Rows as the body of a request; raises WireError where the wire cannot carry a value."""
        shape = self.model.input_shape
        dtype = DATATYPES.get(self.model.input_datatype, DATATYPES["FP32"])
        array = features if features.dtype == dtype else features.astype(dtype)
        if shape is not None and len(shape) > 2 and -1 not in shape[1:] and np.prod(shape[1:]) == features.shape[1]:
            array = array.reshape(-1, *shape[1:])  # a CSV row is flat; the model may take an image
        body = self.wire.encode_request(InferRequest({self.model.input_name: array}))
        return Chunk(start, len(features), body)

    async def send(self, chunk: Chunk) -> Answer:
        """Send one chunk until it is answered or refused for good."""
        record = RequestRecord(chunk.start, chunk.rows, chunk.body.size)
        try:
            predictions = await self._with_retries(lambda base: self._send_once(base, chunk, record), record)
        except ScoringError as error:
            return Answer(record, None, error)
        return Answer(record, predictions)

    async def _with_retries(self, attempt: Any, record: RequestRecord) -> Any:
        began = time.perf_counter()
        while True:
            record.attempts += 1
            base = self._choose()
            self._outstanding[base] += 1
            record.server = base
            try:
                return await attempt(base)
            except _RefusedError as refusal:
                record.status = refusal.status
                if not refusal.again or record.attempts > self.retries:
                    raise self._give_up(refusal, record, time.perf_counter() - began) from None
                await asyncio.sleep(_back_off(record.attempts, refusal.wait_s))
            finally:
                self._outstanding[base] -= 1

    def _choose(self) -> str:
        return min(self._bases, key=lambda base: self._outstanding[base])

    async def _send_once(self, base: str, chunk: Chunk, record: RequestRecord) -> Array:
        url = base + self.wire.path.format(model=self.model.name)
        record.began_s = time.perf_counter()
        try:
            headers, body = await self._exchange("POST", url, chunk.body)
        finally:
            record.seconds = time.perf_counter() - record.began_s
        record.status = 200
        try:
            answer = self.wire.decode_response(headers, body)
            predictions = _float_rows(next(iter(answer.outputs.values())))
        except WireError as error:
            raise _RefusedError(f"{url} answered something else than predictions: {error}", again=False) from None
        if len(predictions) != chunk.rows:
            raise _RefusedError(f"{url} answered {len(predictions)} predictions for {chunk.rows} rows.", again=False)
        # the wires of V1 and of 2023 have no place for the version in the answer itself
        record.version = answer.model_version or headers.get("Ruo-Model-Version", "")
        record.worker = headers.get("Ruo-Worker", "")
        _read_server_timing(headers.get("Server-Timing", ""), record)
        return predictions

    async def _exchange(self, method: str, url: str, body: Encoded | None = None) -> tuple[Any, bytes]:
        """One request and its whole answer; every way in which it can fail is a `_RefusedError`."""
        data = None if body is None else _Body(body.buffers)
        try:
            async with self._session.request(method, url, data=data, headers=body and body.headers) as response:
                text = await response.read()
                if response.status != 200:
                    raise _refusal(response, text)
                return response.headers, text
        except TimeoutError:
            message = f"{url} gave no answer within {self.timeout:g} s; raise timeout, or send smaller chunks."
            raise _RefusedError(message, again=True) from None
        except aiohttp.ClientConnectorError as error:
            code = error.os_error.errno
            reason = os.strerror(code).lower() if code and code > 0 else str(error.os_error)
            message = f"Nothing answers at {url} ({reason}); start the server, or check the address."
            raise _RefusedError(message, again=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _RefusedError(
                f"The connection to {url} broke ({error or type(error).__name__}).", again=True
            ) from None

    async def _get_json(self, url: str, method: str = "GET") -> Any:
        _, body = await self._exchange(method, url)
        try:
            return _loads(body)
        except WireError:
            raise _RefusedError(
                f"{url} did not answer JSON; is it the address of a model server?", again=False
            ) from None

    async def _only_model(self) -> str:
        """The name of the only model a server has; "model" where the server keeps no list."""

        async def ask(base: str) -> str:
            try:
                index = await self._get_json(f"{base}/v2/repository/index", "POST")
            except _RefusedError as refusal:
                if refusal.status in (400, 404, 405, 501):
                    return "model"
                raise
            names = sorted({str(entry["name"]) for entry in index})
            if len(names) == 1:
                return names[0]
            raise _RefusedError(
                f"{base} serves {len(names)} models ({', '.join(names)}); name one: {base}/v2/models/NAME", again=False
            )

        return str(await self._with_retries(ask, RequestRecord(0, 0, 0)))

    def _give_up(self, refusal: _RefusedError, record: RequestRecord, seconds: float) -> ScoringError:
        message = str(refusal)
        if record.attempts > 1:
            message += f" (Tried {record.attempts} times in {seconds:.1f} s.)"
        if record.rows:
            message = f"Rows {record.start:,} to {record.start + record.rows - 1:,} were not scored: {message}"
        return ScoringError(message, record.start, record.start + record.rows, refusal.status)


class _Body(aiohttp.payload.Payload):
    """Buffers to be written one after the other, without being joined."""

    _autoclose = True

    def __init__(self, buffers: list[Any]) -> None:
        super().__init__(buffers)
        self._size = sum(memoryview(buffer).nbytes for buffer in buffers)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return b"".join(self._value).decode(encoding, errors)

    async def write(self, writer: aiohttp.abc.AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: aiohttp.abc.AbstractStreamWriter, content_length: int | None) -> None:
        for buffer in self._value:
            view = memoryview(buffer)
            for start in range(0, len(view), _WRITE_BYTES):
                await writer.write(view[start : start + _WRITE_BYTES])


# asyncio copies what the socket does not take at once, so a large body is offered piece by piece
_WRITE_BYTES = 1 << 18


def _loads(body: bytes) -> Any:
    from ruo.wire.jsontext import loads

    return loads(body)


def _base_and_model(url: str) -> tuple[str, str | None]:
    """A server's address and the model's name, from http://host:8000 or http://host:8000/v2/models/NAME."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ScoringError(f"{url!r} is not the address of a server; write it as http://host:8000.")
    base, found, model = url.rstrip("/").partition("/v2/models/")
    return base, (model.split("/")[0] or None) if found else None


def _model_info(name: str, about: Any) -> ModelInfo:
    try:
        (first, *others) = about["inputs"]
        info = ModelInfo(
            name,
            str((about.get("versions") or [""])[-1]),
            str(about.get("platform", "")),
            str(first["name"]),
            str(first["datatype"]),
            tuple(int(size) for size in first["shape"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ScoringError(f"The server's metadata of model {name!r} does not follow the V2 protocol.") from None
    if others:
        names = ", ".join(str(tensor["name"]) for tensor in about["inputs"])
        raise ScoringError(f"Model {name!r} takes {1 + len(others)} inputs ({names}); a table can fill only one.")
    return info


def _refusal(response: aiohttp.ClientResponse, text: bytes) -> _RefusedError:
    status = response.status
    try:
        sentence = str(_loads(text)["error"])
    except (WireError, KeyError, TypeError):
        sentence = text[:200].decode("utf-8", errors="replace").strip() or response.reason or "no reason given"
    message = f"{response.url} answered {status}: {sentence}"
    return _RefusedError(message, status in RETRY_STATUS, status, _retry_after(response.headers.get("Retry-After")))


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:  # it may also be a date, which asks for a clock that both sides share
        return None


def _back_off(attempt: int, asked_s: float | None) -> float:
    """Seconds to wait after the `attempt`-th failure: doubling from 0.1 s, spread so that clients part ways."""
    own = 0.1 * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  no secret hangs on it
    return min(_LONGEST_WAIT_S, max(own, asked_s or 0.0))


def _float_rows(array: Array) -> Array:
    """Predictions as float32 with at least two dimensions, (rows, outputs)."""
    if array.ndim == 0:
        raise WireError("the predictions are a single number.")
    rows = array.astype(np.float32, copy=False)
    return rows.reshape(-1, 1) if rows.ndim == 1 else rows


def _read_server_timing(header: str, record: RequestRecord) -> None:
    """`Server-Timing: decode;dur=1.2, predict;dur=3.4` (milliseconds; W3C, "Server Timing")."""
    for entry in header.split(","):
        name, _, duration = entry.strip().partition(";dur=")
        if duration and name in ("decode", "queue", "predict", "encode"):
            setattr(record, f"{name}_s", float(duration) / 1000)


def wire_named(name: str) -> Wire:
    """The wire of that name; raises ScoringError that lists the known ones."""
    if name not in WIRES:
        *most, last = WIRES
        raise ScoringError(f"wire={name!r} is not known; use {', '.join(most)} or {last}.")
    return WIRES[name]
