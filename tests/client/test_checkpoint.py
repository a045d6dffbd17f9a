"""A run that ended early, and the one that goes on where it stopped."""

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ruo import ScoringError, iter_scores, score_csv
from ruo.client.checkpoint import Checkpoint
from ruo.client.records import Answer, RequestRecord
from ruo.deploy.local import LocalServer
from ruo.errors import CheckpointError, RuoError
from ruo.learn.demo import Demo
from tests.client.conftest import Scoring, Scripted, loop_lags, python, saying, signalled, sometimes
from tests.conftest import Reply, ScriptedServer
from tests.tables.forms import as_form

MAGIC, MARK = b"ruo checkpoint 2\n", b"\nentry\n\0"
SHARED = [HealthCheck.function_scoped_fixture]
FUZZ = settings(max_examples=200, suppress_health_check=SHARED)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint that is not there yet."""
    return tmp_path / "run.ruo"


@pytest.fixture
def half(small_csv: Path, scripted: Scripted, path: Path) -> ScriptedServer:
    """A server that fails after three of five chunks, once; the run that saw it left `path` behind."""
    server = scripted(sometimes(Reply(500), 3))
    with pytest.raises(ScoringError, match="Rows 6 to 7"):
        score_csv(small_csv, server.url, chunk_size=2, concurrency=1, checkpoint=path)
    assert len(server.requests) == 4
    return server


def test_only_what_is_missing_is_scored(right_scores: Scoring, half: ScriptedServer, path: Path) -> None:
    """The second call sends only the rest, and marks the requests of the first; a third one sends nothing."""
    for resumed in ([True, True, True, False, False], [True] * 5):
        scores = right_scores(half.url, chunk_size=2, concurrency=1, checkpoint=path)

        assert len(half.requests) == 4 + 2
        assert scores.requests["resumed"].tolist() == resumed
        assert scores.balance()["rows"].sum() == 2 * resumed.count(False)


def test_iter_scores_resumes_too(small_csv: Path, half: ScriptedServer, path: Path, small_sums: np.ndarray) -> None:
    """Stored blocks come out in their place."""
    blocks = list(iter_scores(small_csv, half.url, chunk_size=2, checkpoint=path))
    assert [block.start for block in blocks] == [0, 2, 4, 6, 8]
    np.testing.assert_array_equal(small_sums, np.concatenate([block.predictions for block in blocks]))
    assert len(half.requests) == 6


def test_stored_rows_keep_their_labels_and_errors(labelled_csv: Path, scripted: Scripted, path: Path) -> None:
    """Labels of stored rows are read again, and failed rows are sent again."""
    server = scripted(sometimes(Reply(500), 1))
    arguments: dict[str, Any] = {"chunk_size": 2, "concurrency": 1, "checkpoint": path, "errors": "collect"}
    first, second = (score_csv(labelled_csv, server.url, **arguments) for _ in range(2))

    assert [(2, 4)] == [(each.start, each.stop) for each in first.failures.itertuples()]
    assert second.failures.empty
    assert second.labels.tolist() == [1, 0] * 5


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({}, r"of other data \([0-9a-f]{12}\.{3}, not [0-9a-f]{12}\.{3}\)"),  # a cell of the table is another
        ({"chunk_size": 3}, r"another chunk_size \(2, not 3\)"),
        ({"chunk_size": "auto"}, "another chunk_size"),
        ({"label_prefix": "b"}, "another label_prefix|takes 3"),
        ({"wire": "v2-json"}, r"another wire \(v2, not v2-json\)"),
        ({"shard": (0, 2)}, "of another part of the data"),
        ({"allow_version_change": True}, "another version of the model"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    small_csv: Path, half: ScriptedServer, path: Path, changed: dict[str, Any], sentence: str
) -> None:
    """The error names what differs, nothing is sent, and the file is unchanged."""
    if not changed:
        small_csv.write_text(small_csv.read_text().replace("9,9.5,1", "9,9.5,2"))
    before = path.read_bytes()

    with pytest.raises(RuoError, match=sentence):
        score_csv(small_csv, half.url, **{"chunk_size": 2, "checkpoint": path, **changed})

    assert len(half.requests) == 4
    assert path.read_bytes() == before


def test_another_model_is_refused(small_csv: Path, half: ScriptedServer, path: Path) -> None:
    """A run does not resume with another version of the model if the first one is gone."""
    page = half.pages.pop("/v2/models/model/versions/1").replace(b'"1"', b'"2"')
    half.pages |= {"/v2/models/model": page, "/v2/models/model/versions/2": page}

    with pytest.raises(CheckpointError, match=r"another version of the model \(1, not 2\)"):
        score_csv(small_csv, half.url, chunk_size=2, checkpoint=path)


def test_the_run_keeps_to_its_version(right_scores: Scoring, half: ScriptedServer, path: Path) -> None:
    """If the version that the run began with is still there, the run resumes with it."""
    half.pages["/v2/models/model"] = half.pages["/v2/models/model"].replace(b'["1"]', b'["1", "2"]')

    right_scores(half.url, chunk_size=2, checkpoint=path)

    assert set(half.paths) == {"/v2/models/model/versions/1/infer"}


@pytest.mark.parametrize(
    ("damage", "resumed"),
    [
        *((lambda data, end=end: data[:end], 2) for end in (-1, -5, -30, -200)),  # the end of the last entry
        *((lambda data, end=end: data[:end], 0) for end in (10, 40, 100)),  # the end of the key
        *((lambda data, at=at: data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :], 2) for at in (-3, -15, 400, 900)),
    ],
)
def test_a_damaged_entry_is_left_out(
    right_scores: Scoring, half: ScriptedServer, path: Path, damage: Callable[[bytes], bytes], resumed: int
) -> None:
    """What a crash cut short, and an entry with a flipped bit, is scored again, and no other."""
    path.write_bytes(damage(path.read_bytes()))

    assert right_scores(half.url, chunk_size=2, checkpoint=path).requests["resumed"].sum() == resumed
    assert right_scores(half.url, chunk_size=2, checkpoint=path).requests["resumed"].all()


def _damages(data: bytes) -> Iterator[bytes]:
    """The bytes with each bit flipped, each byte doubled or left out, and cut off from each byte on."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
        yield data[:place] + data[place : place + 1] + data[place:]
        yield data[:place] + data[place + 1 :]
        yield data[:place]
    yield data + b"\0"


