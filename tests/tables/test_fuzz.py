"""Random tables: Python's csv and float() say what a CSV holds; random bytes and frames are read or refused."""

import contextlib
import csv
import gzip
import io
import math
import random
import tempfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing.parametric import dataframes

from ruo.errors import TableError
from ruo.tables import open_table
from ruo.tables.csvtext import Text, text_of

pytestmark = pytest.mark.slow

SOAK = [pytest.mark.soak, pytest.mark.timeout(1_800)]
PLAIN = ["0", "7", "-3", "+5", "1.5", "-0.0"]
NUMBERS = [*PLAIN, "3.0", "1e3", "2.5E-3", ".5", "5.", "16777217", "9007199254740993", "1e39"]
WORDS = ["NaN", "nan", "inf", "-Infinity", "1e-400", "9223372036854775808", "-1e400"]
BAD = ["x", "1_0", "0x10", "1 2", "--1", "1e", "\0", "é"]


def random_csv(rng: random.Random) -> tuple[bytes, bool]:
    """A CSV, and whether it has stray quotes."""
    names = [f"c{i}" for i in range(rng.randint(1, 4))]
    if rng.random() < 0.4:
        names.insert(rng.randint(0, len(names)), "Label_x")
    end = rng.choice(["\n", "\n", "\r\n"])
    quoting, strange = rng.random() < 0.5, rng.random() < 0.3
    cells = PLAIN if rng.random() < 0.3 else NUMBERS + WORDS + ["", " ", " 4 "]

    def cell(name: str) -> str:
        text = rng.choice([*cells, repr(rng.uniform(-1e6, 1e6)), str(rng.randint(-999, 999))])
        if name == "Label_x" and rng.random() < 0.5:
            text = rng.choice(["3", "cat", "300", 'a"b' if strange else "ab", "a,b" if quoting else "a b"])
        if strange and rng.random() < 0.05:
            text = rng.choice(BAD)
        if quoting and (rng.random() < 0.3 or "," in text):
            inner = text.replace('"', '""') + ("\n" if rng.random() < 0.1 else "")
            text = f'"{inner}"'
        return text

    lines = [",".join(f'"{name}"' if quoting and rng.random() < 0.2 else name for name in names)]
    for _ in range(rng.randint(1, 14)):
        row = [cell(name) for name in names]
        if strange and rng.random() < 0.05:
            row = row[:-1] if rng.random() < 0.5 else [*row, "1"]
        lines.append(",".join(row))
        if len(names) == 1 or (strange and rng.random() < 0.05):
            lines += [""] * rng.choice([0, 0, 0, 1, 2])
    text = "".join(line + (end if rng.random() < 0.9 else rng.choice(["\n", "\r\n"])) for line in lines)
    text += end * rng.choice([0, 0, 1, 3])
    has_stray = strange and rng.random() < 0.4
    if has_stray:
        position = rng.randint(len(lines[0]), len(text))
        text = text[:position] + rng.choice(['"', '""', "\r"]) + text[position:]
    if rng.random() < 0.3:
        text = text.rstrip("\r\n")
    return ("\ufeff" if rng.random() < 0.1 else "").encode() + text.encode(), has_stray


def read_by_csv(data: bytes, dtype: np.dtype) -> np.ndarray | None:
    """The feature values by the standard library, None if the table has to be refused."""
    try:
        header, *rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    except csv.Error:
        return None
    if len(header) == 1:
        rows = [row or [""] for row in rows]
    while rows and not rows[-1]:
        rows.pop()
    features = [index for index, name in enumerate(header) if name != "Label_x"]
    if not rows or any(len(row) != len(header) for row in rows):
        return None
    try:
        values = [[_value(row[index].strip(), dtype) for index in features] for row in rows]
        with np.errstate(over="ignore"):
            return np.array(values, object).astype(dtype)
    except (ValueError, OverflowError):
        return None


