"""A whole table to its predictions, against a real server with a real model."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import polars as pl
import pytest
from click.testing import CliRunner

from ruo import ArgumentError, ScoringError, ascore_csv, iter_scores, score_csv
from ruo.__main__ import main
from ruo.deploy.local import LocalServer, local_server
from ruo.errors import CheckpointError, TableError
from ruo.learn.demo import Demo
from ruo.wire.v2 import DATATYPES
from tests.client.conftest import Scoring, Scripted, always, computed, describe, interrupted, sometimes
from tests.conftest import ROWS, Reply, ScriptedServer
from tests.tables.forms import as_form

WIRES = ["v2", "v2-json", "v1", "paper"]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(("chunk_size", "rows"), [(1, 50), (7, 200), (999, ROWS), (None, ROWS)])
def test_predictions_are_the_models_own(
    demo: Demo, demo_scores: Scoring, labels: np.ndarray, wire: str, chunk_size: int | None, rows: int
) -> None:
    """Every wire and request size gives the predictions of the model in-process, in row order."""
    scores = demo_scores(pl.read_csv(demo.testset, n_rows=rows), rows, wire=wire, chunk_size=chunk_size)

    np.testing.assert_array_equal(labels[:rows], scores.labels)
    assert scores.predictions.dtype == np.float32
    assert len(scores.requests) == -(-rows // (chunk_size or rows))


@pytest.mark.parametrize("pipelined", [True, False])
def test_the_two_phases_of_2023_give_the_same(
    demo_scores: Scoring, labels: np.ndarray, tmp_path: Path, pipelined: bool
) -> None:
    """Forming all requests first changes nothing but the time, which is that of the two phases, also of stored ones."""
    options: dict[str, Any] = {"chunk_size": 100, "pipelined": pipelined, "checkpoint": tmp_path / "run.ruo"}
    scores = demo_scores(**options)
    assert demo_scores(**options).requests["resumed"].all()

    np.testing.assert_array_equal(labels, scores.labels)
    forming_s, sending_s, total_s, rows_per_s = scores.timings[:4]
    assert min(forming_s, sending_s) > 0
    assert pipelined or forming_s + sending_s <= total_s
    assert rows_per_s == pytest.approx(2_500 / total_s)


@pytest.mark.parametrize("is_in_loop", [True, False])
def test_every_entry_point_gives_the_same(
    demo: Demo, server: LocalServer, demo_scores: Scoring, expected: np.ndarray, labels: np.ndarray, is_in_loop: bool
) -> None:
    """All three give the same predictions and labels; the synchronous ones inside a running event loop, too."""

    async def main() -> list[Any]:
        demo_scores()
        return list(iter_scores(demo.testset, server.url, chunk_size=300))

    blocks = asyncio.run(main()) if is_in_loop else list(iter_scores(demo.testset, server.url, chunk_size=300))
    scores = asyncio.run(ascore_csv(demo.testset, server.url, chunk_size=300))

    starts, predictions, classes, _ = zip(*blocks, strict=True)
    assert list(starts) == list(range(0, len(expected), 300))
    np.testing.assert_allclose([*np.concatenate(predictions), *scores.predictions], [*expected, *expected], atol=1e-5)
    np.testing.assert_array_equal([*np.concatenate(classes), *scores.labels], [*labels, *labels])


def test_labels_may_be_absent_or_between_features(demo: Demo, demo_scores: Scoring, labels: np.ndarray) -> None:
    """Label columns are left out wherever they are, and are optional."""
    frame = pl.read_csv(demo.testset)
    features, classes = frame.columns[:64], frame.columns[64:]
    assert demo_scores(frame.select(features)).labels is None
    between = demo_scores(frame.select(features[:5] + classes[:3] + features[5:] + classes[3:]))
    np.testing.assert_array_equal(labels, between.labels)


def test_rows_without_one_class_give_no_labels(demo: Demo, server: LocalServer) -> None:
    """Where a row names no class, or two, labels are None and the row is named."""
    frame = pl.read_csv(demo.testset, n_rows=20).with_columns(Label_0=pl.lit(1), Label_1=pl.lit(1))

    for entry in (score_csv, lambda *given: asyncio.run(ascore_csv(*given))):
        with pytest.warns(UserWarning, match="Row 0: its label columns do not name exactly one class") as warned:
            scores = entry(frame, server.url)

        assert scores.labels is None
        assert [Path(warning.filename) for warning in warned] == [Path(__file__)]  # the caller's line


@pytest.fixture
def sent_to(scripted: Scripted) -> Callable[..., np.ndarray]:
    """Score a table with a scripted model of a datatype; gives what the model got."""

    def score(source: Any, datatype: str, wire: str) -> np.ndarray:
        inputs: list[np.ndarray] = []

        def zeros(given: dict[str, np.ndarray]) -> np.ndarray:
            inputs.append(given["x"])
            return np.zeros((len(inputs[-1]), 1), np.float32)

        server = scripted(lambda _, *request: computed(*request, wire, zeros))
        describe(server, inputs=[{"name": "x", "datatype": datatype, "shape": [-1, 3]}])
        score_csv(source, server.url, wire=wire)
        return np.concatenate(inputs)

    return score


@pytest.mark.parametrize("wire", ["v2", "v2-json"])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet", "pandas", "nullable", "polars"])
def test_whole_numbers_reach_the_model_digit_by_digit(tmp_path: Path, sent_to: Callable, kind: str, wire: str) -> None:
    """An INT64 model gets 2**62 + 1 and 16,777,217 as they are, from every source and on both wires with datatypes."""
    numbers = [[16_777_217, -1, 0], [2**62 + 1, 3, -(2**63)]]
    frame = pl.DataFrame(numbers, ["a", "b", "c"], orient="row")

    sent = sent_to(as_form(frame, kind, tmp_path), "INT64", wire)

    assert (sent.dtype, sent.tolist()) == (np.int64, numbers)


@pytest.mark.parametrize(
    ("datatype", "cells"),
    [
        ("INT32", [2**31 - 1, -(2**31), 16_777_217]),
        ("UINT8", [255, 0, 1]),
        ("BOOL", [1, 0, 1]),
        ("FP64", [0.1, 1e-300, 2.0**53 + 2]),
        ("FP16", [0.5, 65504.0, -2.0]),
        ("BF16", [0.5, 1e30, -2.0]),
    ],
)
def test_every_datatype_reaches_the_model(
    small_csv: Path, sent_to: Callable[..., np.ndarray], datatype: str, cells: list[float]
) -> None:
    """Each model gets its own datatype; one that numpy does not know gets float32."""
    small_csv.write_text("a,b,c\n" + ",".join(map(repr, cells)) + "\n")
    dtype = DATATYPES.get(datatype, np.dtype(np.float32))

    sent = sent_to(small_csv, datatype, "v2")

    assert sent.dtype == dtype
    np.testing.assert_array_equal(sent, np.array([cells], dtype))


@pytest.mark.slow
@pytest.mark.parametrize(("datatype", "cells"), [("int64", [16_777_217, 3]), ("float64", [0.1, 1e-300])])
def test_a_real_model_gets_its_own_datatype(tmp_path: Path, datatype: str, cells: list[float]) -> None:
    """A Keras model of whole numbers or doubles gets the exact numbers of a CSV."""
    import keras

    given = keras.Input((2,), dtype=datatype, name="x")
    exact = keras.ops.equal(given, np.array([cells], datatype))
    keras.Model(given, keras.ops.cast(exact, "float32")).save(tmp_path / "exact.keras")
    path = tmp_path / "table.csv"
    path.write_text(f"a,b\n{cells[0]},{cells[1]}\n{cells[0] - 1},{cells[1]}\n")

    with local_server(tmp_path / "exact.keras", workers=1) as server:
        scores = score_csv(path, server.url)

    assert scores.model.inputs[0].datatype == datatype.upper().replace("FLOAT", "FP")
    assert scores.predictions.tolist() == [[1, 1], [0, 1]]


def test_rows_with_nan_are_scored_as_in_process(demo: Demo, server: LocalServer, features: np.ndarray) -> None:
    """NaN and Infinity go to the model on the binary wire, which says the same of them as Keras without a server."""
    import keras

    rows = features[:3].copy()
    rows[0, 5], rows[1, 6], rows[2, 7] = np.nan, np.inf, -np.inf
    model = keras.saving.load_model(demo.models["mlp"])

    scores = score_csv(pl.DataFrame(rows, [f"x{i}" for i in range(64)]), server.url)

    # not `predict`: compiled by TensorFlow, a relu takes NaN for 0 on some CPUs
    np.testing.assert_allclose(scores.predictions, model(rows), atol=1e-5)


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server whose Keras model has two outputs of the same shape: the sum of a row, and its negative."""
    import keras

    path = tmp_path_factory.mktemp("models") / "two.keras"
    given = keras.Input((3,), name="x")
    dense = [keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=name) for name in ("left", "right")]
    keras.Model(given, [dense[0](given), dense[1](keras.ops.negative(given))]).save(path)
    with local_server(path, workers=1, settings={"KERAS_BACKEND": "openvino"}) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("wire", WIRES[:3])