def _answer(start: int) -> Answer:
    predictions = np.array([[start], [start + 1]], np.float32)
    return Answer(RequestRecord(start, 2, 100, seconds=0.5), predictions)


KEY = {"data": "d", "version": "1"}


async def _write(path: Path, key: dict[str, Any], answers: Iterable[Answer] | None = None) -> None:
    async with Checkpoint(path) as checkpoint:
        await checkpoint.begin(key)
        for answer in map(_answer, (0, 2)) if answers is None else answers:
            checkpoint.add(answer)


async def _read(path: Path) -> int:
    """How many rows are stored; all of them are right."""
    async with Checkpoint(path) as checkpoint:
        assert checkpoint.key in (KEY, None)
        answers = {start: stored for start in range(-1, 300) if (stored := checkpoint.stored(start, 2))}
        for start, stored in answers.items():
            answer = _answer(start)
            np.testing.assert_array_equal(stored.predictions, answer.predictions)
            assert repr(stored.record) == repr(dataclasses.replace(answer.record, resumed=True))
        return 2 * len(answers)


@pytest.mark.soak
def test_no_damage_gives_wrong_rows(path: Path) -> None:
    """Whatever bit is flipped and whatever byte is added or cut: right rows or a CheckpointError, and few rows lost."""

    async def results(damages: Iterable[bytes]) -> list[int | str]:
        results: list[int | str] = []
        for damaged in damages:
            path.write_bytes(damaged)
            try:
                results.append(await _read(path))
            except CheckpointError as error:
                results.append(str(error))
        return results

    asyncio.run(_write(path, KEY))
    data = path.read_bytes()
    first, second = data.index(MARK, data.index(MARK) + 1), data.rindex(MARK)
    in_head = asyncio.run(results(damaged + data[first:] for damaged in _damages(data[:first])))
    in_first = asyncio.run(results(data[:first] + damaged + data[second:] for damaged in _damages(data[first:second])))
    cut = asyncio.run(results(data[:end] for end in range(len(data))))

    assert all(result == 4 or "is damaged" in str(result) or "is not one of" in str(result) for result in in_head)
    assert set(in_first) == {2, 4}  # the second entry is never lost
    assert {str(result) for result in cut} == {"0", "2"}


