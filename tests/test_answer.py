"""An answer as people read it."""

import pandas as pd

from ruo.answer import Answer


def test_the_best_row_is_marked_and_no_text_is_cut() -> None:
    """By a star, and in a notebook by its colour; one row alone, or a table that names no column to judge by, has none."""
    note = "a" * 80 + "<b>"
    answer = Answer("So it is.", "VALID", pd.DataFrame({"its_note": [note, "-"], "s": [2.0, 1.0]}), "s")
    assert [line.split() for line in answer.text().splitlines()[4:]] == [["its", "note", "s"], [note, "2.00"], ["*", "-", "1.00"]]  # fmt: skip
    html = " ".join(answer.html().split())
    assert f"<td></td> <td>{note.replace('<b>', '&lt;b&gt;')}</td> <td>2.00</td>" in html
    assert 'background: rgba(0, 114, 178, .18)"> <td>*</td> <td>-</td> <td>1.00</td>' in html
    for table, least in ((answer.table[:1], "s"), (answer.table, None)):
        assert "*" not in str(Answer("So it is.", "", table, least))
