"""Label columns as class indices."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ruo.table import NO_LABEL, open_table
from ruo.table.csvtext import PIECE_BYTES


@pytest.mark.parametrize(
    ("columns", "indices"),
    [
        ({"Label_0": [1, 0], "Label_1": [0, 1]}, [0, 1]),
        ({"Label_class": [3, 0]}, [3, 0]),
        ({"Label_0": [0, 1], "Label_1": [0, 1]}, [NO_LABEL, NO_LABEL]),
        ({"Label_name": ["cat", "dog"]}, [NO_LABEL, NO_LABEL]),
        ({"Label_x": [0.5, -1]}, [NO_LABEL, NO_LABEL]),
    ],
)
def test_labels_are_class_indices(tmp_path: Path, columns: dict[str, list[object]], indices: list[int]) -> None:
    """One-hot columns and a single column of whole numbers give indices; anything else gives none."""
    frame = pl.DataFrame({"a": [1.0, 2.0], **columns})
    frame.write_csv(tmp_path / "labels.csv")

    for source in (frame, tmp_path / "labels.csv"):
        (block,) = open_table(source).blocks(None)
        np.testing.assert_array_equal(indices, block.labels)


@pytest.mark.parametrize(
    ("later", "index"),
    [("1", 1), ("1.0", 1), ("300", 300), ("-1", NO_LABEL), ("", NO_LABEL), ("NaN", NO_LABEL), ("cat", NO_LABEL)],
)
def test_labels_may_be_written_otherwise_in_a_later_piece(tmp_path: Path, later: str, index: int) -> None:
    """Whole numbers first, and far below a fraction, a large number, an empty cell or text: no row is lost or changed."""
    count = 2 * PIECE_BYTES // len("0.25,7\n")
    path = tmp_path / "labels.csv"
    path.write_text("a,Label_class\n" + "0.25,7\n" * count + f"0.5,{later}\n" + "0.75,7\n" * count)

    blocks = list(open_table(path).blocks(None))

    np.testing.assert_array_equal(np.repeat([0.25, 0.5, 0.75], [count, 1, count]), blocks[0].features[:, 0])
    assert blocks[0].labels is not None
    np.testing.assert_array_equal(np.repeat([7, index, 7], [count, 1, count]), blocks[0].labels)
