"""The lines and labels of all figures, and how figures are written to disk.

Lines have colours (those of Okabe and Ito), markers and dashes, for print and for colour-blind readers.
"""

import base64
import os
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

Draw = TypeVar("Draw", bound=Callable[..., Any])
Line = dict[str, Any]  # Matplotlib's keywords for how a line is drawn
End = tuple[float, str, str]  # the height at which a line ends, its name and its colour

BLUE, ORANGE, BLACK, GREY = "#0072B2", "#D55E00", "#000000", "#777777"
BOLD = {"weight": "bold", "fontsize": 9}
_DOTS, _DASHES, _MIXED = (0, (1, 1.5)), (0, (5, 2)), (0, (3, 1, 1, 1))
DOTTED = {"color": BLACK, "linestyle": _DOTS, "linewidth": 1.4}
BOUND = {"color": GREY, "linestyle": "solid", "linewidth": 1.2}
IDEAL = {"color": "#999999", "linestyle": _DOTS, "linewidth": 1.2}
SAMPLES = {"s": 14, "alpha": 0.35, "linewidths": 0}
BLUE_LINE, ORANGE_LINE, GREEN_LINE, *_, BLACK_LINE = LINES = [
    Line(color=BLUE, marker="o", linestyle="solid"),
    Line(color=ORANGE, marker="s", linestyle=_DASHES),
    Line(color="#009E73", marker="^", linestyle=_MIXED),
    Line(color="#CC79A7", marker="v", linestyle=_DOTS),
    Line(color="#56B4E9", marker="D", linestyle=_MIXED),
    Line(color="#8B6914", marker="P", linestyle=_MIXED),
    Line(color=BLACK, marker="X", linestyle=_DOTS),
]

house_style: Callable[[Draw], Draw] = mpl.style.context("ruo.figures.house")  # decorates what draws or saves a figure


@dataclass(frozen=True)
class Picture:
    """A figure on disk; a notebook shows it."""

    png: Path
    alt: str

    def _repr_html_(self) -> str:
        """The SVG, which is sharp at any width, as an image with its alternative text."""
        data = base64.b64encode(self.png.with_suffix(".svg").read_bytes()).decode()
        return f'<img alt="{escape(self.alt)}" src="data:image/svg+xml;base64,{data}" style="width: 100%; max-width: 900px">'

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png.read_bytes(), {"width": 900, "alt": self.alt}


@house_style
def save_figure(
    figure: Figure, path: str | os.PathLike[str], alt: str | None = None, data: pd.DataFrame | None = None
) -> Picture:
    """Write a figure as PNG and SVG, and its data as CSV; by default the figure's label is the alternative text."""
    path, alt = Path(path), alt or str(figure.get_label())
    picture = Picture(path.with_suffix(".png"), alt)
    if data is not None:
        data.to_csv(path.with_suffix(".csv"), index=False)
    about = {"Title": figure.get_suptitle() or figure.axes[0].get_title(loc="left"), "Description": alt}
    figure.savefig(picture.png, metadata={**about, "Software": None})
    with mpl.rc_context({"svg.hashsalt": "ruo"}):  # the same figure gives the same file
        figure.savefig(path.with_suffix(".svg"), metadata={**about, "Date": None})
    return picture


def one_panel(title: str) -> tuple[Figure, Any]:
    """A figure with one pair of axes below a title of as many lines as it needs, which no name beside the axes meets."""
    figure = Figure()
    figure.suptitle(wrapped(title), x=0.01, ha="left")
    return figure, figure.subplots()


def wrapped(title: str, width: int = 72) -> str:
    """A title in lines of at most `width` letters and of about equal length."""
    fewest, longest = len(textwrap.wrap(title, width)), max(map(len, title.split()), default=width)
    lines = (textwrap.wrap(title, narrow) for narrow in range(min(longest, width), width + 1))
    return "\n".join(next(each for each in lines if len(each) == fewest))


def shortened(name: str, most: int = 50) -> str:
    """The end of a name that has no room, since it tells more, such as that of a path."""
    return name if len(name) <= most else f"…{name[1 - most :]}"


def label_ends(axes: Any, ends: Iterable[End]) -> None:
    """Name each line at the right edge, at the height where it ends, moved up where two names would overlap."""
    points = 72 / axes.figure.dpi
    last = -np.inf
    for value, name, color in sorted(ends):
        height = float(axes.transData.transform((1, value))[1]) * points
        last = max(height, last + 12)  # a line of text
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (6, last - height), "textcoords": "offset points"}
        axes.annotate(shortened(name), (1, value), **place, **BOLD, color=color, va="center", annotation_clip=False)


def log_ticks(axis: Any, low: float, high: float) -> None:
    """Set ticks at 1, 2 and 5 times the powers of ten, or at powers alone where many, of a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
