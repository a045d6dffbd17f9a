"""Models with several inputs, of numbers and of text, and models whose server does not describe them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from ruo import ArgumentError, ScoringError, TableError, local_server, score_csv
from ruo.distributed import scorer
from ruo.wire import ONLY, WIRES, v1
from tests.client.conftest import Scoring, Scripted, computed, describe, statuses
from tests.conftest import Reply, ScriptedServer

ROWS = 40
INPUTS = {"size": ["a", "b"], "count": ["n"], "kind": ["proto", "state"]}
DATATYPES = {"size": "FP32", "count": "INT64", "kind": "BYTES"}
WIRE = pytest.mark.parametrize("wire", ["v2", "v2-json", "v1"])


def inputs_of(tensors: dict[str, tuple[str, list[int]]]) -> list[dict[str, Any]]:
    return [{"name": key, "datatype": of, "shape": shape} for key, (of, shape) in tensors.items()]


def metadata_v1(tensors: dict[str, tuple[str, list[int]]], name: str = "serving_default") -> bytes:
    inputs = {}
    for key, (of, shape) in tensors.items():
        dimensions = {"dim": [{"size": str(size)} for size in shape], "unknown_rank": False}
        inputs[key] = {"dtype": v1.DATATYPES[of], "tensor_shape": dimensions}
    signature = {name: {"inputs": inputs, "outputs": {}}}
    return json.dumps({"metadata": {"signature_def": {"signature_def": signature}}}).encode()


TENSORS = {name: (DATATYPES[name], [-1, len(columns)]) for name, columns in INPUTS.items()}


def answer(inputs: dict[str, Any]) -> np.ndarray:
    """The size of a row, times 1,000 for tcp, and its count behind the point."""
    text = np.array([[cell.decode() for cell in row] for row in inputs["kind"]])
    factor = np.where(text[:, :1] == "tcp", 1000, 1)
    last = np.asarray(inputs["count"]).astype(np.int64) % 1000
    return (np.asarray(inputs["size"]).sum(axis=1, keepdims=True) * factor + last / 1000).astype(np.float32)


@pytest.fixture
def several(scripted: Scripted) -> ScriptedServer:
    """A server of a model with the three inputs, on every protocol; at most 15 rows a request."""

    def script(number: int, body: bytes, headers: dict[str, str]) -> Reply:
        wire = "v1" if "predict" in server.paths[-1] else "v2"
        if len(WIRES[wire].decode_request(headers, body).inputs["kind"]) > 15:
            return Reply(413, b"too large")
        return computed(body, headers, wire, answer)

    server = scripted(script)
    describe(server, inputs=inputs_of(TENSORS))
    for path in ("/model", "/model/versions/1"):
        server.pages["/v1/models" + path] = statuses("1")
        server.pages["/v1/models" + path + "/metadata"] = metadata_v1(TENSORS)
    return server


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    """Rows with a whole number that float32 cannot hold, and text with commas and other letters."""
    path = tmp_path / "flows.csv"
    protocols = ["tcp", "udp", '"a,ü"', "tcp"]
    lines = [f"{protocols[i % 4]},{i},0.5,{2**53 + 1 + i},S{i}\n" for i in range(ROWS)]
    path.write_text("proto,a,b,n,state\n" + "".join(lines))
    return path


FACTORS = [1000, 1, 1, 1000]
SUMS = np.array([[(i + 0.5) * FACTORS[i % 4] + (2**53 + 1 + i) % 1000 / 1000] for i in range(ROWS)], np.float32)


@WIRE
def test_a_table_fills_several_inputs(several: Any, flows: Path, wire: Any, tmp_path: Path) -> None:
    """Each input gets its columns in its datatype, text and whole numbers exactly, also halved and from a checkpoint."""
    url, path = f"{several.url}/{wire[:2]}/models/model", tmp_path / "run.ruo"
    for _ in range(2):
        scores = score_csv(flows, url, inputs=INPUTS, wire=wire, chunk_size=20, checkpoint=path)
        np.testing.assert_array_equal(scores.predictions, SUMS)
    assert scores.requests["resumed"].all()
    assert scores.requests["rows"].tolist() == [10] * 4


@WIRE
def test_columns_of_the_inputs_own_names(scripted: Scripted, wire: str) -> None:
    """Where each input is one column, its name says which, in any order of the table; its shape may have no columns."""

    def compute(inputs: dict[str, np.ndarray]) -> np.ndarray:
        shapes.append([array.shape for array in inputs.values()])
        return inputs["a"][:, 0] - inputs["b"] - np.char.str_len(inputs["c"].astype(str))

    shapes: list[Any] = []
    server = scripted(lambda _, *request: computed(*request, wire, compute))
    tensors = {"a": ("FP32", [-1, 1]), "b": ("FP64", [-1]), "c": ("BYTES", [-1])}
    describe(server, inputs=inputs_of(tensors))
    server.pages["/v1/models/model/metadata"] = metadata_v1(tensors)
    scores = score_csv(pl.DataFrame({"b": [1.0, 2.0], "a": [10, 30], "c": ["", "xy"]}), server.url, wire=wire)
    assert scores.predictions.tolist() == [[9], [26]]
    assert shapes == [[(2, 1), (2,), (2,)]]


@pytest.mark.parametrize("names", [["b", "a", "c"], ["b", "a"], "bac", {"b": 1}, [1, 2, 3], None])
def test_columns_are_sent_in_the_order_that_the_server_tells(well: ScriptedServer, names: Any) -> None:
    """By name, where the server tells a name for each column of its input; by their places where it means something else."""
    describe(well, parameters={"features": names})

    score_csv(pl.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]}), well.url)

    (body,) = well.requests
    assert np.frombuffer(body[-12:], "<f4").tolist() == ([2, 1, 3] if names == ["b", "a", "c"] else [1, 2, 3])


def test_nan_is_found_in_every_input(several: Any, flows: Path) -> None:
    """A missing number counts as not finite and may have a NaN for an answer; where JSON cannot hold it, it is named."""
    flows.write_text(flows.read_text().replace(",7,0.5,", ",7,,"))
    scores = score_csv(flows, several.url, inputs=INPUTS, chunk_size=10)
    assert (scores.not_finite, np.flatnonzero(np.isnan(scores.predictions)).tolist()) == (1, [7])
    with pytest.raises(TableError, match=r'row 7, column "b": nan cannot be written as JSON'):
        score_csv(flows, several.url, inputs=INPUTS, wire="v2-json")


@pytest.mark.slow
@WIRE
def test_a_keras_model_with_two_inputs(tmp_path: Path, wire: Any) -> None:
    """A real model behind a real server says the same of a table as `predict` says of its two arrays."""
    import keras

    size, other = keras.Input((3,), name="size"), keras.Input((1,), name="other")
    joined = keras.layers.Concatenate()([keras.layers.Dense(4)(size), other])
    model = keras.Model([size, other], keras.layers.Dense(2)(joined))
    model.save(tmp_path / "two.keras")
    cells = np.random.default_rng(1).normal(size=(500, 4)).astype(np.float32)
    frame = pl.DataFrame(cells, schema=["a", "b", "c", "d"])
    inputs = {"size": ["a", "b", "c"], "other": ["d"]}
    with local_server(tmp_path / "two.keras", workers=1, settings={"KERAS_BACKEND": "openvino"}) as server:
        scores = score_csv(frame, server.url, inputs=inputs, wire=wire, chunk_size=90)
    np.testing.assert_allclose(scores.predictions, model.predict([cells[:, :3], cells[:, 3:]], verbose=0), atol=1e-5)


@pytest.mark.parametrize(("wire", "signature"), [("v2", "serving_default"), ("v2", "the only one"), ("paper", "x")])
def test_v1_metadata_give_the_datatype(scripted: Scripted, wire: Any, signature: str) -> None:
    """Whole numbers that no float can hold reach the model on JSON as they are, also on both sides of 2**63."""
    uses = "v1" if wire == "v2" else wire
    server = scripted(lambda _, *request: computed(*request, uses, lambda inputs: next(iter(inputs.values())) % 1000))
    server.pages["/v1/models/m/metadata"] = metadata_v1({"x": ("UINT64", [-1, 1])}, signature)
    frame = pl.DataFrame({"n": [5, 2**53 + 1, 2**63 + 1]})
    assert score_csv(frame, f"{server.url}/v1/models/m", wire=wire).predictions.tolist() == [[5], [993], [809]]


@pytest.mark.parametrize("wire", ["v1", "paper"])
def test_a_server_without_metadata_gets_every_digit(scripted: Scripted, wire: Any) -> None:
    """It may compute in float64, which wires without datatypes do not tell."""
    server = scripted(lambda _, *request: computed(*request, wire, lambda inputs: next(iter(inputs.values())) % 1000))
    frame = pl.DataFrame({"n": [5, 2**24 + 1]})
    assert score_csv(frame, f"{server.url}/v1/models/m", wire=wire).predictions.tolist() == [[5], [217]]


def test_what_the_wire_of_2023_takes(scripted: Scripted, several: Any, flows: Path) -> None:
    """The columns go by the names that the server tells, for a scorer too; several inputs, and text, are refused."""
    server = scripted(lambda _, *request: computed(*request, "paper", lambda inputs: inputs[ONLY][:, :1]))
    server.pages["/v1/models/model"] = statuses("1", features=["b", "a", "c"])
    server.pages["/v1/models/model/metadata"] = metadata_v1({"x": ("FP32", [-1, 3])})
    frame = pd.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]})
    assert score_csv(frame, server.url, wire="paper").predictions.tolist() == [[2.0]]
    assert scorer(server.url, wire="paper")(frame)["prediction_0"].tolist() == [2.0]
    with pytest.raises(TableError, match="has no feature 'b', which model 'model' takes"):
        score_csv(frame.rename(columns={"b": "d"}), server.url, wire="paper")
    with pytest.raises(ArgumentError, match="wire='paper' carries one input only; take another wire"):
        score_csv(flows, several.url, inputs=INPUTS, wire="paper")
    server.pages["/v1/models/model/metadata"] = metadata_v1({"x": ("BYTES", [-1, 3])})
    with pytest.raises(TableError, match='column "b": text cannot be sent on this wire; take another one'):
        score_csv(frame.astype(str), server.url, wire="paper")


def test_a_server_that_does_not_describe_its_input(small_csv: Path, right_scores: Scoring, scripted: Scripted) -> None:
    """Without a name it is an error that says what to pass; with name and datatype the input is sent so."""

    def sums(inputs: dict[str, np.ndarray]) -> np.ndarray:
        assert inputs["predict"].dtype == np.float64
        return inputs["predict"].sum(axis=1, keepdims=True)

    server = scripted(lambda _, *request: computed(*request, compute=sums, output="predict"))
    describe(server, versions=[], platform="", inputs=[], outputs=[])
    with pytest.raises(ScoringError, match=r'name its input and datatype, as in input_name="predict", datatype="FP64"'):
        score_csv(small_csv, server.url)
    right_scores(server.url, input_name="predict", datatype="FP64")


@pytest.mark.parametrize("options", [{"input_name": "z"}, {"datatype": "FP64"}])
def test_what_the_server_describes_is_not_overruled(small_csv: Path, well: ScriptedServer, options: Any) -> None:
    """Another name or datatype than that of the metadata is an error, and the right one is none."""
    with pytest.raises(ArgumentError, match="takes 'x' in FP32, as its server says; leave input_name and datatype out"):
        score_csv(small_csv, well.url, **options)
    assert len(score_csv(small_csv, well.url, input_name="x", datatype="FP32")) == 10
