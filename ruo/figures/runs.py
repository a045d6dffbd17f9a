"""The figures of runs: seconds against the rows per request; what replicas gained; the combinations of a sweep."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ruo.errors import ArgumentError, count
from ruo.experiment import Costs
from ruo.experiment.validity import name_of_size, varied
from ruo.figures import style
from ruo.figures.style import BLUE, BOLD, GREY, ORANGE, End, Line
from ruo.stats import digits, time_interval

# name: its look, whether requests are sent while others are formed, and the column of seconds
_TIMES = {
    "whole job, two phases": (style.BLACK_LINE, False, "total_s"),
    "sending to all results": (style.ORANGE_LINE, False, "sending_s"),
    "forming the requests": (style.GREEN_LINE, False, "forming_s"),
    "whole job, overlapped": (style.BLUE_LINE, True, "total_s"),
}
_DODGE = 0.008  # lines stand beside one another by this share of the axis, so that their bars can be told apart
_MOST_RANKED = 30  # bars that can be read


@style.house_style
def figure_of_sizes(runs: pd.DataFrame, others: Mapping[str, pd.DataFrame] | None = None) -> Figure:
    """Seconds against rows per request in the measured runs of a `Sweep`, as in the figure of 2023.

    `others` are the runs of systems without a request size, such as no network at all: a level line each.
    """
    if names := varied(runs, "rows_per_request", "pipelined"):
        raise ArgumentError(f"The runs differ in {names[0]} too; choose one, as in runs[runs[{names[0]!r}] == ...].")
    if runs.empty:
        raise ArgumentError("There are no measured runs to draw; go on with the sweep, which was interrupted.")
    rows = int(runs["rows"].max())
    means = runs.groupby([runs["pipelined"].astype(bool), "rows_per_request"])["total_s"].mean().dropna()
    figure, axes = style.one_panel(_fastest_size(means, rows))
    axes.set_ylabel("seconds (mean, 95 % interval, every run)")
    ends: list[End] = []
    dodge = (1.6 * runs["rows_per_request"].max() / runs["rows_per_request"].min()) ** _DODGE
    for place, (name, (look, pipelined, column)) in enumerate(_TIMES.items()):
        ends += _draw_line(axes, runs[runs["pipelined"] == pipelined], column, name, look, dodge ** (place - 1.5))
    for name, times in (others or {}).items():
        if (seconds := float(times["total_s"].mean())) > 0:
            axes.axhline(seconds, **style.BOUND)
            ends.append((seconds, name, GREY))
    # show intervals whole, except the very wide ones of few runs, which would press the points together
    highest = float(np.nan_to_num(runs["total_s"].max(), nan=1.0))  # also where no run succeeded
    axes.set_ylim(0, min(1.08 * max(highest, axes.get_ylim()[1]), 1.8 * highest))
    _mark_failures(axes, runs)
    style.label_ends(axes, ends)
    _size_axis(axes, runs, rows)
    figure.set_label(f"Seconds to score {count(rows, 'row')} against the rows per request: {_extremes(means)}.")
    return figure


def _fastest_size(means: pd.Series, rows: int) -> str:
    """The finding: the size with the least mean, which is drawn, and its seconds."""
    if means.empty:
        return f"No request size scored the {count(rows, 'row')}"
    name = name_of_size(means.index.get_level_values(1)[int(means.argmin())], rows)
    return f"Least time with {name}: {count(rows, 'row')} in {digits(float(means.min()), 2)}\u00a0s"  # on one line


def _extremes(means: pd.Series) -> str:
    """The fastest and the slowest request size of each way of sending, in words."""
    parts = []
    for pipelined, seconds in means.sort_values().groupby(level=0):
        sizes = seconds.index.get_level_values(1)
        ends = dict.fromkeys(f"{digits(seconds.iloc[at])} s at {sizes[at]:,}" for at in (0, -1))
        way = "overlapped" if pipelined else "in two phases"
        parts.append(f"{way} {'between ' * (len(ends) > 1)}{' and '.join(ends)} rows per request")
    return "; ".join(parts) or "no run succeeded"


@style.house_style
def figure_of_systems(runs: pd.DataFrame, *, old: str, new: str, bound: str) -> Figure:
    """Seconds for the whole job against rows per request, a line per system; the title compares `old` and `new`.

    `runs` has a row per run: system, rows_per_request, rows, and total_s, which is NaN where there was no result.
    """
    sized, rows = runs[runs["system"] != bound], int(runs["rows"].max())
    best = sized.groupby(["system", "rows_per_request"])["total_s"].mean().groupby("system").min().dropna()
    title = f"Time to score {count(rows, 'row')}" if len(best) else f"No system scored the {count(rows, 'row')}"
    if {old, new} <= set(best.index):
        bests = f"{digits(best[old])} s with the system of 2023 at its best, {digits(best[new], 2)} s with ruo"
        title = f"The same {count(rows, 'row')}: {bests}"
    if sized["rows_per_request"].nunique() == 1:
        return _dots_of_systems(runs, title, new)
    figure, axes = style.one_panel(title)
    low, high = (times.min() / 1.5, times.max() * 2.2) if len(times := runs["total_s"].dropna()) else (0.1, 10.0)
    axes.set(ylabel="seconds for the whole job (mean, every run)", yscale="log", ylim=(low, high))
    others = [name for name in dict.fromkeys(sized["system"]) if name not in (old, new)]
    looks = {old: style.ORANGE_LINE, **dict(zip(others, cycle(style.LINES[2:6]), strict=False)), new: style.BLUE_LINE}
    ends: list[End] = []
    for name, look in looks.items():
        ends += _draw_line(axes, runs[runs["system"] == name], "total_s", name, look)
    if (seconds := float(runs.loc[runs["system"] == bound, "total_s"].mean())) > 0:
        axes.axhline(seconds, **style.BOUND)
        ends.append((seconds, bound, GREY))
    _mark_failures(axes, runs[runs["system"] == old])
    style.label_ends(axes, ends)
    style.log_ticks(axes.yaxis, low, high)
    _size_axis(axes, sized, rows)
    figure.set_label(f"Seconds for the whole job against the rows per request, a line per system. {title}.")
    return figure


def _dots_of_systems(runs: pd.DataFrame, title: str, new: str) -> Figure:
    """A row for each system: every run, the mean, and how many times as long as `new` it takes."""
    figure, axes = style.one_panel(title)
    means = runs.groupby("system")["total_s"].mean().dropna().sort_values(ascending=False)
    for place, (name, seconds) in enumerate(means.items()):
        color, times = BLUE if name == new else GREY, runs.loc[runs["system"] == name, "total_s"]
        axes.scatter(times, [place] * len(times), color=color, **style.SAMPLES)
        axes.scatter([seconds], [place], color=color, s=60, zorder=3)
        ratio = f"  {digits(seconds / means[new], 2)}x" if new in means and name != new else ""
        label = f"{digits(seconds, 2)} s{ratio}"
        axes.annotate(label, (times.max(), place), xytext=(9, 0), textcoords="offset points", va="center", **BOLD)
    names = [*means.index, *(f"{name}: no result" for name in dict.fromkeys(runs["system"]) if name not in means)]
    limits = (means.min() / 1.5, means.max() * 4) if len(means) else (0.1, 10.0)
    axes.set(xscale="log", xlim=limits, ylim=(-0.6, len(names) - 0.4))
    axes.set_yticks(range(len(names)), [style.shortened(name, 40) for name in names])
    style.log_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_xlabel("seconds for the whole job (mean, every run)")
    seconds_in_words = "; ".join(f"{name} {digits(seconds, 2)} s" for name, seconds in means.items())
    figure.set_label(f"Seconds for the whole job: {seconds_in_words}.")
    return figure


def _draw_line(axes: Any, runs: pd.DataFrame, column: str, name: str, look: Line, dodge: float = 1.0) -> list[End]:
    """Draw `column` against the rows per request: every run, and a line through the means with their intervals."""
    runs = runs.dropna(subset=[column])
    if runs.empty:
        return []
    groups = runs.groupby("rows_per_request")[column]
    means = pd.DataFrame([time_interval(seconds) for _, seconds in groups])
    below = (means["value"] - means["low"]).fillna(0)  # a single run has no interval
    above = (means["high"] - means["value"]).fillna(0)
    axes.scatter(runs["rows_per_request"] * dodge, runs[column], color=look["color"], **style.SAMPLES)
    axes.errorbar(np.array(list(groups.groups)) * dodge, means["value"], yerr=[below, above], elinewidth=1, **look)
    return [(float(means["value"].iloc[-1]), name, look["color"])]


def _size_axis(axes: Any, runs: pd.DataFrame, rows: int) -> None:
    """Set a logarithmic axis of the rows per request; the size of all `rows` is named as the whole set."""
    sizes = sorted(runs["rows_per_request"].unique())
    room, names = (1.6 * sizes[-1] / sizes[0]) ** (1 / 11), dict[float, str]()
    for size in reversed(sizes):  # the larger ones keep their names where not all have room
        if not names or size * room <= min(names):
            names[size] = f"whole set\n({size:,.0f})" if size == rows else f"{size:,.0f}"
    # the limits come before the scale: a single size alone would span nothing
    axes.set(xlim=(sizes[0] / 1.25, sizes[-1] * 1.25), xscale="log", xlabel="rows per request")
    axes.set_xticks([*names], [*names.values()], fontsize=8)
    axes.minorticks_off()


def _mark_failures(axes: Any, runs: pd.DataFrame) -> None:
    """Draw a cross near the top for each request size at which no run gave a result."""
    top = axes.get_ylim()[1]
    height = top / 1.25 if axes.get_yscale() == "log" else top * 0.95
    for size, group in runs.groupby("rows_per_request"):
        if group["total_s"].isna().all():
            axes.scatter([size], [height], marker="x", s=70, color=ORANGE, linewidths=2.5, zorder=4)
            place = {"xytext": (0, -7), "textcoords": "offset points", "ha": "center", "va": "top"}
            axes.annotate("no result", (size, height), **place, **BOLD, color=ORANGE)


@style.house_style
def figure_of_speed_up(table: pd.DataFrame, runs: pd.DataFrame, confidence: float = 0.95) -> Figure:
    """Speed-up over one replica against replicas, a line per model at its fastest request size.

    `table` is that of `ruo.experiment.speed_ups`, with its `confidence`; short bars show the bounds that the costs set.
    """
    if table.empty:
        raise ArgumentError("No run can be compared with one of one replica, so there is no speed-up to draw.")
    most = int(table["replicas"].max())
    models = _fastest(table)
    lasts = [rows.iloc[-1] for rows in models]
    found = ", ".join(
        f"{digits(last['speed_up'], 2)} times as fast with {style.shortened(last['model'] or 'the model')}"
        + (f" ({count(int(last['replicas']), 'replica')})" if last["replicas"] < most else "")
        for last in lasts
    )
    figure, axes = style.one_panel(f"{most} replicas: {found}" if most > 1 else "No replicas to compare with one")
    axes.plot([1, most], [1, most], **style.IDEAL)
    ends, gains = [(float(most), "ideal", GREY)], list[str]()
    for place, (look, rows, last) in enumerate(zip(cycle(style.LINES), models, lasts, strict=False)):
        _draw_speed_up(axes, rows, runs, look, 0.02 * most * (place - (len(models) - 1) / 2))
        name = f"{last['model'] or 'measured'}, {last['rows_per_request']:,} rows per request"
        ends.append((float(last["speed_up"]), name, look["color"]))
        gains.append(f"{name}, {last['speed_up']:.2f} times with {last['replicas']}")
    axes.set(xticks=sorted(table["replicas"].unique()), ylim=(0, max(most, float(table["speed_up"].max())) * 1.08))
    axes.set(xlabel="replicas (short bars: the most that the costs allow)")
    axes.set(ylabel=f"times as fast as one replica ({100 * confidence:g} % interval)")
    style.label_ends(axes, ends)
    figure.set_label(f"Speed-up over one replica against the number of replicas: {'; '.join(gains)}.")
    return figure


def _fastest(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each model, by replicas, at the request size that was fastest with the most replicas."""
    best = table.sort_values(["replicas", "seconds"], ascending=[False, True]).drop_duplicates("model")
    rows = table.merge(best[["model", "rows_per_request"]]).sort_values("replicas", kind="stable")
    return [of_model for _, of_model in rows.groupby("model", dropna=False, sort=False)]


