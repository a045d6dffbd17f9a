"""What is true of every figure: its texts are readable, it is saved in three formats, and it leaves matplotlib alone."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from ruo import figures
from ruo.experiment import speed_ups
from tests.experiment.test_scaling import HEAVY
from tests.experiment.test_scaling import runs as replica_runs
from tests.figures.made_up import evaluated, figure_of_systems, shown, sweep_runs, systems, training

LONG_PATH, LONG_NAME = f"model=/data/{'deep/' * 30}mlp.keras", "model=softmax3.keras,chunk_sizes=[100,1000]"
LONG = ["aeroplane", "automobile", "bird", "cat", "an extraordinarily long name of a class", "deer"]
CLASSES = {
    "2 classes": evaluated(2, 500_000),
    "2 classes with long names": evaluated(2, names=["a cat that is asleep now", "a cat that is not asleep"]),
    "6 classes with long names": evaluated(6, names=LONG),
    "2 classes with dollars in their names": evaluated(2, names=["$10k-$20k", "cost_$^$x"]),
    "10 classes": evaluated(10),
    "30 classes": evaluated(30, 100_000),
}
TRAININGS = {
    "usual training": training(),
    "best epoch is last": training(best=12),
    "best epoch is first": training(best=1),
    "one epoch": training(epochs=1, best=1),
    "nothing wrong": training(right=100, easy=True),
    "nothing right": training(right=0),
    "long training": training(epochs=200, best=150),
}


RANKINGS = {
    "long path": pd.DataFrame({"combination": [LONG_PATH], "rows_per_s": 9.0, "verdict": "VALID"}),
    "long title": pd.DataFrame({"combination": [LONG_NAME], "rows_per_s": 250_000.0, "verdict": "INVALID"}),
}


def draw_speed_up(models: list[str]) -> Figure:
    runs = pd.concat([replica_runs(HEAVY).assign(model=model) for model in models])
    return figures.figure_of_speed_up(speed_ups(runs), runs)


FIGURES = [
    pytest.param(draw, made, id=f"{draw.__name__} {name}")
    for draws, cases in (
        ((figures.figure_of_sizes,), {"sweep": sweep_runs()}),
        ((figure_of_systems,), {"systems": systems(), "one size": systems().replace("ruo, wire v2", LONG_PATH)[3:5]}),
        ((figures.figure_of_ranking,), RANKINGS),
        ((draw_speed_up,), {"model with a long name": ["model_" * 12], "3 models": ["mlp", "cnn", "transformer"]}),
        ((figures.figure_of_learning,), TRAININGS),
        ((figures.figure_of_confusion, figures.figure_of_calibration), CLASSES),
    )
    for draw in draws
    for name, made in cases.items()
]
Draw = Callable[..., Figure]


@pytest.mark.parametrize(("draw", "made"), FIGURES)
def test_no_text_overlaps_or_is_cut(draw: Draw, made: object) -> None:
    """Whatever is drawn, no texts overlap, and all are within the figure."""
    figure = draw(made)
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in shown(figure)]
    assert [(a, b) for (a, one), (b, two) in combinations(boxes, 2) if one.overlaps(two)] == []
    inside = figure.bbox.padded(1)
    assert [a for a, box in boxes if not (inside.contains(*box.min) and inside.contains(*box.max))] == []


@pytest.mark.parametrize(
    ("draw", "made"),
    [
        (figures.figure_of_sizes, sweep_runs()),
        (figure_of_systems, systems()),
        (figures.figure_of_learning, training()),
        *((draw, evaluated(3)) for draw in (figures.figure_of_confusion, figures.figure_of_calibration)),
    ],
)
def test_saved_with_its_numbers(draw: Draw, made: object, tmp_path: Path) -> None:
    """PNG (200 dots per inch), SVG and CSV lie side by side and say what they show; the same figure gives the same."""
    before, numbers = dict(mpl.rcParams), systems()
    for name in ("one", "two"):
        figures.save_figure(draw(made), tmp_path / f"{name}.png", "what it shows", numbers)
    assert dict(mpl.rcParams) == before
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert pd.read_csv(tmp_path / "one.csv").shape == numbers.shape
    assert "what it shows" in (tmp_path / "one.svg").read_text()
    with Image.open(tmp_path / "one.png") as image:
        assert image.text["Description"] == "what it shows"
        assert round(image.info["dpi"][0]) == 200
