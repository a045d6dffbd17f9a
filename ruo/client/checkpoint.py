"""A file that keeps what was scored, so that a run that ended early goes on where it stopped.

It is only ever appended to, and every entry reaches the disk before long (a thread writes and syncs what has gathered):

    ruo checkpoint 1
    {"data": ..., "model": ..., ...}                                  what the run is of: the key
    {"start": 0, "rows": 10000, ..., "size": 400000, "crc": 123}      an entry's head
    <the predictions, float32, little-endian, row by row>
    ...

An entry that was cut short by a crash is found by its length or its checksum, and left out.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import os
import queue
import threading
import zlib
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
import orjson

from ruo.client.records import Answer, RequestRecord
from ruo.errors import CheckpointError
from ruo.wire.messages import Array

__all__ = ["Checkpoint"]

_MAGIC = b"ruo checkpoint 1\n"
_WHAT = {
    "data": "other data",
    "shard": "another part of the data",
    "model": "another model",
    "version": "another version of the model",
    "sha256": "another model file",
    "label_prefix": "another label_prefix",
    "chunk_size": "another chunk_size",
    "wire": "another wire",
}


class _Entry(NamedTuple):
    record: RequestRecord
    shape: tuple[int, ...]
    offset: int
    size: int


class Checkpoint:
    """The file at `path`, open and locked; use as a context manager. Raises CheckpointError where that cannot be."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._entries: dict[int, _Entry] = {}
        self._starts: list[int] = []
        self._queue: queue.SimpleQueue[tuple[bytes, Array] | None] = queue.SimpleQueue()
        self._failure: OSError | None = None
        self.key: dict[str, Any] | None = None  # None: the file is new

    def __enter__(self) -> Self:
        try:
            self._file: IO[bytes] = self._path.open("a+b")
        except OSError as error:
            raise CheckpointError(f"The checkpoint {self._path} cannot be opened ({error.strerror}).") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        self._writer = threading.Thread(target=self._write, name="ruo-checkpoint")
        self._writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._writer.join()
        with contextlib.suppress(OSError):  # what could not be written was told by `add` and `finish`
            self._file.close()

    def begin(self, key: dict[str, Any]) -> None:
        """Write down what the run is of, or compare it with what the file is of; raises CheckpointError where they differ."""
        if self.key is None:
            self.key = key
            self._file.write(_MAGIC + orjson.dumps(key) + b"\n")
            self._sync()
            return
        for name, value in key.items():
            if self.key.get(name) != value:
                raise CheckpointError(
                    f"The checkpoint {self._path} is of {_WHAT[name]} ({_short(self.key.get(name))}, now {_short(value)}); "
                    "name another file, or delete this one to score all rows anew."
                )

    def stored_rows(self, start: int) -> int | None:
        """How many rows from `start` on are stored together, None where that row is to be scored."""
        entry = self._entries.get(start)
        return None if entry is None else entry.record.rows

    def next_stored(self, start: int) -> int | None:
        """The first row behind `start` from which on rows are stored."""
        place = bisect.bisect_right(self._starts, start)
        return self._starts[place] if place < len(self._starts) else None

    def stored(self, start: int) -> Answer:
        """The answer that was stored for the rows from `start` on."""
        entry = self._entries[start]
        data = os.pread(self._file.fileno(), entry.size, entry.offset)
        return Answer(entry.record, np.frombuffer(data, "<f4").reshape(entry.shape).astype(np.float32))

    def add(self, answer: Answer) -> None:
        """Store an answer that has predictions; raises CheckpointError where earlier ones could not be written."""
        self._raise_failure()
        assert answer.predictions is not None
        record = dataclasses.asdict(answer.record)
        predictions = np.ascontiguousarray(answer.predictions, "<f4")
        data = predictions.data.cast("B") if predictions.size else b""
        head = {**record, "shape": predictions.shape, "size": predictions.nbytes, "crc": zlib.crc32(data)}
        self._queue.put((orjson.dumps(head) + b"\n", predictions))

    def finish(self) -> None:
        """Wait until everything is on the disk; raises CheckpointError where it cannot be."""
        self._queue.put(None)
        self._writer.join()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise CheckpointError(f"The checkpoint {self._path} cannot be written ({self._failure.strerror}).")

    def _lock(self) -> None:
        try:
            import fcntl
        except ModuleNotFoundError:
            raise CheckpointError("Checkpoints need file locks as Linux and macOS have them.") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"The checkpoint {self._path} is in use by another run; wait for its end, or name another file."
            ) from None

    def _read(self) -> None:
        """Find the entries, and cut off what a crash left unfinished."""
        self._file.seek(0)
        first = self._file.readline(len(_MAGIC) + 1)
        if not first or (first != _MAGIC and _MAGIC.startswith(first)):
            self._file.truncate(0)
            return
        if first != _MAGIC:
            raise CheckpointError(f"{self._path} is not a checkpoint of ruo; name another file.")
        key = self._file.readline()
        if not key.endswith(b"\n"):
            self._file.truncate(0)
            return
        self.key = orjson.loads(key)
        end = self._file.tell()
        while (entry := self._read_entry()) is not None:
            self._entries[entry.record.start] = entry
            end = entry.offset + entry.size
        self._file.truncate(end)
        self._starts = sorted(self._entries)

    def _read_entry(self) -> _Entry | None:
        try:
            head = orjson.loads(self._file.readline())
            size, crc, shape = int(head.pop("size")), head.pop("crc"), tuple(head.pop("shape"))
            offset = self._file.tell()
            data = self._file.read(size)
            if len(data) != size or zlib.crc32(data) != crc:
                return None
            numbers = {name: float("nan") for name, value in head.items() if value is None and name != "status"}
            record = RequestRecord(**{**head, **numbers, "resumed": True, "began_s": float("nan")})
        except (ValueError, KeyError, TypeError):
            return None
        return _Entry(record, shape, offset, size)

    def _write(self) -> None:
        """Write what has gathered, sync, and again: senders never wait for the disk."""
        is_open = True
        while is_open:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            is_open = None not in batch
            try:
                for item in batch:
                    if item is not None and self._failure is None:
                        self._file.write(item[0])
                        self._file.write(item[1].data.cast("B") if item[1].size else b"")
                self._sync()
            except OSError as error:
                self._failure = error

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())


def _short(value: object) -> str:
    text = str(value) if value not in (None, "") else "none"
    return text if len(text) <= 16 else text[:12] + "..."
