"""The figures of request sizes: what they show, and that they are readable; drawn from made-up runs."""

import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from ruo.figures import figure_of_sizes, save_figure
from ruo.figures import figure_of_systems as draw_systems

SIZES = [1_000, 10_000, 100_000, 500_000]


def sweep_runs(spread: float = 0.03, runs: int = 5) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = []
    for size, forming, sending in zip(SIZES, (0.5, 0.45, 0.46, 0.5), (0.8, 0.35, 0.6, 1.6), strict=True):
        for _ in range(runs):
            a, b = forming * random.normal(1, spread), sending * random.normal(1, spread)
            for way in (True, False):
                total = max(a, b) + 0.1 if way else a + b
                rows.append((size, way, a, b, total, 500_000, None))
    names = ["rows_per_request", "pipelined", "forming_s", "sending_s", "total_s", "rows", "error"]
    return pd.DataFrame(rows, columns=names)


def systems() -> pd.DataFrame:
    rows = [("paper's system", size, 13.0 if size < 500_000 else np.nan) for size in SIZES]
    rows += [("ruo, wire v2", size, seconds) for size, seconds in zip(SIZES, (0.9, 0.7, 0.9, 2.0), strict=True)]
    rows += [("no network at all", 500_000, 0.65)]
    return pd.DataFrame(rows, columns=["system", "rows_per_request", "total_s"]).assign(rows=500_000)


def figure_of_systems(runs: pd.DataFrame):
    return draw_systems(runs, old="paper's system", new="ruo, wire v2", bound="no network at all")


def texts(figure) -> list[str]:
    FigureCanvasAgg(figure).draw()  # a figure alone does no layout
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def test_every_run_is_shown() -> None:
    """Each line has a point for every run and a marker at every mean."""
    runs = sweep_runs()
    axes = figure_of_sizes(runs).axes[0]
    clouds = [len(cloud.get_offsets()) for cloud in axes.collections if hasattr(cloud, "get_offsets")]
    assert clouds.count(5 * len(SIZES)) == 4
    total = runs[runs["pipelined"]].groupby("rows_per_request")["total_s"].mean()
    drawn = [line.get_ydata() for line in axes.lines if len(line.get_xdata()) == len(SIZES)]
    assert any(np.allclose(np.asarray(values, float), total) for values in drawn)


def test_both_ways_and_both_phases_are_named() -> None:
    """The four lines are named, and the last tick says that it is the whole set, with its number of rows."""
    words = "\n".join(texts(figure_of_sizes(sweep_runs())))
    for name in ("forming", "sending", "two phases", "overlapped", "seconds", "rows per request"):
        assert name in words
    assert "whole set\n(500,000)" in words


@pytest.mark.parametrize("draw", [lambda: figure_of_sizes(sweep_runs()), lambda: figure_of_systems(systems())])
def test_names_of_lines_do_not_overlap_and_are_not_cut(draw) -> None:
    """No two names of lines overlap, and none leaves the figure."""
    figure = draw()
    FigureCanvasAgg(figure).draw()  # a figure alone does no layout
    names = [text for text in figure.axes[0].texts if text.get_weight() == "bold" and text.get_text() != "no result"]
    boxes = [text.get_window_extent() for text in names]
    assert not any(one.overlaps(two) for one, two in combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_intervals_lie_within_the_figure() -> None:
    """An interval that is wider than the spread of the runs is not cut off at the top."""
    figure = figure_of_sizes(sweep_runs(spread=0.3, runs=3))
    axes = figure.axes[0]
    intervals = [bars for bars in axes.collections if hasattr(bars, "get_segments")]
    tops = [segment[:, 1].max() for bars in intervals for segment in bars.get_segments()]
    assert tops
    assert max(tops) <= axes.get_ylim()[1]


def test_lines_differ_without_colour() -> None:
    """Each line has its own marker and its own dashes."""
    drawn = [line for line in figure_of_sizes(sweep_runs()).axes[0].lines if len(line.get_xdata()) == len(SIZES)]
    lines = [line for line in drawn if line.get_linestyle() != "None"]
    assert len({line.get_marker() for line in lines}) == len(lines) == 4


def test_a_size_without_a_result_is_crossed_out() -> None:
    """Where the paper's system gave no result, the figure says so."""
    assert texts(figure_of_systems(systems())).count("no result") == 1


def test_saved_as_png_and_svg_with_words(tmp_path: Path) -> None:
    """PNG (200 dots per inch) and SVG say in words what they show; the same figure gives the same files."""
    for name in ("one", "two"):
        save_figure(figure_of_sizes(sweep_runs()), tmp_path / f"{name}.png", "what it shows")
    with Image.open(tmp_path / "one.png") as image:
        assert image.text["Description"] == "what it shows"
        assert round(image.info["dpi"][0]) == 200
    assert "what it shows" in ET.tostring(ET.parse(tmp_path / "one.svg").getroot(), encoding="unicode")
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_style_is_left_as_it_was() -> None:
    """Drawing changes nothing of matplotlib's settings and opens no window."""
    before = dict(mpl.rcParams)
    figure_of_systems(systems())
    assert dict(mpl.rcParams) == before


def test_the_title_says_what_the_points_show() -> None:
    """The seconds in the title are the means that are drawn, at the fastest size of each system."""
    runs = pd.concat([systems(), systems().assign(total_s=systems()["total_s"] * 1.5)])
    runs = pd.concat([runs, systems()])  # the mean of 1, 1.5 and 1 is not the median
    figure = figure_of_systems(runs)
    title = figure.axes[0].get_title(loc="left")
    assert title == "The same 500,000 rows: 15.2 s with the system of 2023 at its best, 0.82 s with ruo"
    means = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert min(means[0]) == pytest.approx(0.7 * 3.5 / 3)


def test_a_figure_has_its_own_alternative_text(tmp_path: Path) -> None:
    """By default the alternative text is the figure's label, which names the fastest and the slowest size."""
    picture = save_figure(figure_of_sizes(sweep_runs(spread=0)), tmp_path / "figure")
    assert "overlapped between 0.550 s at 10,000 and 1.70 s at 500,000 rows per request" in picture.alt
    with Image.open(picture.png) as image:
        assert image.text["Description"] == picture.alt
    assert "a line per system" in save_figure(figure_of_systems(systems()), tmp_path / "systems").alt
