"""One chunk of rows to its predictions: split it where it is too large > try again > choose a server > send once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from ruo.client import discovery
from ruo.client.answers import most_bytes, predictions_of, read_server_timing, request_id
from ruo.client.http import Endpoint, HttpClient
from ruo.client.records import Answer, Chunk, ModelInfo, RequestRecord, rows_named
from ruo.client.retry import GoneError, OverloadedError, RefusedError, RequestError, Retry
from ruo.client.servers import Server, Servers, base_and_model
from ruo.errors import ArgumentError, ScoringError
from ruo.wire import WIRES, InferRequest, Wire, WireError
from ruo.wire.messages import Array

__all__ = ["Client", "wire_named"]

T = TypeVar("T")

_NOT_SCORED = " were not scored: "


class Client:
    """Sends chunks to one or several servers that hold the same model; an async context manager.

    Parameters
    ----------
    urls : sequence of str
        The servers' addresses.
    wire : Wire
        The protocol.
    retries : int
        How often a failed request is sent again at most.
    timeout : float
        The seconds that one try may take.
    token : str or None
        Sent as a bearer token.
    ca : str or None
        A file of certificate authorities in PEM form.
    pins_version : bool
        Whether to ask for one version of the model by its own address, where the server has one.

    Attributes
    ----------
    model : ModelInfo
        What `learn_model` learnt.
    """

    def __init__(
        self,
        urls: Sequence[str],
        wire: Wire,
        retries: int,
        timeout: float,
        token: str | None,
        ca: str | None,
        pins_version: bool,
    ) -> None:
        self.wire = wire
        self.model: ModelInfo
        self.on_overload: Callable[[], None] = lambda: None
        self._retries = retries
        self._pins_version = pins_version
        self._pinned = ""
        self._first_url = urls[0]
        self._http = HttpClient(timeout, token, ca, wire.has_request_id)
        self._servers = Servers(urls, partial(Endpoint, self._http))
        self._has_answered = False
        self._most_rows: int | None = None  # in a request, once the server has refused one as too large
        self._under_way: dict[int, RequestRecord] = {}
        self._row_shape: tuple[int, ...] | None = None

    async def __aenter__(self) -> Self:
        await self._http.open()
        try:
            await self._servers.open()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._servers.close()
        finally:
            await self._http.close()

    async def learn_model(self, version: str | None = None) -> ModelInfo:
        """Ask for the model's metadata, as far as the wire has any, and keep it.

        Parameters
        ----------
        version : str, optional
            The version that an earlier part of the run was scored with.
        """
        self.model = await self._ask_for_model(version)
        return self.model

    async def _ask_for_model(self, version: str | None) -> ModelInfo:
        if not self.wire.has_models:
            return ModelInfo("model", "", "")
        name = base_and_model(self._first_url)[1] or await discovery.only_model(self._ask)
        if not self.wire.has_metadata:
            return ModelInfo(name, "", "")
        model = await discovery.learn_model(self._ask, name)
        if self.wire.fallback and not await discovery.takes_binary(self._ask):
            self.wire = WIRES[self.wire.fallback]
        wanted = version or model.version
        pinned = await discovery.learn_version(self._ask, name, wanted) if self._pins_version and wanted else None
        self._pinned = wanted if pinned else ""
        return pinned or model

    @property
    def servers(self) -> int:
        """How many servers there are by now."""
        return len(self._servers)

    def encode(self, start: int, features: Array) -> Chunk:
        """Rows in the model's datatype as the body of a request; raises WireError where the wire cannot carry a value."""
        shape = self.model.input_shape
        if shape is not None and len(shape) > 2 and -1 not in shape[1:] and np.prod(shape[1:]) == features.shape[1]:
            features = features.reshape(-1, *shape[1:])  # a CSV row is flat; the model may take an image
        return self._chunk(start, features)

    def _chunk(self, start: int, array: Array) -> Chunk:
        outputs = {self.model.output_name: self.wire.is_binary} if self.model.output_name else None
        request = InferRequest({self.model.input_name: array}, id=request_id(start, len(array)), outputs=outputs)
        return Chunk(start, len(array), array, self.wire.encode_request(request))

    async def send(self, chunk: Chunk) -> list[Answer]:
        """Send one chunk until it is answered or refused for good: one answer, or several where it had to be split."""
        waiting, answers = deque([chunk]), []
        while waiting:
            piece = waiting.popleft()
            if not self._is_too_large(piece):
                answer = await self._send_whole(piece)
                if answer.error is None or answer.error.status != 413 or not self._retries:
                    answers.append(answer)
                    continue
                if piece.rows == 1:  # there is nothing to be had by halves
                    return [*answers, self._too_large(answer, chunk)]
                self._most_rows = min(piece.rows // 2, self._most_rows or piece.rows)
            waiting.extendleft(reversed(self._halves(piece)))
        return answers

    def is_straggling(self, start: int) -> bool:
        """Whether a server that has nothing to do would have done the chunk at `start` twice over by now."""
        record = self._under_way.get(start)
        idle = self._servers.idle()
        if record is None or idle is None or self._retries == 0:
            return False
        return time.perf_counter() - record.began_s > 2 * idle.seconds_per_row * record.rows

    def _is_too_large(self, chunk: Chunk) -> bool:
        if not self._retries:
            return False
        limit = self.model.max_request_bytes
        by_bytes = limit is not None and chunk.body.size > limit
        return chunk.rows > 1 and (by_bytes or (self._most_rows is not None and chunk.rows > self._most_rows))

    def _halves(self, chunk: Chunk) -> list[Chunk]:
        half = (chunk.rows + 1) // 2
        return [self._chunk(chunk.start + at, chunk.features[at : at + half]) for at in (0, half)]

    def _too_large(self, answer: Answer, chunk: Chunk) -> Answer:
        record, stop = answer.record, chunk.start + chunk.rows
        record.rows = stop - record.start
        reason = str(answer.error).partition(_NOT_SCORED)[2]
        message = f"{rows_named(record.start, record.rows)}{_NOT_SCORED}a single one is too large. {reason}"
        return Answer(record, None, ScoringError(message, record.start, stop, 413))

    async def _send_whole(self, chunk: Chunk) -> Answer:
        record = self._under_way[chunk.start] = RequestRecord(chunk.start, chunk.rows, chunk.body.size)
        try:
            predictions = await self._with_retries(lambda server: self._send_once(server, chunk, record), record)
        except ScoringError as error:
            return Answer(record, None, error)
        finally:
            self._under_way.pop(chunk.start, None)
        return Answer(record, predictions)

    async def _ask(self, method: str, path: str) -> Any:
        return await self._with_retries(lambda server: server.endpoint.ask_json(method, path), RequestRecord(0, 0, 0))

    async def _with_retries(self, attempt: Callable[[Server], Awaitable[T]], record: RequestRecord) -> T:
        retry = Retry(self._retries, 1 if record.rows else 0, self._has_answered)
        error = RequestError("No server is well.")
        while (server := await self._servers.take(retry.until)) is not None:
            record.attempts += 1
            record.server = server.name
            began = time.monotonic()
            try:
                answer = await attempt(server)
            except RequestError as failure:
                error = failure
                record.status = error.status
                self._note(server, error, began)
                if not retry.allows(error, len(self._servers)):
                    break
            else:
                self._has_answered = True
                self._servers.answered(server, record.rows, time.monotonic() - began)
                return answer
            finally:
                self._servers.release(server)
            if not self._servers.is_another_open(server):
                pause_s = retry.pause_s(error)
                if pause_s is None:
                    break
                await asyncio.sleep(pause_s)
        raise _not_scored(record, error, retry.seconds)

    def _note(self, server: Server, error: RequestError, began: float) -> None:
        if isinstance(error, OverloadedError):
            self.on_overload()
        if isinstance(error, RefusedError) and not isinstance(error, GoneError):
            self._servers.answered(server, 0, 0.0)  # it is the request that is at fault
        else:
            self._servers.failed(server, error, began)

    async def _send_once(self, server: Server, chunk: Chunk, record: RequestRecord) -> Array:
        path = self.wire.versioned_path if self._pinned and self.wire.versioned_path else self.wire.path
        path = path.format(model=self.model.name, version=self._pinned)
        limit = most_bytes(chunk.rows, self._row_shape or (self.model.output_shape or (-1,))[1:] or None)
        record.began_s = time.perf_counter()
        try:
            headers, body = await server.endpoint.ask("POST", path, chunk.body, limit)
        except RefusedError as error:
            raise self._gone(error) if error.status == 404 and self._pinned else error from None
        finally:
            record.seconds = time.perf_counter() - record.began_s
        record.status = 200
        try:
            answer = self.wire.decode_response(headers, body)
            predictions = predictions_of(answer, chunk, self.model, self._row_shape)
        except WireError as error:
            message = f"{server.name}{path} answered something else than these predictions: {str(error).rstrip('.')}."
            raise RefusedError(message, 200) from None
        self._row_shape = predictions.shape[1:]
        # the wires of V1 and of 2023 have no place for the version in the answer itself
        record.version = answer.model_version or headers.get("Ruo-Model-Version", "")
        record.worker = headers.get("Ruo-Worker", "")
        read_server_timing(headers.get("Server-Timing", ""), record)
        return predictions

    def _gone(self, error: RefusedError) -> RefusedError:
        """Another server may have the version of the model that this one has not, or no more."""
        message = f"{error} The run began with version {self._pinned} of the model; score the table again."
        return (GoneError if len(self._servers) > 1 else RefusedError)(message, error.status)


def _not_scored(record: RequestRecord, error: RequestError, seconds: float) -> ScoringError:
    message = str(error)
    if record.attempts > 1:
        message += f" (Tried {record.attempts} times in {seconds:.1f} s.)"
    if record.rows:
        message = f"{rows_named(record.start, record.rows)}{_NOT_SCORED}{message}"
    return ScoringError(message, record.start, record.start + record.rows, error.status)


def wire_named(name: str) -> Wire:
    """The wire of that name; raises ScoringError that lists the known ones."""
    if name not in WIRES:
        *most, last = WIRES
        raise ArgumentError(f"wire={name!r} is not known; use {', '.join(most)} or {last}.")
    return WIRES[name]