def test_the_named_output_is_scored(
    small_csv: Path, two_outputs: LocalServer, small_sums: np.ndarray, tmp_path: Path, wire: str
) -> None:
    """Of a model with several outputs the named one comes back on each wire, and a resumed run keeps to it."""
    for name, sign in (("left", 1), ("right", -1)):
        scores = score_csv(small_csv, two_outputs.url, wire=wire, chunk_size=3, output=name)
        np.testing.assert_array_equal(scores.predictions, sign * small_sums)
        assert scores.model.output_name == name

    checkpoint = tmp_path / "run.ruo"
    score_csv(small_csv, two_outputs.url, wire=wire, output="left", checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match=r"is of another output \(left, not right\)"):
        score_csv(small_csv, two_outputs.url, wire=wire, output="right", checkpoint=checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wires", "output", "sentence"),
    [
        (["v2", "v2-json", "v1"], None, "has several outputs; choose one of left, right, as in output='left'"),
        (["paper"], None, r"has several outputs \(left, right\); this protocol carries one only"),
        (["v2", "v1"], "middle", "has no output 'middle'; choose one of left, right"),
    ],
)
def test_an_output_that_is_not_clear_is_an_error(
    small_csv: Path, two_outputs: LocalServer, wires: list[str], output: str | None, sentence: str
) -> None:
    """With several outputs and none named, or an unknown one, the error lists those of the model; nothing is dropped."""
    for wire in wires:
        with pytest.raises(ScoringError, match=sentence):
            score_csv(small_csv, two_outputs.url, wire=wire, output=output)


