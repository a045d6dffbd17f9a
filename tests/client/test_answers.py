"""What counts as an answer to a chunk of rows."""

import numpy as np
import pytest

from ruo.client.answers import most_bytes, predictions_of, read_server_timing, request_id
from ruo.client.records import Chunk, ModelInfo, RequestRecord
from ruo.tables import Block
from ruo.wire import WIRES, InferRequest, InferResponse, WireError
from ruo.wire.messages import Array

MODEL = ModelInfo("model", "1", "test", output_name="y")


def chunk(features: Array) -> Chunk:
    """A chunk that begins at row 40."""
    return Chunk(Block(40, {"x": features}, None), WIRES["v2"].encode_request(InferRequest({"x": features})))


ROWS = chunk(np.ones((3, 2), np.float32))


@pytest.mark.parametrize(("given", "shape"), [((3,), (3, 1)), ((3, 4), (3, 4)), ((3, 2, 2), (3, 2, 2))])
def test_predictions_are_rows_of_float32(given: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """One output for each row is a column."""
    predictions = predictions_of(InferResponse({"y": np.ones(given)}), ROWS, MODEL)
    assert (predictions.shape, predictions.dtype) == (shape, np.float32)


def test_the_models_output_is_taken() -> None:
    """The output is taken by its name, wherever it stands, or because it is the only one."""
    two, one, unnamed = {"z": np.zeros(3), "y": np.ones(3)}, {"w": np.ones(3)}, {"": np.ones(3)}
    for outputs, name in ((two, "y"), (one, ""), (unnamed, "")):
        assert predictions_of(InferResponse(outputs), ROWS, MODEL._replace(output_name=name)).all()


@pytest.mark.parametrize(
    ("outputs", "wanted", "sentence"),
    [
        (["z", "y"], "", "the model has several outputs; choose one of z, y, as in output='z'"),
        (["z", "y"], "w", "the model has no output 'w'; choose one of z, y, as in output='z'"),
        (["z"], "w", "the model has no output 'w'; choose one of z, as in output='z'"),
        ([""], "w", "the model has no output 'w'; leave `output` out"),
    ],
)
def test_no_output_is_taken_blindly(outputs: list[str], wanted: str, sentence: str) -> None:
    """Which of several outputs is meant has to be said, and it has to be there; the error lists what there is."""
    answer = InferResponse(dict.fromkeys(outputs, np.ones(3)))
    with pytest.raises(WireError, match=f"^{sentence}$"):
        predictions_of(answer, ROWS, MODEL._replace(output_name=wanted))


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_whole_numbers_come_back_as_they_are(dtype: type[np.integer]) -> None:
    """Up to 2**24, with either sign, float32 holds whole numbers exactly; beyond it, an answer is refused."""
    most = 2**24
    least = 0 if np.issubdtype(dtype, np.unsignedinteger) else -most
    exact = np.array([most, 0, least], dtype)
    assert predictions_of(InferResponse({"y": exact}), ROWS, MODEL)[:, 0].tolist() == [most, 0, least]
    for wrong in (exact + dtype(1), exact - dtype(1) if least else exact + dtype(2)):
        with pytest.raises(WireError, match=r"whole numbers above 2\*\*24"):
            predictions_of(InferResponse({"y": wrong}), ROWS, MODEL)


def test_an_answer_names_its_request() -> None:
    """The id has the first and the last row, and an answer without an id passes."""
    assert request_id(40, 3) == "rows 40-42"
    for answer_id in ("rows 40-42", None, ""):
        assert predictions_of(InferResponse({"y": np.ones(3)}, id=answer_id), ROWS, MODEL).all()


@pytest.mark.parametrize("cell", [np.nan, np.inf])
def test_only_rows_without_a_number_may_lack_one(cell: float) -> None:
    """NaN is a right answer for a row that holds NaN or Infinity, and a wrong one for any other row, which is named."""
    rows = chunk(np.array([[1, 1], [cell, 1], [1, 1]], np.float32))
    right = InferResponse({"y": np.array([[1, 2], [np.nan, 3], [1, 4]])})
    assert np.isnan(predictions_of(right, rows, MODEL)).tolist() == [[False, False], [True, False], [False, False]]

    wrong = InferResponse({"y": np.array([[1, 2], [np.nan, 3], [1, -np.inf]])})
    with pytest.raises(WireError, match="^row 42 has the prediction -inf, though its features are numbers$"):
        predictions_of(wrong, rows, MODEL)


def test_images_are_rows_too() -> None:
    """Rows and predictions may have any shape; a NaN anywhere in a row excuses its predictions only."""
    images = np.ones((3, 2, 2, 1), np.float32)
    images[1, 1, 0, 0] = np.nan
    predictions = np.ones((3, 2, 2), np.float32)
    predictions[1, 0, 1] = np.nan
    assert predictions_of(InferResponse({"y": predictions}), chunk(images), MODEL, (2, 2)).shape == (3, 2, 2)


def test_the_servers_times_are_read() -> None:
    """Milliseconds become seconds; what a proxy adds is left out."""
    record, times = RequestRecord(0, 1, 1), "cdn;dur=9, decode;dur=1500,queue;dur=2.5, predict;dur=x, encode;desc=y"
    read_server_timing(f"{times}, re-encode;dur=3", record)
    assert (record.decode_s, record.queue_s) == (1.5, 0.0025)
    assert np.isnan([record.predict_s, record.encode_s]).all()
    assert not hasattr(record, "cdn_s")


@pytest.mark.parametrize("wire", ["v2", "v2-json", "v1", "paper"])
@pytest.mark.parametrize(("rows", "outputs"), [(1, 1), (1000, 10), (10, 100_000)])
def test_the_longest_right_answer_may_pass(wire: str, rows: int, outputs: int) -> None:
    """Numbers with all their digits are within the bound on any wire, and the bound is not much larger."""
    values = np.full((rows, outputs), -1.2345678e-30, np.float32)
    request = InferRequest({"x": values}, outputs={"y": True})
    size = WIRES[wire].encode_response(InferResponse({"y": values}), request).size
    assert size < most_bytes(rows, (outputs,)) < 64 * values.size + 2_000_000


@pytest.mark.parametrize("shape", [None, (-1,), (2, -1)])
def test_an_unknown_shape_has_a_bound_too(shape: tuple[int, ...] | None) -> None:
    """The bound is 64 kB for each row, and 65 MB beside them."""
    assert most_bytes(0, shape) == 65 << 20
    assert most_bytes(1000, shape) == (65 << 20) + 65_536_000
    assert most_bytes(1000, (0,)) == most_bytes(0, (1,)) == 1 << 20