_pieces = st.binary(max_size=300) | st.sampled_from([MAGIC, MARK])
_edits = st.lists(st.tuples(st.integers(0, 700), st.integers(0, 1000), _pieces), min_size=1, max_size=4)


@given(st.lists(_pieces, max_size=3).map(b"".join), _edits, st.booleans())
@FUZZ
def test_random_bytes_give_right_rows_or_none(path: Path, data: bytes, edits: Any, is_doubled: bool) -> None:
    """Random bytes are no rows; a checkpoint with pieces cut, inserted or doubled gives right rows or an error."""
    original = path.with_name("original.ruo")
    if not original.exists():
        asyncio.run(_write(original, KEY))
    edited = original.read_bytes()
    for place, cut, piece in edits:
        edited = edited[:place] + (edited[place : place + cut] * 2 if is_doubled else piece) + edited[place + cut :]

    for content, rows in ((data, (0,)), (edited, (0, 2, 4))):
        path.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            assert asyncio.run(_read(path)) in rows


def _framed(head: bytes, data: bytes, checksum: int = 0) -> bytes:
    """A key or an entry with a right checksum, as the format's description says."""
    lengths = struct.pack("<QQ", len(head), len(data))
    return MARK + struct.pack("<I", zlib.crc32(lengths + head + data, checksum)) + lengths + head + data