def test_outputs_do_not_mix_on_v1(small_csv: Path, right_scores: Scoring, scripted: Scripted) -> None:
    """The order of an answer's outputs does not matter, and a run keeps to the name of the first answer."""

    def answer(names: str, body: bytes) -> Reply:
        rows = orjson.loads(body)["instances"]
        predictions = [{name: sum(row) * (1 if name == "y" else -1) for name in names} for row in rows]
        return Reply(200, orjson.dumps({"predictions": predictions}))

    options: dict[str, Any] = {"wire": "v1", "chunk_size": 2, "concurrency": 1}
    turning = scripted(lambda number, body, _: answer("yz" if number % 2 else "zy", body))
    right_scores(turning.url, output="y", **options)

    changing = scripted(lambda number, body, _: answer("y" if number < 3 else "z", body))
    with pytest.raises(ScoringError, match="Rows 6 to 7 .* the model has no output 'y'; choose one of z"):
        score_csv(small_csv, changing.url, **options)


def test_metadata_without_outputs_is_no_obstacle(right_scores: Scoring, well: ScriptedServer) -> None:
    """Where a server does not list its outputs, the answers name them."""
    describe(well, outputs=[])
    for output in (None, "y"):
        assert right_scores(well.url, chunk_size=3, output=output).model.output_name == "y"