def _draw_speed_up(axes: Any, rows: pd.DataFrame, runs: pd.DataFrame, look: Line, shift: float) -> None:
    """Draw one model `shift` to the right, so that the bars of several can be told apart."""
    good = runs[runs["error"].isna() & runs["model"].isin([rows["model"].iloc[0]])]
    good = good[good["rows_per_request"] == rows["rows_per_request"].iloc[0]]
    blocks = good.pivot_table("total_s", "block", "replicas")
    for replicas, seconds in blocks.items():
        axes.scatter([replicas + shift] * len(blocks), blocks[1] / seconds, color=look["color"], **style.SAMPLES)
    gains = rows["speed_up"]
    spread = [np.nan_to_num(side.clip(lower=0)) for side in (gains - rows["low"], rows["high"] - gains)]
    axes.errorbar(rows["replicas"] + shift, gains, yerr=spread, elinewidth=1, **look)
    axes.scatter(rows["replicas"] + shift, rows["bound"], marker="_", s=400, color=look["color"], linewidths=2)


@style.house_style
def figure_of_outlook(costs: dict[str, Costs], rows: int, most: int = 32) -> Figure:
    """The speed-up that the measured costs predict for up to `most` replicas, each on its own machine."""
    title = f"Predicted, not measured: more replicas, each on its own machine ({count(rows, 'row')})"
    figure, axes = style.one_panel(title)
    counts = np.unique(np.geomspace(1, most, 40).round().astype(int))
    axes.plot(counts, counts, **style.IDEAL)
    ends: list[End] = [(float(most), "ideal", GREY)]
    for look, (name, cost) in zip(cycle(style.LINES), costs.items(), strict=False):
        gains = [replace(cost, cores=None).speed_up(int(count), rows) for count in counts]
        axes.plot(counts, gains, color=look["color"], linestyle=look["linestyle"])
        ends.append((gains[-1], name, look["color"]))
    axes.loglog(base=2)
    axes.minorticks_off()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set(xlim=(1, most), ylim=(0.9, most * 1.1))
    axes.set(xlabel="replicas", ylabel="times as fast as one replica (predicted)")
    style.label_ends(axes, ends)
    last = "; ".join(f"{name}, {gain:.2f} times with {most}" for gain, name, _ in ends[1:])
    figure.set_label(f"Predicted speed-up over one replica, each replica on a machine of its own: {last}.")
    return figure