@pytest.mark.parametrize(
    "change", [(b'"version":"1"', b'"version":"2"'), (orjson.dumps(KEY), b"null"), (b"entry", b"enter")]
)
def test_a_damaged_key_is_no_key(path: Path, change: tuple[bytes, bytes]) -> None:
    """What cannot be compared, since it is not as it was written, is an error and not a match."""
    asyncio.run(_write(path, KEY))
    path.write_bytes(path.read_bytes().replace(*change, 1))
    before = path.read_bytes()

    with pytest.raises(CheckpointError, match="is damaged: its key cannot be read; delete it"):
        asyncio.run(_read(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize("key", [{}, {**KEY, "more": 1}, {"data": "d"}, {"data": "d", "version": None}])
def test_a_key_with_other_names_is_of_another_run(path: Path, key: dict[str, Any]) -> None:
    """A key that lacks a name, or has one more, is not the key of this run."""
    path.write_bytes(MAGIC + _framed(orjson.dumps(key), b""))

    with pytest.raises(CheckpointError, match=r"is of (other data|another version of the model|another more) \("):
        asyncio.run(_write(path, KEY))


@pytest.mark.parametrize(
    "change",
    [*({"shape": shape} for shape in ([2, 2], [1, 2], [], None, ["2", "1"])), {"rows": 3}, {"another field": 1}],
)
def test_an_entry_that_does_not_fit_does_not_count(path: Path, change: dict[str, Any]) -> None:
    """An entry with other fields, or with more or fewer rows than it has predictions, is left out; those behind it stay."""
    asyncio.run(_write(path, KEY))
    data = path.read_bytes()
    _, first, second = (place for place in range(len(data)) if data.startswith(MARK, place))
    (checksum,) = struct.unpack_from("<I", data, len(MAGIC) + 8)
    (length,) = struct.unpack_from("<Q", data, first + 12)
    head, predictions = data[first + 28 : first + 28 + length], data[first + 28 + length : second]
    assert data[first:second] == _framed(head, predictions, checksum)

    changed = orjson.dumps({**orjson.loads(head), **change})
    path.write_bytes(data[:first] + _framed(changed, predictions, checksum) + data[second:])
    assert asyncio.run(_read(path)) == 2


def test_a_chunk_ends_where_a_stored_one_begins(path: Path) -> None:
    """New chunks fill the gaps between the entries, so that no row is scored twice."""

    async def main() -> list[int | None]:
        await _write(path, KEY, map(_answer, (4, 8)))
        async with Checkpoint(path) as checkpoint:
            places = [(0, 3), (0, 10), (0, None), (3, 5), (4, 5), (6, 1), (6, 5), (10, 5), (10, None)]
            assert checkpoint.stored(4, 3) is checkpoint.stored(5, 2) is None
            return [checkpoint.chunk_rows(start, rows) for start, rows in places]

    assert asyncio.run(main()) == [3, 4, 4, 1, 2, 1, 2, 5, None]


def test_a_checkpoint_that_is_cut_during_a_run_is_an_error(small_csv: Path, well: ScriptedServer, path: Path) -> None:
    """Stored rows that are no longer there end in a sentence, and not in fewer rows."""
    score_csv(small_csv, well.url, chunk_size=1, checkpoint=path)
    blocks = iter_scores(small_csv, well.url, chunk_size=1, concurrency=1, checkpoint=path)
    next(blocks)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="was cut short while this run read it; score the table again"):
        list(blocks)


def test_an_entry_of_another_run_does_not_count(path: Path, tmp_path: Path) -> None:
    """Entries that were copied from the checkpoint of another run are left out."""
    other = tmp_path / "other.ruo"
    asyncio.run(_write(path, KEY))
    asyncio.run(_write(other, {**KEY, "version": "2"}))
    head = path.read_bytes()[: path.read_bytes().rindex(MARK)]
    path.write_bytes(head + other.read_bytes()[len(head) :])

    assert asyncio.run(_read(path)) == 2


def test_answers_of_another_shape_are_refused(path: Path) -> None:
    """On a wire without versions, a run does not resume with a model of another output shape."""
    asyncio.run(_write(path, KEY))
    wider = Answer(RequestRecord(6, 2, 100), np.zeros((2, 3), np.float32))
    with pytest.raises(CheckpointError, match=r"predictions of \(1,\) a row, the model answers \(3,\)"):
        asyncio.run(_write(path, KEY, [wider]))


def test_a_large_checkpoint_does_not_block_the_loop(path: Path) -> None:
    """While 200 MB are opened and checked, the event loop keeps running."""
    zeros = np.zeros((1_000, 250), np.float32)

    async def main() -> tuple[float, float]:
        await _write(path, KEY, (Answer(RequestRecord(row, 1_000, 100), zeros) for row in range(0, 200_000, 1_000)))
        began = time.monotonic()
        async with loop_lags() as lags, Checkpoint(path) as checkpoint:
            await checkpoint.begin(KEY)
            assert checkpoint.chunk_rows(199_000, None) == 1_000
        return max(lags), time.monotonic() - began

    lag_s, whole_s = asyncio.run(main())
    assert path.stat().st_size > 200_000_000
    assert lag_s < max(0.05, whole_s / 2)


@pytest.mark.parametrize("content", [b"a,b,c\n1,2,3\n", b"ruo checkpoint 3\n"])
def test_another_file_is_not_written_to(small_csv: Path, well: ScriptedServer, path: Path, content: bytes) -> None:
    """A file that is not a checkpoint of this version keeps its content; a folder that is not there is an error too."""
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not one of this version"):
        score_csv(small_csv, well.url, checkpoint=path)
    with pytest.raises(CheckpointError, match=r"cannot be opened \(No such file or directory\)"):
        score_csv(small_csv, well.url, checkpoint=path.parent / "nowhere" / "run.ruo")
    assert well.requests == []
    assert path.read_bytes() == content


def test_what_a_server_says_of_itself_is_stored_as_text(right_scores: Scoring, scripted: Scripted, path: Path) -> None:
    """Also bytes that are none, in headers, which would make the entry unwritable."""
    said = {"Ruo-Worker": "w\xe9", "Ruo-Model-Sha256": "\xff"}  # as Latin-1, which is not UTF-8
    server = scripted(lambda _, *request: saying(said, *request))
    for _ in range(2):
        assert right_scores(server.url, checkpoint=path).requests["worker"].tolist() == [r"w\udce9"]
    assert len(server.requests) == 1


@contextlib.contextmanager
def files_of(most_bytes: int) -> Iterator[None]:
    """No file of this process can have more bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


FULL = r"cannot be written \(File too large\); make room, or name another file"


def test_a_full_disk_is_an_error(
    small_csv: Path, right_scores: Scoring, small_sums: np.ndarray, well: ScriptedServer, path: Path
) -> None:
    """A failed write is an error that carries what was scored, not a checkpoint with holes."""
    options: dict[str, Any] = {"chunk_size": 1, "concurrency": 1, "checkpoint": path}
    with files_of(1500), pytest.raises(CheckpointError, match=FULL) as caught:
        score_csv(small_csv, well.url, **options)
    scored = caught.value.scores.predictions
    count = int(np.isfinite(scored).sum())
    assert count >= 3
    np.testing.assert_array_equal(scored[:count], small_sums[:count])
    right_scores(well.url, **options)


def test_a_disk_that_fills_at_the_end_is_an_error(path: Path) -> None:
    """The last answers, too, are on the disk when the checkpoint closes, or an error says that they are not."""
    asyncio.run(_write(path, KEY, []))
    with files_of(path.stat().st_size + 10), pytest.raises(CheckpointError, match=FULL):
        asyncio.run(_write(path, KEY, [_answer(0)]))
    assert asyncio.run(_read(path)) == 0


def test_two_runs_do_not_share_a_checkpoint(small_csv: Path, well: ScriptedServer, path: Path) -> None:
    """While one run holds it, another is refused, even from another process, and the first one goes on."""
    blocks = iter_scores(small_csv, well.url, chunk_size=1, concurrency=1, checkpoint=path)
    next(blocks)
    refused = python(f"""
        from ruo import score_csv
        from ruo.errors import CheckpointError
        try:
            score_csv({str(small_csv)!r}, {well.url!r}, checkpoint={str(path)!r})
        except CheckpointError as error:
            print(error)
    """)
    assert "is in use by another run; wait for its end, or name another file" in refused
    assert len(list(blocks)) == 9


@pytest.mark.parametrize("kind", ["pandas", "polars", "parquet"])
def test_every_source_has_a_fingerprint(small_csv: Path, well: ScriptedServer, path: Path, kind: str) -> None:
    """DataFrames and Parquet files resume as well, and changed ones are refused."""
    frame = pl.read_csv(small_csv)
    for _ in range(2):
        score_csv(as_form(frame, kind, path.parent), well.url, checkpoint=path)
    with pytest.raises(CheckpointError, match="other data"):
        score_csv(as_form(frame.with_columns(c=pl.col("c") + 1), kind, path.parent), well.url, checkpoint=path)

    assert len(well.requests) == 1


def test_auto_sizes_resume(right_scores: Scoring, well: ScriptedServer, path: Path) -> None:
    """With adapted sizes, stored rows are not sent again either."""
    for resumed in (False, True):
        scores = right_scores(well.url, chunk_size="auto", concurrency="auto", checkpoint=path)
        assert set(scores.requests["resumed"]) == {resumed}


@pytest.mark.parametrize("wire", ["v2", "v1", "paper"])
def test_a_killed_run_resumes(demo: Demo, server: LocalServer, tmp_path: Path, wire: str) -> None:
    """After kill -9 only the rest is scored, and all predictions equal those of one whole run bit by bit."""
    path = tmp_path / "run.ruo"
    program = f"""
        from ruo import iter_scores
        for number, _ in enumerate(iter_scores({str(demo.testset)!r}, {server.url!r}, chunk_size=100, wire={wire!r},
                                               checkpoint={str(path)!r})):
            if number == 12:
                print("half", flush=True)
                import time; time.sleep(60)
    """
    signalled(program, signal.SIGKILL, wait_s=0.2)  # what was scored reaches the disk

    whole = score_csv(demo.testset, server.url, chunk_size=100, wire=wire)
    resumed = score_csv(demo.testset, server.url, chunk_size=100, wire=wire, checkpoint=path)

    assert 12 <= resumed.requests["resumed"].sum() < 30  # eight are under way, and eight wait to be
    assert resumed.predictions.tobytes() == whole.predictions.tobytes()
