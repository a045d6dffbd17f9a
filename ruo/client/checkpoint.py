"""A file that keeps what was scored, so that an interrupted run resumes where it stopped. It is only appended to:

    ruo checkpoint 2
    the key: what the run scores, as JSON
    an entry: the record of its request, as JSON | its predictions, float32, little-endian, row by row
    ...

The key and the entries are framed alike: a mark, a CRC-32 of all that follows, and two lengths. An entry's checksum
continues the key's, so that an entry of another run does not count. An entry that does not match its checksum is skipped
and its rows are scored again; the entries after it are found by their marks.
"""

import asyncio
import bisect
import contextlib
import dataclasses
import math
import mmap
import os
import queue
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import orjson

from ruo.client.records import Answer, RequestRecord, difference
from ruo.errors import CheckpointError
from ruo.machine import lock
from ruo.wire.messages import Array

_MAGIC = b"ruo checkpoint 2\n"
_MARK = b"\nentry\n\0"
_FRAME = struct.Struct("<8sIQQ")  # mark, checksum, bytes of the JSON, bytes of the predictions
_LENGTHS = struct.Struct("<QQ")
_ELSE = "name another file, or delete this one to score all rows"


class Checkpoint:
    """The file at a path, open and locked during an `async with` block, whose end waits until all is on disk.

    One thread does all disk work. Raises CheckpointError for whatever is wrong with the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.key: dict[str, Any] | None = None  # what the run in the file scores; None for a new file
        self._path = Path(path)
        self._file: IO[bytes] | None = None
        self._entries: dict[int, tuple[RequestRecord, tuple[int, ...], int]] = {}  # shape and place of the predictions
        self._starts: list[int] = []
        self._key_checksum = 0
        self._row_shape: tuple[int, ...] | None = None
        self._waiting: queue.SimpleQueue[tuple[bytes, Array]] = queue.SimpleQueue()
        self._failure: OSError | None = None

    async def __aenter__(self) -> Self:
        self._thread = ThreadPoolExecutor(1, "ruo-checkpoint")
        try:
            await self._in_thread(self._open)
        except BaseException as error:
            await self.__aexit__(error)
            raise
        return self

    async def __aexit__(self, error: object, *_: object) -> None:
        closed = self._in_thread(self._close)
        self._thread.shutdown(wait=False)
        await asyncio.shield(closed)
        if error is None:
            self.require_written()

    async def begin(self, key: dict[str, Any]) -> None:
        """Write the key to a new file; raises CheckpointError if the file has another one."""
        if self.key is None:
            self.key = key
            frame = _pack(orjson.dumps(key), b"", 0)
            self._key_checksum = _FRAME.unpack_from(frame[0])[1]
            await self._in_thread(lambda: self._write(_MAGIC, *frame))
        elif what := difference(self.key, key):
            raise self._error(f"is of {what}; {_ELSE}")
        self.require_written()

    def chunk_rows(self, start: int, rows: int | None) -> int | None:
        """The rows of a chunk that begins at row `start`: those of an entry, or at most `rows`, up to the next entry."""
        if start in self._entries:
            return self._entries[start][0].rows
        place = bisect.bisect_right(self._starts, start)
        stop = self._starts[place] if place < len(self._starts) else None
        return rows if stop is None else min(stop - start, rows or stop)

    def stored(self, start: int, rows: int) -> Answer | None:
        """The answer for exactly these rows, None if there is none."""
        record, shape, offset = self._entries.get(start, (None, (), 0))
        if record is None or record.rows != rows:
            return None
        assert self._file is not None
        data = os.pread(self._file.fileno(), 4 * math.prod(shape), offset)
        if len(data) != 4 * math.prod(shape):
            raise self._error("was cut short while this run read it; score the table again")
        return Answer(record, np.frombuffer(data, "<f4").reshape(shape).astype(np.float32))

    def add(self, answer: Answer) -> None:
        """Store an answer that has predictions, without waiting for the disk."""
        assert answer.predictions is not None
        shape = answer.predictions.shape[1:]
        if shape != (self._row_shape or shape):
            raise self._error(f"has predictions of {self._row_shape} a row, the model answers {shape}; {_ELSE}")
        self._row_shape = shape
        head = orjson.dumps({**dataclasses.asdict(answer.record), "shape": answer.predictions.shape})
        self._waiting.put((head, answer.predictions))
        self._thread.submit(self._write)

    def require_written(self) -> None:
        """Raise CheckpointError if anything could not be written."""
        if self._failure is not None:
            raise self._error(f"cannot be written ({self._failure.strerror}); make room, or name another file")

    def _error(self, what: str) -> CheckpointError:
        return CheckpointError(f"The checkpoint {self._path} {what}.")

    def _in_thread(self, work: Callable[[], None]) -> asyncio.Future[None]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    # --- the methods below run in the thread

    def _open(self) -> None:
        try:
            self._file = self._path.open("a+b")
        except OSError as error:
            raise self._error(f"cannot be opened ({error.strerror or error}); name another file") from None
        if not lock(self._file.fileno()):
            raise self._error("is in use by another run; wait for its end, or name another file")
        if self._file.seek(0, os.SEEK_END):
            with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                self._read(data)

    def _close(self) -> None:
        self._write()
        if self._file is not None:
            with contextlib.suppress(OSError):  # `require_written` raised it already
                self._file.close()

    def _read(self, data: mmap.mmap) -> None:
        """Read the key and all intact entries."""
        begin = len(_MAGIC)
        if data[:begin] != _MAGIC[: len(data)]:
            raise self._error("is not one of this version of ruo; name another file")
        frame = _unpack(data, begin, 0)
        if frame is None:
            if data.find(_MARK, begin + len(_MARK)) < 0:  # a crash cut the key short, and nothing follows it
                return
            raise self._error("is damaged: its key cannot be read; delete it to score all rows")
        self.key, _, place, self._key_checksum = frame
        while (place := data.find(_MARK, place)) >= 0:
            if (frame := _unpack(data, place, self._key_checksum)) is None:
                place += len(_MARK)
                continue
            head, offset, place, _ = frame
            if entry := _entry(head, offset, place):
                self._entries[entry[0].start] = entry
                self._row_shape = entry[1][1:]
        self._starts = sorted(self._entries)

    def _write(self, *key: bytes | memoryview) -> None:
        """Write all waiting answers, and sync once; a `key` begins the file anew."""
        buffers = list(key)
        while not self._waiting.empty():
            head, predictions = self._waiting.get()
            data = np.ascontiguousarray(predictions, "<f4")
            buffers += _pack(head, data.data.cast("B") if data.size else b"", self._key_checksum)
        if buffers and self._file and self._failure is None:
            try:
                if key:
                    self._file.truncate(0)
                self._file.writelines(buffers)
                self._file.flush()
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failure = error


def _pack(head: bytes, data: bytes | memoryview, checksum: int) -> list[bytes | memoryview]:
    lengths = (len(head), len(data))
    for part in (_LENGTHS.pack(*lengths), head, data):
        checksum = zlib.crc32(part, checksum)
    return [_FRAME.pack(_MARK, checksum, *lengths), head, data]


def _unpack(data: mmap.mmap, place: int, checksum: int) -> tuple[dict[str, Any], int, int, int] | None:
    """The JSON of a frame, from where to where its predictions go, and its checksum; None if it is not as it was written."""
    begin = place + _FRAME.size
    mark, stored, *lengths = _FRAME.unpack_from(data, place) if begin <= len(data) else (b"", 0, 0, 0)
    offset, end = begin + lengths[0], begin + sum(lengths)
    if mark != _MARK or end > len(data):
        return None
    with memoryview(data) as view, view[begin - _LENGTHS.size : end] as covered:
        is_intact = zlib.crc32(covered, checksum) == stored
    return (orjson.loads(data[begin:offset]), offset, end, stored) if is_intact else None


def _entry(head: dict[str, Any], offset: int, end: int) -> tuple[RequestRecord, tuple[int, ...], int] | None:
    """The entry in a frame; None if it has other fields, as of another version of ruo, or does not fit its predictions."""
    known = {name: value for name, value in head.items() if value is not None}  # NaN is null in JSON
    with contextlib.suppress(IndexError, KeyError, TypeError):
        shape = tuple(known.pop("shape"))
        record = RequestRecord(**{**known, "resumed": True, "began_s": math.nan})
        if record.rows == shape[0] and 4 * math.prod(shape) == end - offset:
            return record, shape, offset
    return None
