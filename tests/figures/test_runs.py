"""The figures of request sizes: what they show, drawn from made-up runs."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ruo.errors import ArgumentError
from ruo.experiment import speed_ups
from ruo.figures import figure_of_outlook, figure_of_ranking, figure_of_sizes, figure_of_speed_up, save_figure
from tests.experiment.test_scaling import HEAVY
from tests.experiment.test_scaling import runs as replica_runs
from tests.figures.made_up import SIZES, figure_of_systems, sweep_runs, systems, words
from tests.figures.test_every_figure import RANKINGS


def test_every_run_is_shown() -> None:
    """Each line has a name, a point for every run, a marker at every mean, and dashes and markers of its own."""
    runs = sweep_runs()
    figure = figure_of_sizes(runs)
    [axes] = figure.axes
    clouds = [len(cloud.get_offsets()) for cloud in axes.collections if hasattr(cloud, "get_offsets")]
    assert clouds.count(5 * len(SIZES)) == 4
    total = runs[runs["pipelined"]].groupby("rows_per_request")["total_s"].mean()
    drawn = [line for line in axes.lines if len(line.get_xdata()) == len(SIZES)]
    assert any(np.allclose(np.asarray(line.get_ydata(), float), total) for line in drawn)
    lines = [line for line in drawn if line.get_linestyle() != "None"]
    assert len({line.get_marker() for line in lines}) == len(lines) == 4
    named = "\n".join(words(figure))
    names = ["forming", "sending", "two phases", "overlapped", "seconds", "rows per request", "whole set\n(500,000)"]
    assert [name for name in names if name not in named] == []


def test_intervals_lie_within_the_figure() -> None:
    """An interval that is wider than the spread of the runs is not cut off at the top."""
    axes = figure_of_sizes(sweep_runs(spread=0.3, runs=3)).axes[0]
    intervals = [bars for bars in axes.collections if hasattr(bars, "get_segments")]
    assert max(segment[:, 1].max() for bars in intervals for segment in bars.get_segments()) <= axes.get_ylim()[1]


def test_a_size_without_a_result_is_crossed_out() -> None:
    """Where the paper's system gave no result, the figure says so."""
    assert words(figure_of_systems(systems())).count("no result") == 1


def test_the_title_says_what_the_points_show() -> None:
    """The seconds in the title are the means that are drawn, at the fastest size of each system."""
    slower = systems().assign(total_s=systems()["total_s"] * 1.5)
    runs = pd.concat([systems(), slower, systems()])  # the mean of 1, 1.5 and 1 is not the median
    figure = figure_of_systems(runs)
    first, second = figure.get_suptitle().splitlines()
    assert 0.8 < len(second) / len(first) < 1.25  # no word or two alone on a line
    assert f"{first} {second}" == "The same 500,000 rows: 15.2 s with the system of 2023 at its best, 0.82 s with ruo"
    means = [line.get_ydata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert min(means[0]) == pytest.approx(0.7 * 3.5 / 3)


def test_the_title_of_the_sizes_is_the_finding() -> None:
    """The title names the size with the least mean that is drawn, and its seconds."""
    runs = sweep_runs(spread=0)
    title = figure_of_sizes(runs).get_suptitle().replace("\n", " ")
    assert title == "Least time with 10,000 rows per request: 500,000 rows in 0.55\u00a0s"
    assert "No request size" in figure_of_sizes(runs.assign(total_s=np.nan)).get_suptitle()
    with pytest.raises(ArgumentError, match="no measured runs to draw"):
        figure_of_sizes(runs[:0])
    one = figure_of_sizes(runs[(runs["rows_per_request"] == 1_000) & runs["pipelined"]])
    assert one.get_label().endswith(": overlapped 0.900 s at 1,000 rows per request.")
    assert one.axes[0].lines[0].get_xdata() == pytest.approx([1_000], rel=0.01)  # beside no other size


def test_of_many_sizes_those_with_room_are_named() -> None:
    """Thirty sizes up to the whole table: no two names overlap, and the largest is among them."""
    sizes = [*range(100, 3_000, 100), 3_000]
    runs = pd.concat([sweep_runs()[:10].assign(rows_per_request=size, rows=3_000) for size in sizes])
    figure = figure_of_sizes(runs)
    assert "whole set\n(3,000)" in words(figure)
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert len(boxes) >= 6
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(sorted(boxes, key=lambda box: box.x0)))


