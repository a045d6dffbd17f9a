"""The figures of runs: seconds against the rows per request; what replicas gained, and what more would gain."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ruo.experiment import Costs
from ruo.figures import style
from ruo.figures.style import BLACK, BOLD, ORANGE, End, Line
from ruo.stats import digits, time_interval

# name: its look, whether requests are sent while others are formed, and the column of seconds
_TIMES = {
    "whole job, two phases": (style.BLACK_LINE, False, "total_s"),
    "sending to all results": (style.ORANGE_LINE, False, "sending_s"),
    "forming the requests": (style.GREEN_LINE, False, "forming_s"),
    "whole job, overlapped": (style.BLUE_LINE, True, "total_s"),
}
_OTHER_SYSTEMS = [style.LIGHT_BLUE_LINE, style.PINK_LINE, style.GREEN_LINE, style.BROWN_LINE]
_MODELS = [style.BLUE_LINE, style.ORANGE_LINE, style.GREEN_LINE, style.PINK_LINE]
_GREY = "#777777"


@style.house_style
def figure_of_sizes(runs: pd.DataFrame, others: Mapping[str, pd.DataFrame] | None = None) -> Figure:
    """Seconds against rows per request in the measured runs of a `Sweep`, as in the figure of 2023.

    `others` are the runs of systems without a request size, such as no network at all: a level line each.
    """
    rows = int(runs["rows"].max())
    title = f"Time to score {rows:,} rows against the rows that a request carries"
    figure, axes = style.one_panel(title)
    axes.set_ylabel("seconds (mean, 95 % interval, every run)")
    ends: list[End] = []
    for name, (look, pipelined, column) in _TIMES.items():
        ends += _draw_line(axes, runs[runs["pipelined"].astype(bool) == pipelined], column, name, look)
    for name, times in (others or {}).items():
        if (seconds := float(times["total_s"].mean())) > 0:
            axes.axhline(seconds, **style.DOTTED)
            ends.append((seconds, name, BLACK))
    # show intervals whole, except the very wide ones of few runs, which would press the points together
    highest = float(runs["total_s"].max())
    axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
    _mark_failures(axes, runs)
    style.label_ends(axes, ends)
    _size_axis(axes, runs, rows)
    figure.set_label(f"{title}: {_extremes(runs)}.")
    return figure


def _extremes(runs: pd.DataFrame) -> str:
    """The fastest and the slowest request size of each way of sending, in words."""
    parts = []
    for pipelined, group in runs.groupby(runs["pipelined"].astype(bool)):
        means = group.groupby("rows_per_request")["total_s"].mean().dropna().sort_values()
        if len(means):
            fastest, slowest = (f"{digits(means.iloc[at])} s at {means.index[at]:,}" for at in (0, -1))
            way = "overlapped" if pipelined else "in two phases"
            parts.append(f"{way} between {fastest} and {slowest} rows per request")
    return "; ".join(parts) or "no run succeeded"


@style.house_style
def figure_of_systems(runs: pd.DataFrame, *, old: str, new: str, bound: str) -> Figure:
    """Seconds for the whole job against rows per request, a line per system; the title compares `old` and `new`.

    `runs` has a row per run: system, rows_per_request, rows, and total_s, which is NaN where there was no result.
    """
    sized, rows = runs[runs["system"] != bound], int(runs["rows"].max())
    low, high = float(runs["total_s"].min()) / 1.5, float(runs["total_s"].max()) * 2.2
    title = f"Time to score {rows:,} rows"
    if {old, new} <= set(sized["system"]):
        best = sized.groupby(["system", "rows_per_request"])["total_s"].mean().groupby("system").min()
        bests = f"{best[old]:.1f} s with the system of 2023 at its best, {best[new]:.2f} s with ruo"
        title = f"The same {rows:,} rows: {bests}"
    figure, axes = style.one_panel(title)
    axes.set(ylabel="seconds for the whole job (mean, every run)", yscale="log", ylim=(low, high))
    others = [name for name in dict.fromkeys(sized["system"]) if name not in (old, new)]
    looks = {old: style.ORANGE_LINE, **dict(zip(others, cycle(_OTHER_SYSTEMS), strict=False)), new: style.BLUE_LINE}
    ends: list[End] = []
    for name, look in looks.items():
        ends += _draw_line(axes, runs[runs["system"] == name], "total_s", name, look)
    if (seconds := runs.loc[runs["system"] == bound, "total_s"].mean()) > 0:
        axes.axhline(seconds, **style.DOTTED)
        ends.append((float(seconds), bound, BLACK))
    _mark_failures(axes, runs[runs["system"] == old])
    style.label_ends(axes, ends)
    style.log_ticks(axes, low, high)
    _size_axis(axes, sized, rows)
    figure.set_label(f"Seconds for the whole job against the rows per request, a line per system. {title}.")
    return figure


def _draw_line(axes: Any, runs: pd.DataFrame, column: str, name: str, look: Line) -> list[End]:
    """Draw `column` against the rows per request: every run, and a line through the means with their intervals."""
    runs = runs.dropna(subset=[column])
    if runs.empty:
        return []
    groups = runs.groupby("rows_per_request")[column]
    means = pd.DataFrame([time_interval(seconds) for _, seconds in groups])
    # a single run has no interval; on a logarithmic axis none may reach 0
    below = (means["value"] - means["low"]).fillna(0).clip(upper=0.9 * means["value"])
    above = (means["high"] - means["value"]).fillna(0)
    axes.scatter(runs["rows_per_request"], runs[column], color=look["color"], **style.SAMPLES)
    axes.errorbar(list(groups.groups), means["value"], yerr=[below, above], elinewidth=1, **look)
    return [(float(means["value"].iloc[-1]), name, look["color"])]


def _size_axis(axes: Any, runs: pd.DataFrame, rows: int) -> None:
    """Set a logarithmic axis of the rows per request; the size of all `rows` is named as the whole set."""
    sizes = sorted(runs["rows_per_request"].unique())
    names = [f"whole set\n({size:,.0f})" if size == rows else f"{size:,.0f}" for size in sizes]
    # the limits come before the scale: a single size alone would span nothing
    axes.set(xlim=(sizes[0] / 1.25, sizes[-1] * 1.25), xscale="log", xlabel="rows per request")
    axes.set_xticks(sizes, names)
    axes.minorticks_off()


def _mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """Draw a cross near the top for each request size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=ORANGE, linewidths=2.5, zorder=4)
            place = {"xytext": (-10, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate("no result", (size, height), **place, **BOLD, color=ORANGE)


@style.house_style
def figure_of_speed_up(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Speed-up over one replica against replicas, a line per model at its fastest request size.

    `table` is that of `ruo.experiment.speed_ups`; short bars show the bounds that the costs set.
    """
    figure, axes = style.one_panel("How many times as fast as one replica?")
    most = int(table["replicas"].max())
    axes.plot([1, most], [1, most], **style.IDEAL)
    ends: list[End] = [(float(most), "ideal", _GREY)]
    gains = []
    for look, rows in zip(_MODELS, _fastest(table), strict=False):
        _draw_speed_up(axes, rows, runs, look)
        last = rows.iloc[-1]
        setting = f"{last['model'] or 'measured'}, {last['rows_per_request']:,} rows per request"
        ends.append((float(last["speed_up"]), setting, look["color"]))
        gains.append(f"{setting}, {last['speed_up']:.2f} times with {last['replicas']:,}")
    axes.set(xticks=sorted(table["replicas"].unique()), ylim=(0, max(most, float(table["speed_up"].max())) * 1.08))
    axes.set(xlabel="replicas", ylabel="times as fast as one replica (95 % interval, every block)")
    style.label_ends(axes, ends)
    figure.set_label(f"Speed-up over one replica against the number of replicas: {'; '.join(gains)}.")
    return figure


def _fastest(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each model, by replicas, at the request size that was fastest with the most replicas."""
    most = table[table["replicas"] == table.groupby("model", dropna=False)["replicas"].transform("max")]
    best = most.loc[most.groupby("model", dropna=False)["seconds"].idxmin(), ["model", "rows_per_request"]]
    rows = table.merge(best).sort_values("replicas", kind="stable")
    return [of_model for _, of_model in rows.groupby("model", dropna=False, sort=False)]


def _draw_speed_up(axes: Any, rows: pd.DataFrame, runs: pd.DataFrame, look: Line) -> None:
    good = runs[runs["error"].isna() & runs["model"].isin([rows["model"].iloc[0]])]
    good = good[good["rows_per_request"] == rows["rows_per_request"].iloc[0]]
    blocks = good.pivot_table(index="block", columns="replicas", values="total_s", aggfunc="mean")
    for replicas in blocks.columns:
        axes.scatter([replicas] * len(blocks), blocks[1] / blocks[replicas], color=look["color"], **style.SAMPLES)
    gains = rows["speed_up"]
    spread = [np.nan_to_num(side.clip(lower=0)) for side in (gains - rows["low"], rows["high"] - gains)]
    axes.errorbar(rows["replicas"], gains, yerr=spread, elinewidth=1, **look)
    axes.scatter(rows["replicas"], rows["bound"], marker="_", s=400, color=look["color"], linewidths=2)


@style.house_style
def figure_of_seconds(table: pd.DataFrame, model: str | None) -> Figure:
    """A heat map of the seconds for the whole job over replicas and rows per request; the fastest cell has a frame."""
    grid = table[table["model"].isin([model])].pivot(index="rows_per_request", columns="replicas", values="seconds")
    title = f"Seconds for the whole job{f' of {model}' if model else ''}, by replicas and rows per request"
    figure, axes = style.one_panel(title)
    values = grid.to_numpy()
    axes.grid(visible=False)
    axes.imshow(values, cmap="cividis_r", aspect="auto", origin="lower", norm="log")
    dark = (np.log(values) > np.log(values).mean()) & (values.max() > values.min())
    for (row, column), seconds in np.ndenumerate(values):
        color = "white" if dark[row, column] else BLACK
        axes.text(column, row, f"{seconds:.3g} s", ha="center", va="center", color=color, weight="bold")
    row, column = np.unravel_index(int(np.nanargmin(values)), values.shape)
    axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=ORANGE, linewidth=3))
    axes.set_xticks(range(len(grid.columns)), [f"{replicas:,}" for replicas in grid.columns])
    axes.set_yticks(range(len(grid.index)), [f"{size:,}" for size in grid.index])
    axes.set(xlabel="replicas", ylabel="rows per request")
    figure.set_label(f"{title}: from {np.nanmin(values):.3g} to {np.nanmax(values):.3g} s.")
    return figure


@style.house_style
def figure_of_outlook(costs: dict[str, Costs], rows: int, most: int = 32) -> Figure:
    """The speed-up that the measured costs predict for up to `most` replicas, each on its own machine."""
    figure, axes = style.one_panel(f"Predicted, not measured: more replicas, each on its own machine ({rows:,} rows)")
    counts = np.unique(np.geomspace(1, most, 40).round().astype(int))
    axes.plot(counts, counts, **style.IDEAL)
    ends: list[End] = []
    for look, (name, cost) in zip(_MODELS, costs.items(), strict=False):
        gains = [replace(cost, cores=None).speed_up(int(count), rows) for count in counts]
        axes.plot(counts, gains, color=look["color"], linestyle=look["linestyle"])
        ends.append((gains[-1], name, look["color"]))
    highest = max(1.0, *(gain for gain, _, _ in ends))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlim=(1, most), ylim=(0, highest * 1.15))
    axes.set(xlabel="replicas", ylabel="times as fast as one replica (predicted)")
    style.label_ends(axes, ends)
    axes.annotate("ideal", (highest, highest), color=_GREY, **BOLD, ha="right", va="bottom")
    last = "; ".join(f"{name}, {gain:.2f} times with {most}" for gain, name, _ in ends)
    figure.set_label(f"Predicted speed-up over one replica, each replica on a machine of its own: {last}.")
    return figure
