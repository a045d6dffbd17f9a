"""One chunk of rows to its predictions: split it where it is too large > try again > choose a server > send once."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from ruo.client import discovery
from ruo.client.answers import chosen_output, most_bytes, predictions_of, read_server_timing, request_id
from ruo.client.http import Endpoint, HttpClient
from ruo.client.options import ScoreOptions
from ruo.client.records import Answer, Chunk, ModelInfo, RequestRecord, rows_named
from ruo.client.retry import GoneError, OverloadedError, RefusedError, RequestError, Retry
from ruo.client.servers import Server, Servers, base_and_model
from ruo.errors import ArgumentError, ScoringError
from ruo.wire import ONLY, WIRES, InferRequest, WireError
from ruo.wire.messages import Array

__all__ = ["Client"]

T = TypeVar("T")

_NOT_SCORED = " not scored: "


class Client:
    """Sends chunks to one or several servers that hold the same model; an async context manager."""

    def __init__(self, urls: Sequence[str], options: ScoreOptions) -> None:
        if options.wire not in WIRES:
            *most, last = WIRES
            raise ArgumentError(f"wire={options.wire!r} is not known; use {', '.join(most)} or {last}.")
        self.wire = WIRES[options.wire]
        self.model: ModelInfo
        self.on_overload: Callable[[], None] = lambda: None
        self._options = options
        self._first_url = urls[0]
        token = options.token or os.environ.get("RUO_TOKEN")
        ca = None if options.ca is None else os.fspath(options.ca)
        self._http = HttpClient(options.timeout, token, ca, self.wire.has_request_id)
        self.servers = Servers(urls, partial(Endpoint, self._http))
        self._pinned = ""  # the version that is asked for at its own address
        self._has_answered = False
        self._most_rows: int | None = None  # in a request, once the server has refused one as too large
        self._in_flight: dict[int, RequestRecord] = {}
        self._row_shape: tuple[int, ...] | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self._http.open()
            stack.push_async_callback(self._http.close)
            await self.servers.open()
            stack.push_async_callback(self.servers.close)
            self._close = stack.pop_all().aclose
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def learn_model(self, version: str | None = None) -> ModelInfo:
        """Ask for the model's metadata, of the `version` that earlier rows were scored with if any, and keep it."""
        self.model = await self._ask_for_model(version)
        return self.model

    async def _ask_for_model(self, version: str | None) -> ModelInfo:
        output = self._options.output or ONLY
        if not self.wire.has_models:
            return ModelInfo("model", "", "", output_name=output)
        name = base_and_model(self._first_url)[1] or await discovery.only_model(self._ask)
        if not self.wire.has_metadata:
            return ModelInfo(name, "", "", output_name=output)
        model = await discovery.learn_model(self._ask, name, output=output)
        if self.wire.fallback and not await discovery.takes_binary(self._ask):
            self.wire = WIRES[self.wire.fallback]
        wanted = version or model.version
        if self._options.allow_version_change or not wanted:
            return model
        try:
            pinned = await discovery.learn_model(self._ask, name, wanted, output)
        except ScoringError as error:
            if error.status in discovery.NO_SUCH_ROUTE:
                return model
            raise
        self._pinned = wanted
        return pinned._replace(version=wanted)

    def encode(self, start: int, features: Array) -> Chunk:
        """Encode rows in the model's datatype; raises WireError where the wire cannot carry a value."""
        shape = self.model.input_shape
        if shape is not None and len(shape) > 2 and -1 not in shape[1:] and np.prod(shape[1:]) == features.shape[1]:
            features = features.reshape(-1, *shape[1:])  # a CSV row is flat; the model may take an image
        return self._chunk(start, features)

    def _chunk(self, start: int, array: Array) -> Chunk:
        outputs = {self.model.output_name: self.wire.is_binary} if self.model.output_name else None
        request = InferRequest({self.model.input_name: array}, id=request_id(start, len(array)), outputs=outputs)
        return Chunk(start, len(array), array, self.wire.encode_request(request))

    async def send(self, chunk: Chunk) -> list[Answer]:
        """Send a chunk until it is answered or refused for good; there are several answers where it had to be split."""
        waiting, answers = deque([chunk]), []
        while waiting:
            piece = waiting.popleft()
            if not self._is_too_large(piece):
                answer = await self._send_whole(piece)
                if answer.error is None or answer.error.status != 413 or not self._options.retries:
                    answers.append(answer)
                    continue
                if piece.rows == 1:
                    return [*answers, self._too_large(answer, chunk)]
                self._most_rows = min(piece.rows // 2, self._most_rows or piece.rows)
            half = (piece.rows + 1) // 2
            waiting.extendleft(self._chunk(piece.start + at, piece.features[at : at + half]) for at in (half, 0))
        return answers

    def is_straggling(self, start: int) -> bool:
        """Whether an idle server could have scored the chunk at row `start` twice by now."""
        record = self._in_flight.get(start)
        idle = self.servers.idle()
        if record is None or idle is None or self._options.retries == 0:
            return False
        return time.perf_counter() - record.began_s > 2 * idle.seconds_per_row * record.rows

    def _is_too_large(self, chunk: Chunk) -> bool:
        if chunk.rows == 1 or not self._options.retries:
            return False
        most_rows, limit = self._most_rows, self.model.max_request_bytes
        return (limit is not None and chunk.body.size > limit) or (most_rows is not None and chunk.rows > most_rows)

    def _too_large(self, answer: Answer, chunk: Chunk) -> Answer:
        record = answer.record
        record.rows = chunk.start + chunk.rows - record.start
        reason = str(answer.error).partition(_NOT_SCORED)[2]
        return Answer(record, None, _not_scored(record, f"a single one is too large. {reason}", 413))

    async def _send_whole(self, chunk: Chunk) -> Answer:
        record = self._in_flight[chunk.start] = RequestRecord(chunk.start, chunk.rows, chunk.body.size)
        try:
            predictions = await self._with_retries(lambda server: self._send_once(server, chunk, record), record)
        except ScoringError as error:
            return Answer(record, None, error)
        finally:
            self._in_flight.pop(chunk.start, None)
        return Answer(record, predictions)

    async def _ask(self, method: str, path: str) -> Any:
        return await self._with_retries(lambda server: server.endpoint.ask_json(method, path), RequestRecord(0, 0, 0))

    async def _with_retries(self, attempt: Callable[[Server], Awaitable[T]], record: RequestRecord) -> T:
        retry = Retry(self._options.retries, 1 if record.rows else 0, self._has_answered)
        error = RequestError("No server is available.")
        while (server := await self.servers.take(retry.until)) is not None:
            record.attempts += 1
            record.server = server.name
            began = time.monotonic()
            try:
                answer = await attempt(server)
            except RequestError as failure:
                error = failure
                record.status = error.status
                if isinstance(error, OverloadedError):
                    self.on_overload()
                self.servers.failed(server, error, began)
                if not retry.allows(error, len(self.servers)):
                    break
            else:
                self._has_answered = True
                self.servers.answered(server)
                if record.rows:
                    server.seconds_per_row = (time.monotonic() - began) / record.rows
                return answer
            finally:
                self.servers.release(server)
            if not self.servers.is_another_available(server):
                pause_s = retry.pause_s(error)
                if pause_s is None:
                    break
                await asyncio.sleep(pause_s)
        tries = f" (Tried {record.attempts} times in {retry.seconds:.1f} s.)" if record.attempts > 1 else ""
        raise _not_scored(record, f"{error}{tries}", error.status)

    async def _send_once(self, server: Server, chunk: Chunk, record: RequestRecord) -> Array:
        path = self.wire.versioned_path if self._pinned and self.wire.versioned_path else self.wire.path
        path = path.format(model=self.model.name, version=self._pinned)
        limit = most_bytes(chunk.rows, self._row_shape or (self.model.output_shape or (-1,))[1:] or None)
        record.began_s = time.perf_counter()
        try:
            headers, body = await server.endpoint.ask("POST", path, chunk.body, limit)
        except RefusedError as error:
            if error.status != 404 or not self._pinned:
                raise
            message = f"{error} The run began with version {self._pinned} of the model; score the table again."
            raise (GoneError if len(self.servers) > 1 else RefusedError)(message, 404) from None
        finally:
            record.seconds = time.perf_counter() - record.began_s
        record.status = 200
        try:
            answer = self.wire.decode_response(headers, body)
            predictions = predictions_of(answer, chunk, self.model, self._row_shape)
        except WireError as error:
            reason = str(error).rstrip(".")
            raise RefusedError(f"{server.name}{path} did not answer with these predictions: {reason}.", 200) from None
        self._row_shape = predictions.shape[1:]
        self.model = self.model._replace(output_name=chosen_output(answer.outputs, self.model.output_name))
        # the wires v1 and paper have no place for the version in the answer itself
        record.version = answer.model_version or headers.get("Ruo-Model-Version", "")
        record.worker = headers.get("Ruo-Worker", "")
        read_server_timing(headers.get("Server-Timing", ""), record)
        return predictions


def _not_scored(record: RequestRecord, reason: str, status: int | None) -> ScoringError:
    if record.rows:
        verb = "was" if record.rows == 1 else "were"
        reason = f"{rows_named(record.start, record.rows)} {verb}{_NOT_SCORED}{reason}"
    return ScoringError(reason, record.start, record.start + record.rows, status)
