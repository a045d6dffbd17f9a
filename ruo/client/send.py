"""One chunk of rows to its predictions: split it where it is too large > try again > choose a server > send once."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from ruo.client import discovery
from ruo.client.answers import predictions_of, read_server_timing, request_id
from ruo.client.http import RefusedError, Session
from ruo.client.records import Answer, Chunk, ModelInfo, RequestRecord, rows_named
from ruo.client.servers import Server, Servers, base_and_model
from ruo.errors import ArgumentError, ScoringError
from ruo.wire import WIRES, InferRequest, Wire, WireError
from ruo.wire.messages import Array

__all__ = ["Client", "wire_named"]

T = TypeVar("T")

_PATIENCE_S = 60.0  # a chunk is not tried again once its first failure is that long ago
_START_PATIENCE_S = 3.0  # for a server that has never answered: the address may be wrong
_LONGEST_PAUSE_S = 5.0  # of our own accord
_LONGEST_WAIT_S = 30.0  # between two tries, also where Retry-After asks for more


class Client:
    """Sends chunks to one or several servers that hold the same model; use as an async context manager.

    `pins_version`: ask for one version of the model by its own address, where the server has one.
    """

    def __init__(
        self, urls: Sequence[str], wire: Wire, retries: int, timeout: float, token: str | None, ca: str | None,
        pins_version: bool,
    ) -> None:  # fmt: skip
        self.wire = wire
        self.model = ModelInfo("model", "", "")
        self.on_overload: Callable[[], None] = lambda: None
        self._retries = retries
        self._pins_version = pins_version
        self._pinned = ""
        self._first_url = urls[0]
        self._servers = Servers(urls, lambda url, address: Session(url, address, timeout, token, ca))
        self._has_answered = False
        self._most_rows: int | None = None  # in a request, once the server has refused one as too large
        self._under_way: dict[int, RequestRecord] = {}
        self._last_refusal = RefusedError("No server is well.", again=True)
        self._row_shape: tuple[int, ...] | None = None

    async def __aenter__(self) -> Self:
        await self._servers.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._servers.close()

    async def learn_model(self, version: str | None = None) -> ModelInfo:
        """Ask for the model's metadata and keep it; `version`: the one that an earlier part of the run was scored with.

        The wire of 2023 has no metadata and V1 hardly any, so nothing is asked there.
        """
        name = base_and_model(self._first_url)[1]
        if self.wire.name == "paper":
            return self.model
        name = name or await discovery.only_model(self._ask)
        if self.wire.name == "v1":
            self.model = ModelInfo(name, "", "")
            return self.model
        self.model = await discovery.learn_model(self._ask, name)
        if self.wire.name == "v2" and not await discovery.takes_binary(self._ask):
            self.wire = WIRES["v2-json"]
        wanted = version or self.model.version
        if self._pins_version and wanted:
            pinned = await discovery.learn_version(self._ask, name, wanted)
            self.model, self._pinned = (pinned, wanted) if pinned else (self.model, "")
        return self.model

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
        outputs = {self.model.output_name: self.wire.name == "v2"} if self.model.output_name else None
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
                self._most_rows = piece.rows // 2
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
        message = (
            f"{rows_named(record.start, record.rows)} were not scored: a single one is too large. {self._last_refusal}"
        )
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
        return await self._with_retries(lambda server: server.session.ask_json(method, path), RequestRecord(0, 0, 0))

    async def _with_retries(self, attempt: Callable[[Server], Awaitable[T]], record: RequestRecord) -> T:
        began = time.monotonic()
        until = began + _PATIENCE_S
        # what costs a whole time-out, or is the same next time, is tried once more with each other server only
        in_vain, once_more = 0, 1 if record.rows else 0
        while (server := await self._servers.take(until)) is not None:
            record.attempts += 1
            record.server = server.name
            tried = time.monotonic()
            try:
                answer = await attempt(server)
            except RefusedError as refusal:
                self._last_refusal = refusal
                record.status = refusal.status
                self._note(server, refusal, tried)
                if record.attempts == 1:
                    until = time.monotonic() + _PATIENCE_S
                if refusal.absent and not self._has_answered:
                    until = min(until, began + _START_PATIENCE_S)
                in_vain += refusal.silent or self._is_elsewhere(refusal)
                if (
                    not (refusal.again or self._is_elsewhere(refusal))
                    or in_vain > max(once_more, len(self._servers) - 1)
                    or record.attempts > self._retries
                ):
                    break
            else:
                self._has_answered = True
                self._servers.answered(server, record.rows, time.monotonic() - tried)
                return answer
            finally:
                self._servers.release(server)
            if not self._servers.is_another_open(server):
                wait_s = _back_off(record.attempts, self._last_refusal.wait_s)
                if time.monotonic() + wait_s > until:
                    break
                await asyncio.sleep(wait_s)
        raise self._give_up(record, time.monotonic() - began)

    def _note(self, server: Server, refusal: RefusedError, tried: float) -> None:
        if refusal.status in (429, 503):
            self.on_overload()
        if refusal.again or self._is_elsewhere(refusal):
            self._servers.failed(server, refusal, tried)
        else:
            self._servers.answered(server, 0, 0.0)  # it is the request that is at fault

    def _is_elsewhere(self, refusal: RefusedError) -> bool:
        """Whether another server may have the version of the model that this one has not, or no more."""
        return refusal.status == 404 and bool(self._pinned) and len(self._servers) > 1

    async def _send_once(self, server: Server, chunk: Chunk, record: RequestRecord) -> Array:
        path = self.wire.versioned_path if self._pinned and self.wire.versioned_path else self.wire.path
        path = path.format(model=self.model.name, version=self._pinned)
        record.began_s = time.perf_counter()
        try:
            headers, body = await server.session.ask("POST", path, chunk.body)
        finally:
            record.seconds = time.perf_counter() - record.began_s
        record.status = 200
        try:
            answer = self.wire.decode_response(headers, body)
            predictions = predictions_of(answer, chunk, self.model)
            if predictions.shape[1:] != (self._row_shape or predictions.shape[1:]):
                raise WireError(f"each row has the shape {predictions.shape[1:]}, in earlier answers {self._row_shape}")
        except WireError as error:
            message = f"{server.name}{path} answered something else than these predictions: {str(error).rstrip('.')}."
            raise RefusedError(message, again=False, status=200) from None
        self._row_shape = predictions.shape[1:]
        # the wires of V1 and of 2023 have no place for the version in the answer itself
        record.version = answer.model_version or headers.get("Ruo-Model-Version", "")
        record.worker = headers.get("Ruo-Worker", "")
        read_server_timing(headers.get("Server-Timing", ""), record)
        return predictions

    def _give_up(self, record: RequestRecord, seconds: float) -> ScoringError:
        refusal = self._last_refusal
        message = str(refusal)
        if record.attempts > 1:
            message += f" (Tried {record.attempts} times in {seconds:.1f} s.)"
        if self._is_elsewhere(refusal) or (refusal.status == 404 and self._pinned):
            message += f" The run began with version {self._pinned} of the model; score the table again."
        if record.rows:
            message = f"{rows_named(record.start, record.rows)} were not scored: {message}"
        return ScoringError(message, record.start, record.start + record.rows, refusal.status)


def _back_off(attempt: int, asked_s: float | None) -> float:
    """Seconds to wait after the `attempt`-th failure: doubling from 0.1 s, spread so that clients part ways."""
    own = min(_LONGEST_PAUSE_S, 0.1 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)  # noqa: S311  no secret hangs on it
    return min(_LONGEST_WAIT_S, max(own, asked_s or 0.0))


def wire_named(name: str) -> Wire:
    """The wire of that name; raises ScoringError that lists the known ones."""
    if name not in WIRES:
        *most, last = WIRES
        raise ArgumentError(f"wire={name!r} is not known; use {', '.join(most)} or {last}.")
    return WIRES[name]