def _value(text: str, dtype: np.dtype) -> float:
    if "_" in text:
        raise ValueError(text)
    if dtype.kind == "f":
        return float(text) if text else math.nan
    float(text)
    number = Decimal(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def read_by_ruo(path: Path, dtype: np.dtype, shards: int) -> np.ndarray | None:
    """The same by ruo, in parts if there are several; None if a part is refused."""
    blocks = []
    try:
        for part in range(shards):
            table = open_table(path, shard=(part, shards) if shards > 1 else None)
            blocks += [block.array for block in table.blocks(3, dtype)]
    except TableError:
        return None
    return np.concatenate(blocks) if blocks else None


def in_pieces(text: Text, size: int) -> Text:
    """The text in pieces of at most `size` bytes."""
    pieces = (piece[at : at + size] for piece in text.pieces for at in range(0, len(piece), size))
    return text._replace(pieces=pieces)


def compare(seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    rng = random.Random(seed)
    data, has_stray = random_csv(rng)
    dtype = np.dtype(rng.choice(["f4", "f8", "f8", "i8"]))
    shards = rng.choice([1, 1, 1, 2, 3, 7])
    is_gzip = shards == 1 and rng.random() < 0.3
    size = rng.choice([1, 2, 5, 17, 64, 4096])
    monkeypatch.setattr("ruo.tables.csv.PIECE_BYTES", size)
    monkeypatch.setattr("ruo.tables.csv.text_of", lambda *args: in_pieces(text_of(*args), size))
    path = folder / f"{seed}.csv"
    middle = rng.randint(0, len(data))
    path.write_bytes(gzip.compress(data[:middle]) + gzip.compress(data[middle:]) if is_gzip else data)

    expected, values = read_by_csv(data, dtype), read_by_ruo(path, dtype, shards)

    note = f"seed {seed}, {dtype}, {shards} shards: {data!r}"
    if expected is None:
        assert values is None, note
        return "refused by both"
    if values is None:  # a stray quote, or a part that begins within a quoted cell or after the last row
        is_within = shards > 1 and (b'"' in data or data.endswith((b"\n\n", b"\n\r\n")))
        assert has_stray or b'a"' in data or is_within, note
        return "refused by ruo"
    assert expected.shape == values.shape, note
    assert np.array_equal(expected, values, equal_nan=dtype.kind == "f"), note
    assert np.array_equal(np.signbit(expected), np.signbit(values)) or np.isnan(expected).any(), note
    return "equal"


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(1_000, 6_000), marks=SOAK)])
def test_each_table_holds_what_pythons_csv_reads(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value equals float() of the cell that csv reads, in pieces of any size; what csv refuses is refused."""
    outcomes = [compare(seed, tmp_path, monkeypatch) for seed in seeds]
    assert outcomes.count("equal") > len(seeds) / 2


def damage(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, put in or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 30])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    if rng.random() < 0.3:
        del changed[rng.randrange(len(changed)) :]
    if rng.random() < 0.3:
        position = rng.randint(0, len(changed))
        changed[position:position] = rng.randbytes(5)
    return bytes(changed)


@pytest.mark.parametrize(
    ("kind", "seeds"),
    [
        ("csv", range(150)),
        ("csv.gz", range(150)),
        ("parquet", range(150)),  # no more: polars ends the process where a damaged length asks for too much memory
        pytest.param("csv", range(1_000, 4_000), marks=SOAK),
        pytest.param("csv.gz", range(1_000, 4_000), marks=SOAK),
    ],
)
def test_a_damaged_file_is_read_or_refused(kind: str, seeds: range, tmp_path: Path) -> None:
    """Whatever bytes are changed, nothing but a TableError comes out, from opening and from reading."""
    numbers = np.random.default_rng(0)
    columns = {"a": numbers.normal(size=200), "b": numbers.integers(0, 5, 200), "Label_x": ["cat", "dog"] * 100}
    frame = pl.DataFrame(columns)
    path = tmp_path / f"table.{kind}"
    outcomes = []
    for seed in seeds:
        rng = random.Random(seed)
        if kind == "parquet":
            codec = rng.choice(["zstd", "snappy", "lz4", "gzip", "uncompressed"])
            frame.write_parquet(path, compression=codec, row_group_size=70)
        else:
            text = frame.write_csv(quote_style=rng.choice(["necessary", "always"])).encode()
            path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
        path.write_bytes(damage(rng, path.read_bytes()))
        outcomes.append(read_by_ruo(path, np.dtype(np.float32), 1) is None)

    assert {*outcomes} >= ({True} if kind == "csv.gz" else {True, False})  # gzip has a checksum


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["csv", "csv.gz", "parquet"]), st.sampled_from([b"", b"a,b\n", b"x\n"]))
def test_random_bytes_are_read_or_refused(data: bytes, kind: str, header: bytes) -> None:
    """Noise as a file of any kind, also below a good header: nothing but a TableError comes out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"noise.{kind}"
        path.write_bytes(gzip.compress(header + data) if kind == "csv.gz" else header + data)
        read_by_ruo(path, np.dtype(np.float32), 1)


@settings(max_examples=80)
@given(dataframes(min_cols=1, max_cols=4, max_size=6, allow_masks=False))
def test_random_frames_are_read_or_refused(frame: pl.DataFrame) -> None:
    """Columns of every type, empty cells and infinities among them: nothing but a TableError comes out."""
    for dtype in (np.float32, np.int64, np.bool_):
        with contextlib.suppress(TableError):
            blocks = list(open_table(frame).blocks(2, dtype))
            assert sum(len(block.array) for block in blocks) == frame.height