@style.house_style
def figure_of_ranking(ranking: pd.DataFrame) -> Figure:
    """Rows per second of each combination, the fastest on top, with 95 % intervals; at most thirty are drawn.

    `ranking` has a row per combination: combination, rows_per_s, verdict and, where there are intervals, low and high.
    """
    shown = ranking.head(_MOST_RANKED)
    invalid = [verdict == "INVALID" for verdict in shown["verdict"]]
    names = [
        style.shortened(name, 40) + " (INVALID)" * bad for name, bad in zip(shown["combination"], invalid, strict=True)
    ]
    title, colors = "No combination is VALID, so none is fastest", [GREY] * len(shown)
    if not all(invalid):
        best = invalid.index(False)
        title, colors[best] = f"Most rows per second with {names[best]}: {digits(shown['rows_per_s'].iloc[best])}", BLUE
    figure, axes = style.one_panel(title)
    figure.set_size_inches(figure.get_figwidth(), 1.4 + 0.35 * len(shown))
    axes.barh(range(len(shown)), shown["rows_per_s"], color=colors, height=0.6)
    interval = ", 95 % interval" * ("low" in shown)
    if interval:
        axes.hlines(range(len(shown)), shown["low"], shown["high"], color="black", linewidth=1.4)
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, None), xlabel=f"rows per second (mean{interval})")
    axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda rate, _: digits(rate, 2))
    axes.grid(visible=False)
    slowest = digits(ranking["rows_per_s"].iloc[-1])
    figure.set_label(f"{title}; {count(len(ranking), 'combination')}, the slowest {slowest}.")
    return figure