def test_rows_that_are_not_finite_are_counted(tmp_path: Path, well: ScriptedServer) -> None:
    """Rows with NaN, Infinity or an empty cell are counted, in a resumed run too, and the command line says so last."""
    path = tmp_path / "table.csv"
    path.write_text("a,b,c\n" + "1,2,3\n" * 8 + "nan,,3\n1,inf,3\n1,2,3\n,2,-inf\n")

    for _ in range(2):
        assert score_csv(path, well.url, chunk_size=5, checkpoint=tmp_path / "run.ruo").not_finite == 3
    result = CliRunner().invoke(main, ["score", str(path), well.url, "-o", str(tmp_path / "p.csv")])
    assert result.output.splitlines()[-1].endswith(", all rows scored, 3 rows with NaN or Infinity)")
    path.write_text("a,b,c\n1,2,3\n")
    assert score_csv(path, well.url).not_finite == 0


@pytest.mark.parametrize("shard", [None, (1, 3)])
@pytest.mark.parametrize("labels", [[5, 3, 9, 0, 1], [1, 1, 0, 1, 0], list("edcba")])
def test_results_keep_the_index_of_a_frame(well: ScriptedServer, labels: list[Any], shard: Any) -> None:
    """After a shuffle, predictions that are put beside the features stand in their own rows, whatever the index."""
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4, 5], "b": 1.0, "c": 2.0}, index=pd.Index(labels, name="who"))
    part = frame if shard is None else frame.iloc[1:3]

    scores = score_csv(frame, well.url, chunk_size=2, shard=shard).to_pandas()

    pd.testing.assert_index_equal(scores.index, part.index)
    beside = part.assign(sum=scores["prediction_0"])
    assert beside["sum"].tolist() == (part["a"] + 3).tolist()


def test_other_sources_count_their_rows(small_csv: Path, well: ScriptedServer, scripted: Scripted) -> None:
    """Without an index in the source, rows count from 0; a run that failed has the index of the rows it got to."""
    for source in (small_csv, pl.read_csv(small_csv)):
        pd.testing.assert_index_equal(score_csv(source, well.url).to_pandas().index, pd.RangeIndex(10))

    failing = scripted(sometimes(Reply(500), 2))
    with pytest.raises(ScoringError) as caught:
        score_csv(pd.read_csv(small_csv).iloc[::-1], failing.url, chunk_size=2, concurrency=1)
    scored = caught.value.scores.to_pandas()
    assert scored.index.tolist() == list(range(9, 9 - len(scored), -1))


@pytest.mark.parametrize("wire", WIRES)
def test_a_wrong_number_of_features_is_an_error(demo: Demo, server: LocalServer, wire: str) -> None:
    """A table with a column too few is refused with both numbers, by the client or by the server."""
    frame = pl.read_csv(demo.testset, n_rows=10).drop("pixel_0_0")

    with pytest.raises((TableError, ScoringError), match=r"63(.|\n)*64|64(.|\n)*63"):
        score_csv(frame, server.url, wire=wire)


def test_requests_has_a_row_per_request(demo: Demo, server: LocalServer) -> None:
    """`requests` has the server, the clock and the size of each request, in row order."""
    requests = score_csv(demo.testset, server.url, chunk_size=1_000).requests

    named = requests[["start", "rows", "attempts", "status", "server"]].values.tolist()
    assert named == [[start, min(1_000, 2_500 - start), 1, 200, server.url] for start in (0, 1_000, 2_000)]
    assert requests["worker"].str.len().all()
    assert (requests["bytes"] > requests["rows"] * 64 * 4).all()
    assert (requests[["seconds", "decode_s", "predict_s", "encode_s"]] > 0).all(axis=None)
    assert requests["began_s"].min() == 0


def test_it_works_in_threads(demo_scores: Scoring) -> None:
    """Two threads score at the same time, and each gets its own whole result."""
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda size: demo_scores(chunk_size=size), (100, 101)))

    assert [scores.choices.chunk_size for scores in found] == [100, 101]


