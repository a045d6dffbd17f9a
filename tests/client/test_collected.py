"""The accounting: every row scored or failed, every prediction in its row, all of one version."""

import math
import time
from typing import Any

import numpy as np
import pytest

from ruo.client.collected import Collected, Tally
from ruo.client.records import Answer, ModelInfo, RequestRecord
from ruo.errors import ScoringError
from ruo.tables import NO_LABEL


def sent(start: int, rows: int, labels: list[int] | None = None, failed: bool = False, **record: Any) -> Answer:
    """An answer with the rows' numbers as predictions, or an error in their place."""
    error = ScoringError("No.", start, start + rows) if failed else None
    predictions = None if failed else np.arange(start, start + rows, dtype=np.float32)[:, np.newaxis]
    classes = None if labels is None else np.array(labels)
    return Answer(RequestRecord(start, rows, 100, **record), predictions, error, classes)


def tally_of(*answers: Answer, may_change: bool = False) -> Tally:
    """What is counted after these answers of a model whose version nobody told, in this order."""
    tally = Tally(may_change)
    tally.model = ModelInfo("model", "", "")
    for answer in answers:
        tally.add(answer)
    return tally


def collected_from(*answers: Answer) -> Collected:
    """What is kept of these answers, in this order."""
    collected = Collected()
    for answer in answers:
        collected.add(answer)
    return collected


def test_every_row_is_scored_or_failed() -> None:
    """The sums are checked exactly: one row too few or too many is an error that names all three numbers."""
    tally = tally_of(sent(4, 6), sent(1, 2), sent(0, 1, failed=True), sent(3, 1, failed=True))

    tally.account_for(10)
    assert tally.scored == 8
    assert [(record.start, record.rows) for record in tally.records] == [(4, 6), (1, 2), (0, 1), (3, 1)]
    assert [(str(error), error.start) for error in tally.errors] == [("No.", 0), ("No.", 3)]
    for rows in (9, 11):
        with pytest.raises(ScoringError, match=f"^{rows} rows were read, 8 scored, 2 failed: some are lost.$"):
            tally.account_for(rows)


@pytest.mark.parametrize(
    ("versions", "wrong"), [("1", None), ("11", None), ("12", 1), ("121", 1), ("112", 2), ("-1", None), ("1-2", 2)]
)
@pytest.mark.parametrize("may_change", [False, True])
def test_all_answers_are_of_one_version(versions: str, wrong: int | None, may_change: bool) -> None:
    """The first answer of another one becomes an error that names it, unless it may change; one of none is as before."""
    tally = tally_of(may_change=may_change)
    answers = [tally.add(sent(2 * place, 2, version=name.strip("-"))) for place, name in enumerate(versions)]

    assert all((answer.error is None) is (answer.predictions is not None) for answer in answers)
    if wrong is None or may_change:
        assert {answer.error for answer in answers} == {None}
        assert tally.model.version == versions[-1]
        assert tally.scored == 2 * len(versions)
    else:
        error = answers[wrong].error
        assert str(error).startswith(f"Rows {2 * wrong} to {2 * wrong + 1} were answered by version 2 of the model, ")
        assert "version 1; score the table again" in str(error)
        assert (error.start, error.stop) == (2 * wrong, 2 * wrong + 2)
        assert tally.errors == [error]


def test_predictions_are_in_row_order() -> None:
    """Whatever the order of the answers, each row has its own; NaN stands for the others."""
    answers = [sent(60, 5), sent(0, 3), sent(20, 40), sent(3, 1, failed=True)]
    for order in (answers, answers[::-1], sorted(answers, key=lambda answer: answer.record.start)):
        predictions = collected_from(*order).predictions(70, None)[:, 0]

        scored = [*range(3), *range(20, 65)]
        np.testing.assert_array_equal(predictions[scored], scored)
        assert np.isnan(np.delete(predictions, scored)).all()
        assert predictions.dtype == np.float32


@pytest.mark.parametrize(("row_shape", "shape"), [(None, (3, 0)), ((2,), (3, 2))])
def test_without_an_answer_every_row_is_nan(row_shape: tuple[int, ...] | None, shape: tuple[int, ...]) -> None:
    """As many for each row as the model says it has outputs, if it does."""
    predictions = collected_from().predictions(3, row_shape)
    assert (predictions.shape, predictions.dtype) == (shape, np.float32)
    assert np.isnan(predictions).all()


@pytest.mark.parametrize(
    ("answers", "labels", "unclear"),
    [
        ([sent(2, 2, [7, 8]), sent(0, 2, [5, 6])], [5, 6, 7, 8], None),
        ([sent(2, 2, [7, NO_LABEL]), sent(0, 2, [5, 6])], [5, 6, 7, NO_LABEL], 3),
        ([sent(2, 2, [7, 8]), sent(0, 2, [NO_LABEL, NO_LABEL])], [NO_LABEL, NO_LABEL, 7, 8], 0),
        ([sent(2, 2, [7, 8], failed=True), sent(0, 2, [5, 6])], [5, 6, 7, 8], None),
        ([sent(0, 4)], None, None),
    ],
)
def test_a_row_without_a_class_is_named(answers: list[Answer], labels: list[int] | None, unclear: int | None) -> None:
    """Labels come with their rows, also with failed ones; the first row without a class is the one."""
    whole, _, row = collected_from(*answers).labels(4, None)
    assert (None if whole is None else whole.tolist(), row) == (labels, unclear)
    named = collected_from(sent(0, 2)._replace(labels=np.array(["x", "y"], object)))
    assert [named.labels(2, classes)[1] for classes in (["y", "x", "z"], ["x"])] == [["y", "x", "z"], ["x", "y"]]


def test_timings_are_of_this_runs_requests() -> None:
    """Sending lasts from the first request to the last answer; requests of an earlier run have no clock."""
    now = time.perf_counter()
    stored, slow, fast = sent(0, 1), sent(1, 1, began_s=now + 1, seconds=5.0), sent(2, 1, began_s=now + 2, seconds=1.0)

    timings = tally_of(stored, slow, fast).timings(now - 2, 30, 0.5, 0.25)

    assert (timings.forming_s, timings.loop_lag_s) == (0.5, 0.25)
    assert (timings.sending_s, timings.first_result_s) == pytest.approx((5, 5))
    assert 2 <= timings.total_s < 10
    assert timings.rows_per_s == pytest.approx(30 / timings.total_s)
    resumed = tally_of(stored).timings(now, 1, 0, 0)
    assert resumed.sending_s == 0
    assert math.isnan(resumed.first_result_s)


@pytest.mark.parametrize(("sizes", "usual"), [([], 0), ([5], 5), ([1, 1, 1, 10], 10), ([4, 4, 3], 4), ([2, 3, 4], 3)])
def test_the_usual_size_holds_the_middle_row(sizes: list[int], usual: int) -> None:
    """Half of all rows were sent in requests of at most that size."""
    assert tally_of(*(sent(0, size) for size in sizes)).usual_rows() == usual