def test_runs_that_differ_in_more_than_the_size_are_no_line() -> None:
    """Their mean would be that of nothing."""
    runs = pd.concat([sweep_runs().assign(wire=wire) for wire in ("v2", "v1")])
    with pytest.raises(ArgumentError, match=r"The runs differ in wire too; choose one, as in runs\[runs\['wire'\] =="):
        figure_of_sizes(runs)


def test_a_system_without_a_result_is_named() -> None:
    """Neither its seconds are NaN in the title, nor is it left out; nor is it an error if nothing has any."""
    old = systems()["system"] == "paper's system"
    runs = systems().assign(total_s=systems()["total_s"].mask(old))
    assert figure_of_systems(runs).get_suptitle() == "Time to score 500,000 rows"
    dots = figure_of_systems(runs[runs["rows_per_request"].isin([10_000])])
    assert "paper's system: no result" in words(dots)
    nothing = systems().assign(total_s=np.nan)
    assert "No system scored" in figure_of_systems(nothing).get_suptitle()
    figure_of_systems(nothing[nothing["rows_per_request"] == 10_000])


def test_the_title_of_a_ranking_is_of_one_that_counts() -> None:
    """The fastest combination whose runs can be relied on."""
    rows = [("a", 3000.0, "INVALID"), ("b", 2000.0, "VALID"), ("c", 1000.0, "")]
    ranking = pd.DataFrame(rows, columns=["combination", "rows_per_s", "verdict"])
    figure = figure_of_ranking(ranking)
    assert figure.get_suptitle() == "Most rows per second with b: 2,000"
    assert "rows per second (mean)" in words(figure)
    assert "rows per second (mean, 95 % interval)" in words(figure_of_ranking(ranking.assign(low=1.0, high=2.0)))
    assert figure_of_ranking(ranking[:1]).get_suptitle() == "No combination is VALID, so none is fastest"


def test_a_long_name_leaves_room_for_the_bars() -> None:
    """The end of a path is shown beside bars that can be seen."""
    figure = figure_of_ranking(RANKINGS["long path"])
    assert sum(word.endswith("mlp.keras") for word in words(figure)) == 1
    assert figure.axes[0].get_position().width > 0.3
    figure = figure_of_ranking(RANKINGS["long title"])
    assert figure.get_suptitle() == "No combination is VALID, so none is fastest"  # on one line, above the names
    assert len([word for word in words(figure) if word[0].isdigit()]) > 1


def test_one_size_is_drawn_as_dots() -> None:
    """Systems at one size have a row each, with their seconds and how many times as long as ruo's they are."""
    runs = systems()
    one_size = runs[runs["rows_per_request"].isin([10_000, 500_000]) & (runs["total_s"] != 2.0)].dropna()
    assert {"13 s  19x", "0.70 s", "0.65 s  0.93x", "paper's system"} <= set(words(figure_of_systems(one_size)))


def test_the_speed_up_in_the_title_is_drawn() -> None:
    """The title has the speed-up of each model with the most replicas; the outlook is log-log, so ideal is a line."""
    runs = replica_runs(HEAVY, replicas=(1, 2, 4), noise=0.0)
    title = figure_of_speed_up(speed_ups(runs, {"m": HEAVY}), runs).get_suptitle()
    assert title == "4 replicas: 3.7 times as fast with m"
    table = speed_ups(runs, {"m": HEAVY}, confidence=0.975)
    assert "times as fast as one replica (97.5 % interval)" in words(figure_of_speed_up(table, runs, 0.975))
    with pytest.raises(ArgumentError, match="no speed-up to draw"):
        figure_of_speed_up(speed_ups(runs[runs["replicas"] > 1]), runs)
    both = pd.concat([runs, runs[runs["replicas"] < 2].assign(model="n")])
    title = figure_of_speed_up(speed_ups(both, {"m": HEAVY, "n": HEAVY}), both).get_suptitle()
    assert " ".join(title.split()) == "4 replicas: 3.7 times as fast with m, 1.0 times as fast with n (1 replica)"
    axes = figure_of_outlook({"m": HEAVY}, 500_000).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_figure_has_its_own_alternative_text(tmp_path: Path) -> None:
    """By default the alternative text is the figure's label, which names the fastest and the slowest size."""
    picture = save_figure(figure_of_sizes(sweep_runs(spread=0)), tmp_path / "figure")
    assert "overlapped between 0.550 s at 10,000 and 1.70 s at 500,000 rows per request" in picture.alt
    with Image.open(picture.png) as image:
        assert image.text["Description"] == picture.alt
    assert "a line per system" in save_figure(figure_of_systems(systems()), tmp_path / "systems").alt
