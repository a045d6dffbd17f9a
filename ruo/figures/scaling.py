"""The figures of scaling: what replicas gained, which setting is fastest, and what a larger cluster would gain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ruo.experiment.scaling import Costs
from ruo.figures import style
from ruo.figures.style import BLACK, End, Line

_LOOKS = [style.BLUE_LINE, style.ORANGE_LINE, style.GREEN_LINE, style.PINK_LINE]
_GREY = "#777777"


@style.house_style
def figure_of_speed_up(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Speed-up over one replica against replicas, a line per model at its fastest request size.

    `table` is that of `ruo.experiment.speed_ups`, of which short bars show the bounds that the costs set; each of the
    `runs` behind it is drawn.
    """
    figure, axes = style.one_panel("How many times as fast as one replica?")
    most = int(table["replicas"].max())
    axes.plot([1, most], [1, most], **style.IDEAL)
    ends: list[End] = [(float(most), "ideal", _GREY)]
    gains = []
    for look, (name, rows) in zip(_LOOKS, _fastest(table), strict=False):
        _draw_speed_up(axes, rows, runs, look)
        setting = f"{name or 'measured'}, {rows['rows_per_request'].iloc[0]:,} rows per request"
        gain = float(rows["speed_up"].iloc[-1])
        ends.append((gain, setting, look["color"]))
        gains.append(f"{setting}, {gain:.2f} times with {rows['replicas'].iloc[-1]:,}")
    axes.set(xlabel="replicas", xticks=sorted(table["replicas"].unique()))
    axes.set_ylabel("times as fast as one replica (95 % interval, every block)")
    axes.set_ylim(0, max(most, float(table["speed_up"].max())) * 1.08)
    style.label_ends(axes, ends)
    figure.set_label(f"Speed-up over one replica against the number of replicas: {'; '.join(gains)}.")
    return figure


def _fastest(table: pd.DataFrame) -> list[tuple[str | None, pd.DataFrame]]:
    """Each model with its rows, by replicas, at the request size that was fastest with the most replicas."""
    fastest = []
    for name in dict.fromkeys(table["model"]):
        rows = table[table["model"].isin([name])]
        last = rows[rows["replicas"] == rows["replicas"].max()]
        size = last.loc[last["seconds"].idxmin(), "rows_per_request"]
        fastest.append((name, rows[rows["rows_per_request"] == size].sort_values("replicas")))
    return fastest


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
    about = f" of {model}" if model else ""
    title = f"Seconds for the whole job{about}, by replicas and rows per request"
    figure, axes = style.one_panel(title)
    values = grid.to_numpy()
    axes.grid(visible=False)
    axes.imshow(values, cmap="cividis_r", aspect="auto", origin="lower", norm="log")
    dark = (np.log(values) > np.log(values).mean()) & (values.max() > values.min())
    for (row, column), seconds in np.ndenumerate(values):
        color = "white" if dark[row, column] else BLACK
        axes.text(column, row, f"{seconds:.3g} s", ha="center", va="center", color=color, weight="bold")
    row, column = np.unravel_index(int(np.nanargmin(values)), values.shape)
    corner = (column - 0.48, row - 0.48)
    axes.add_patch(Rectangle(corner, 0.96, 0.96, fill=False, edgecolor=style.ORANGE, linewidth=3))
    axes.set_xticks(range(len(grid.columns)), [f"{replicas:,}" for replicas in grid.columns])
    axes.set_yticks(range(len(grid.index)), [f"{size:,}" for size in grid.index])
    axes.set(xlabel="replicas", ylabel="rows per request")
    figure.set_label(f"{title}: from {np.nanmin(values):.3g} to {np.nanmax(values):.3g} s.")
    return figure


@style.house_style
def figure_of_outlook(costs: dict[str, Costs], rows: int, most: int = 32) -> Figure:
    """The speed-up that the measured costs predict for up to `most` replicas, each on its own machine."""
    figure, axes = style.one_panel(
        f"A prediction, not a measurement: more replicas, each on a machine of its own ({rows:,} rows)"
    )
    counts = np.unique(np.geomspace(1, most, 40).round().astype(int))
    axes.plot(counts, counts, **style.IDEAL)
    ends: list[End] = []
    highest = 1.0
    for look, (name, cost) in zip(_LOOKS, costs.items(), strict=False):
        gains = [replace(cost, cores=None).speed_up(int(count), rows) for count in counts]
        highest = max(highest, *gains)
        axes.plot(counts, gains, color=look["color"], linestyle=look["linestyle"])
        ends.append((gains[-1], name, look["color"]))
    axes.set_xscale("log", base=2)
    ticks = [2**power for power in range(12) if 2**power <= most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set(xlim=(1, most), xlabel="replicas")
    axes.set(ylim=(0, highest * 1.15), ylabel="times as fast as one replica (predicted)")
    style.label_ends(axes, ends)
    axes.annotate("ideal", (highest, highest), color=_GREY, **style.BOLD, ha="right", va="bottom")
    last = "; ".join(f"{name}, {gain:.2f} times with {most}" for gain, name, _ in ends)
    figure.set_label(f"Predicted speed-up over one replica, each replica on a machine of its own: {last}.")
    return figure
