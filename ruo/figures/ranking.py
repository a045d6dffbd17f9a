"""The figure of a sweep over parameters: how fast each combination was."""

import pandas as pd
from matplotlib.figure import Figure

from ruo.figures import style
from ruo.figures.style import BLUE

_MOST = 30  # bars that can be read
_GREY = "#777777"


@style.house_style
def figure_of_ranking(ranking: pd.DataFrame) -> Figure:
    """Rows per second of each combination, the fastest on top, with 95 % intervals; at most thirty are drawn.

    `ranking` has a row per combination: combination, rows_per_s, verdict and, where there are intervals, low and high.
    """
    shown = ranking.head(_MOST)
    names = [f"{row.combination}{' (INVALID)' * (row.verdict == 'INVALID')}" for row in shown.itertuples()]
    title = f"{names[0]} is fastest: {shown['rows_per_s'].iloc[0]:,.0f} rows per second"
    figure, axes = style.one_panel(title)
    figure.set_size_inches(figure.get_figwidth(), 1.4 + 0.35 * len(shown))
    places = range(len(shown))
    colors = [BLUE, *[_GREY] * (len(shown) - 1)]
    axes.barh(places, shown["rows_per_s"], color=colors, height=0.6)
    if {"low", "high"} <= set(shown):
        for place, (low, high) in enumerate(zip(shown["low"], shown["high"], strict=True)):
            axes.plot([low, high], [place, place], color="black", linewidth=1.4)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("rows per second (mean, 95 % interval)")
    axes.grid(visible=False, axis="y")
    figure.set_label(f"{title}; {len(ranking)} combinations, the slowest {ranking['rows_per_s'].iloc[-1]:,.0f}.")
    return figure