def test_a_models_address_names_the_model(demo: Demo, server: LocalServer) -> None:
    """The address of a model works as a server's does; another model's is refused with its name."""
    model = score_csv(demo.testset, f"{server.url}/v2/models/model").model
    assert score_csv(demo.testset, server).model == model
    assert (model.name, model.platform) == ("model", "openvino_keras")
    with pytest.raises(ScoringError, match='404: There is no model "other" here'):
        score_csv(demo.testset, f"{server.url}/v2/models/other")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"chunk_size": 10**20}, f"chunk_size={10**20} must be at least 1 and less than 2**62."),
        ({"concurrency": 65_536}, "concurrency=65536 must be at least 1 and less than 2**16."),
        ({"ca": "no.pem"}, "ca='no.pem' is not a file of certificates in PEM form"),
        ({"ca": __file__}, f"ca={__file__!r} is not a file of certificates in PEM form"),
        ({"ca": ""}, "ca='.' is not a file of certificates in PEM form"),
        ({"chunk_size": 2.5}, "chunk_size=2.5 must be a whole number, 'auto' or None."),
        ({"chunk_size": True}, "chunk_size=True must be"),
        ({"concurrency": 0}, "concurrency=0 must be at least 1"),
        ({"retries": -1}, "retries=-1 must be"),
        ({"timeout": 0}, "timeout=0 is not"),
        ({"wire": "v3"}, "wire='v3' must be 'v2', 'v2-json', 'v1' or 'paper'."),
        ({"errors": "ignore"}, "errors='ignore' must be 'raise' or 'collect'"),
        ({"timeout": "60"}, "timeout='60' must be a number."),
        ({"argmax": "no"}, "argmax='no' must be True or False."),
        ({"shard": (1, 2, 3)}, "shard=(1, 2, 3) must be (a whole number, a whole number) or None."),
        ({"shard": (-1, 2)}, "shard=(-1, 2) is no part; (0, 4) is the first of four, (3, 4) the last"),
        ({"shard": (2, 2)}, "shard=(2, 2) is no part; (0, 4) is the first of four, (3, 4) the last"),
        ({"shard": (0, 0)}, "shard=(0, 0) is no part; (0, 4) is the first of four, (3, 4) the last"),
        ({"checkpoint": 5}, "checkpoint=5 must be a string, a path or None."),
        ({"columns": {"a", "b"}}, "must be a list of strings or whole numbers, or None."),
        ({"inputs": ["a"]}, "inputs=['a'] must be a mapping of strings to lists of strings or whole numbers, or None."),
        ({"headers": {"X-Key": 7}}, "headers must be a mapping of strings to strings or None."),
        ({"token": b"secret"}, "token must be a string or None."),
        ({"url": []}, "No server is given"),
        ({"url": 5}, "url=5 must be a string or a list of strings."),
        ({"url": [None]}, "url=[None] must be a string or a list of strings."),
    ],
)
def test_wrong_arguments_are_refused_at_once(small_csv: Path, arguments: dict[str, Any], sentence: str) -> None:
    """Before anything is sent; the error has the name, the value and what is accepted instead."""
    with pytest.raises(ArgumentError, match=re.escape(sentence)):
        score_csv(small_csv, **{"url": "http://127.0.0.1:9", **arguments})


def test_iter_scores_reads_no_further_than_a_few_chunks(long_csv: Path, well: ScriptedServer) -> None:
    """While the first block is in hand, no more than the window of chunks is sent."""
    blocks = iter_scores(long_csv, well.url, chunk_size=10, concurrency=2)
    next(blocks)
    time.sleep(0.3)
    sent = len(well.requests)
    blocks.close()  # type: ignore[attr-defined]

    assert sent <= 6


def test_a_table_whose_rows_get_shorter_is_scored_whole(tmp_path: Path, well: ScriptedServer) -> None:
    """The number of rows is estimated from the first ones; an estimate that is too low loses none."""
    path, long = tmp_path / "shorter.csv", 14_000  # rows of 600 bytes: more than are read at once
    rows = [f"{row:0200},{1:0200},{0:0200}\n" if row < long else f"{row},1,0\n" for row in range(40_000)]
    path.write_text("a,b,c\n" + "".join(rows))

    scores = score_csv(path, well.url, chunk_size=3000)

    np.testing.assert_array_equal(scores.predictions[:, 0], np.arange(40_000) + 1)


@pytest.mark.slow
def test_ctrl_c_ends_a_run_cleanly(small_csv: Path, scripted: Scripted) -> None:
    """An interrupt in mid-run is a KeyboardInterrupt at once, and no thread is left behind."""
    server = scripted(always(Reply(wait_s=30)))
    assert interrupted(small_csv, server.url, chunk_size=1, wait_s=1) == "['MainThread']\n"
    assert server.requests
