"""One chunk of rows to its predictions: split it where it is too large > try again > choose a server > send once."""

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import numpy as np

from ruo.client import discovery
from ruo.client.answers import chosen_output, most_bytes, predictions_of, read_server_timing, request_id
from ruo.client.event_loop import FORKED
from ruo.client.http import HttpClient
from ruo.client.options import ScoreOptions
from ruo.client.records import Answer, Chunk, ModelInfo, RequestRecord, TensorInfo, rows_named
from ruo.client.retry import GoneError, OverloadedError, RefusedError, RequestError, Retry
from ruo.client.servers import Server, Servers, model_address
from ruo.deploy import ServerAddress
from ruo.errors import ArgumentError, ScoringError, printable
from ruo.tables import Block, Table
from ruo.wire import ONLY, WIRES, InferRequest, WireError
from ruo.wire.messages import Array
from ruo.wire.v2 import TENSORS

T = TypeVar("T")

_log = logging.getLogger("ruo")
_processes: set[int] = set()  # that have scored, of which a forked process inherits its parent


class Client:
    """Sends chunks to one or several servers that hold the same model, while `http` and `servers` are open."""

    def __init__(self, urls: ServerAddress, options: ScoreOptions) -> None:
        _processes.add(os.getpid())
        if len(_processes) > 1:
            raise ScoringError(FORKED)
        self._bases, protocol, self._name, self._pinned, self._label = model_address(urls)
        self.wire = WIRES["v1" if protocol == "v1" and options.wire == "v2" else options.wire]
        if self._label and self.wire.name != "v1":
            raise ArgumentError(f'wire={options.wire!r} has no labels; name a version, or pass wire="v1".')
        self.model: ModelInfo
        self.on_overload: Callable[[], None] = lambda: None
        self.options = options
        is_authorized = any(name.lower() == "authorization" for name in options.headers or {})
        token = options.token or (None if is_authorized else os.environ.get("RUO_TOKEN"))
        # an empty path is ".", and not the system's certificates
        ca = None if options.ca is None else str(Path(options.ca))
        self.http = HttpClient(options.timeout, token, ca, options.headers)
        self.servers = Servers(self._bases, self.http)
        self._is_version_told = True  # by every answer so far
        self._has_answered = False
        self._most_rows = math.inf  # in a request, once the server has refused one as too large
        self._row_shape: tuple[int, ...] | None = None
        self._output = options.output or ONLY

    async def learn_model(self, stored_version: str | None, named: Iterable[str]) -> ModelInfo:
        """Ask for the model, of the version that earlier rows have if any; inputs not described are those `named`."""
        self.model = self._with_inputs(await self._ask_for_model(stored_version), list(named))
        if len(self.model.inputs) > 1 and not self.wire.has_models:
            raise ArgumentError(f"wire={self.wire.name!r} carries one input only; take another wire.")
        if self.wire.fallback and not await discovery.takes_binary(self._ask):
            self.wire = WIRES[self.wire.fallback]
        return self.model

    async def require_same_model(self) -> None:
        """Ask for the version once more where answers did not tell it; raises ScoringError if it has changed."""
        began = self.model
        if self._is_version_told or self._pinned or not began.version or self.options.allow_version_change:
            return
        for _ in range(self.servers.asks_of_all()):
            now = await self._describe(began.name)
            if (now.version, now.sha256) != (began.version, began.sha256):
                what = f"The model changed from {began.version_named()} to {now.version_named()} during the run"
                raise ScoringError(f"{what}, and no answer tells which gave it; score again, with a new checkpoint.")

    async def _ask_for_model(self, stored_version: str | None) -> ModelInfo:
        name = self._name or await discovery.only_model(self._ask)
        model = await self._describe(name, self._pinned, self._label)
        wanted = stored_version or model.version
        is_free = not self.wire.has_models or (self.options.allow_version_change and not self._label)
        for _ in range(0 if is_free or not wanted else self.servers.asks_of_all()):
            if self._pinned:
                break
            try:
                model = await self._describe(name, wanted)
                self._pinned = wanted
            except ScoringError as error:  # of several servers, another one may have the version
                if error.status not in discovery.NO_SUCH_ROUTE or self._label:
                    raise
        return model._replace(version=self._pinned or model.version)

    async def _describe(self, name: str, version: str = "", label: str = "") -> ModelInfo:
        if self.wire.has_metadata:
            return await discovery.learn_model(self._ask, name, version, self._output)
        return (await discovery.learn_version(self._ask, name, version, label))._replace(output_name=self._output)

    def _with_inputs(self, model: ModelInfo, named: list[str]) -> ModelInfo:
        """The model with the inputs that the options name, where the server does not describe them."""
        name, datatype = self.options.input_name, self.options.datatype
        if not model.inputs:
            if self.wire.has_metadata and not (name or named):
                what = f"The server does not describe the inputs of model {model.name!r}"
                raise ScoringError(f'{what}; name its input and datatype, as in input_name="predict", datatype="FP64".')
            datatype = datatype or ("FP32" if self.wire.has_metadata else "FP64")  # as text, every digit goes along
            return model._replace(inputs=tuple(TensorInfo(one, datatype) for one in named or [name or ONLY]))
        first = model.inputs[0]
        if name in (None, "", first.name) and datatype in (None, "", first.datatype):
            return model
        known = ", ".join(f"{tensor.name!r} in {tensor.datatype}" for tensor in model.inputs)
        what = f"Model {model.name!r} takes {known}, as its server says"
        raise ArgumentError(f"{what}; leave input_name and datatype out.")

    def addresses(self) -> list[str]:
        """The servers' addresses of this model, of the version that was asked for by its number if any."""
        path = f"/{self.wire.name[:2]}/models/{self._versioned()}" if self._pinned else ""
        return [base + path for base in self._bases]

    def _versioned(self) -> str:
        return f"{self.model.name}/versions/{self._pinned}" if self._pinned else self.model.name

    def dtypes(self) -> dict[str, np.dtype[Any]]:
        """The datatype of each input, by its name; FP32 for one that is not known."""
        return {tensor.name: TENSORS.get(tensor.datatype, TENSORS["FP32"]) for tensor in self.model.inputs}

    def bounds(self, table: Table) -> tuple[int, float]:
        """The bytes of a row, and the most of a request; 0 for rows that are to be sent as they are."""
        if not self.options.retries:
            return 0, math.inf
        row_bytes = sum(dtype.itemsize * len(table.inputs[name]) for name, dtype in self.dtypes().items())
        return row_bytes, self.model.max_request_bytes or math.inf

    def encode(self, block: Block) -> Chunk:
        """Encode rows in the model's datatypes; raises WireError where the wire cannot carry a value."""
        inputs = {tensor.name: _shaped(block.inputs[tensor.name], tensor) for tensor in self.model.inputs}
        outputs = {self.model.output_name: self.wire.is_binary} if self.model.output_name else None
        request = InferRequest(inputs, id=request_id(block.start, block.rows), outputs=outputs)
        return Chunk(block, self.wire.encode_request(request))

    async def send(self, chunk: Chunk) -> list[Answer]:
        """Send a chunk until it is answered or refused for good; there are several answers where it had to be split."""
        waiting, answers = [chunk], list[Answer]()
        while waiting:
            piece = waiting.pop()
            block = piece.block
            is_above = block.rows > self._most_rows or piece.body.size > (self.model.max_request_bytes or math.inf)
            if not is_above or block.rows == 1 or not self.options.retries:
                answer = await self._send_whole(piece)
                is_text = any(array.dtype == object for array in block.inputs.values())  # whose rows differ in length
                is_refused = answer.error is not None and answer.error.status == 413 and self.options.retries
                if not is_refused or (block.rows == 1 and is_text):
                    answers.append(answer)
                    continue
                if block.rows == 1:
                    rest, record = chunk.block.cut(block.start - chunk.block.start), answer.record
                    record.rows = rest.rows
                    error = _not_scored(record, f"a single one is too large. {answer.error}", 413)
                    return [*answers, Answer(record, None, error, rest.labels, rest.kept)]
                if not is_text:
                    self._most_rows = min(block.rows // 2, self._most_rows)
            half = (block.rows + 1) // 2
            _log.info("%s are too large for one request, and are halved.", rows_named(block.start, block.rows))
            waiting.extend(map(self.encode, (block.cut(half), block.cut(0, half))))
        return answers

    async def _send_whole(self, chunk: Chunk) -> Answer:
        block = chunk.block
        record = RequestRecord(block.start, block.rows, chunk.body.size)
        predictions = error = None
        try:
            predictions = await self._with_retries(partial(self._send_once, chunk, record), record)
        except ScoringError as failure:
            error = failure
        return Answer(record, predictions, error, block.labels, block.kept)

    async def _ask(self, method: str, path: str) -> Any:
        return await self._with_retries(lambda server: server.endpoint.ask_json(method, path), RequestRecord(0, 0, 0))

    async def _with_retries(self, attempt: Callable[[Server], Awaitable[T]], record: RequestRecord) -> T:
        repeats = 1 if record.rows else 0
        retry = Retry(self.options.retries, repeats, self._has_answered, dead_since=lambda: self.servers.dead_since)
        error = self.servers.last_failure
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
                what = rows_named(record.start, record.rows) if record.rows else "A question about the model"
                _log.info("%s: try %d failed. %s", what, record.attempts, printable(str(error)))
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
            if all(other is server for other in self.servers.available()):
                if (pause_s := retry.pause_s(error)) is None:
                    break
                _log.debug("%s: tried again in %.2f s.", what, pause_s)
                await asyncio.sleep(pause_s)
        reason = str(error)
        if record.attempts > 1:
            reason += f" (Tried {record.attempts} times in {time.monotonic() - retry.began:.1f} s.)"
        raise _not_scored(record, reason, error.status)

    async def _send_once(self, chunk: Chunk, record: RequestRecord, server: Server) -> Array:
        path = self.wire.path.format(model=self._versioned())
        limit = most_bytes(chunk.block.rows, self._row_shape or (self.model.output_shape or (-1,))[1:] or None)
        record.began_s = time.perf_counter()
        try:
            headers, body = await server.endpoint.ask("POST", path, chunk.body, limit)
        except RefusedError as error:
            if error.status != 404 or not self._pinned:
                raise
            began = f"The run began with version {self._pinned} of the model; score the table again."
            message = f"{str(error).rstrip('.')}. {began}"
            raise (GoneError if len(self.servers) > 1 else RefusedError)(message, 404) from None
        finally:
            record.seconds = time.perf_counter() - record.began_s
        record.status = 200
        try:
            answer = self.wire.decode_response(headers, body)
            if answer.model_name not in ("", self.model.name, unquote(self.model.name)):
                raise WireError(f"they are of another model, {answer.model_name!r:.60}")
            if not answer.id and server.endpoint.keeps_connections:
                raise WireError("it names no request, as earlier answers did")
            predictions = predictions_of(answer, chunk, self.model, self._row_shape)
        except WireError as error:
            reason = str(error).rstrip(".")
            raise RefusedError(f"{server.name}{path} did not answer with these predictions: {reason}.", 200) from None
        server.endpoint.keeps_connections = bool(answer.id)
        self._row_shape = predictions.shape[1:]
        self.model = self.model._replace(output_name=chosen_output(answer.outputs, self.model.output_name))
        told = [printable(headers.get(f"Ruo-{name}", "")) for name in ("Model-Version", "Model-Sha256", "Worker")]
        # the wires v1 and paper have no place for the version in the answer itself
        record.version, record.sha256, record.worker = answer.model_version or told[0], *told[1:]
        self._is_version_told &= bool(record.version)
        read_server_timing(headers.get("Server-Timing", ""), record)
        return predictions


def _shaped(features: Array, tensor: TensorInfo) -> Array:
    """Rows as the model takes them: those of a table are (rows, columns), images and single values are not."""
    return features.reshape(-1, *tensor.shape[1:]) if tensor.shape and tensor.width == features.shape[1] else features


def _not_scored(record: RequestRecord, reason: str, status: int | None) -> ScoringError:
    if not record.rows:  # a question about the model
        return ScoringError(reason, status=status)
    reason = f"{rows_named(record.start, record.rows)} {'was' if record.rows == 1 else 'were'} not scored: {reason}"
    return ScoringError(reason, record.start, record.start + record.rows, status)
