"""The house style of all figures, and how they are written to disk.

Every run is shown behind the mean, and lines are named where they end. The colours are those of Okabe and Ito; each
line also has its own marker and dashes, for print and for colour-blind readers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

__all__ = ["Picture", "save_figure"]  # the other names are for the figures of this folder

BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#000000"
BOLD = {"weight": "bold", "fontsize": 9}
_DOTS, _DASHES, _MIXED = (0, (1, 1.5)), (0, (5, 2)), (0, (3, 1, 1, 1))
DOTTED = {"color": BLACK, "linestyle": _DOTS, "linewidth": 1.4}
IDEAL = {"color": "#999999", "linestyle": _DOTS, "linewidth": 1.2}
SAMPLES = {"s": 14, "alpha": 0.35, "linewidths": 0, "zorder": 2}
INTERVAL = {"elinewidth": 1, "capsize": 3}

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "svg.hashsalt": "ruo",  # the same figure gives the same file
    "svg.fonttype": "none",
}

Draw = TypeVar("Draw", bound=Callable[..., Any])
End = tuple[float, str, str]  # the height at which a line ends, its name and its colour

house_style: Callable[[Draw], Draw] = mpl.rc_context(_STYLE)  # decorates what draws or saves a figure


class Look(NamedTuple):
    """How a line is drawn."""

    color: str
    marker: str
    dashes: Any

    def line(self) -> dict[str, Any]:
        """Matplotlib's keywords for a line with markers."""
        dashes = {"linestyle": self.dashes, "linewidth": 1.6}
        return {"color": self.color, "marker": self.marker, "markersize": 6, "zorder": 3, **dashes}


BLUE_LINE = Look(BLUE, "o", "solid")
ORANGE_LINE = Look(ORANGE, "s", _DASHES)
GREEN_LINE = Look("#009E73", "^", _MIXED)
PINK_LINE = Look("#CC79A7", "v", _DOTS)
LIGHT_BLUE_LINE = Look("#56B4E9", "D", _MIXED)
BROWN_LINE = Look("#8B6914", "P", _MIXED)
BLACK_LINE = Look(BLACK, "X", _DOTS)


@dataclass(frozen=True)
class Picture:
    """A figure on disk; a notebook shows it."""

    png: Path
    alt: str

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        return self.png.read_bytes(), {"width": 900, "alt": self.alt}


@house_style
def save_figure(
    figure: Figure, path: str | os.PathLike[str], alt: str | None = None, data: pd.DataFrame | None = None
) -> Picture:
    """Write a figure as PNG (200 dots per inch) and as SVG.

    Parameters
    ----------
    figure : Figure
        A figure of `ruo.figures`.
    path : path
        Where to write; its suffix is replaced.
    alt : str, optional
        The alternative text: what the figure shows, in words. By default the figure's label.
    data : DataFrame, optional
        The data behind the figure, written beside it as CSV.
    """
    path, alt = Path(path), alt or str(figure.get_label())
    picture = Picture(path.with_suffix(".png"), alt)
    if data is not None:
        data.to_csv(path.with_suffix(".csv"), index=False)
    about = {"Title": figure.axes[0].get_title(loc="left"), "Description": alt}
    figure.savefig(picture.png, dpi=200, metadata={**about, "Software": None})
    figure.savefig(path.with_suffix(".svg"), metadata={**about, "Date": None})
    return picture


def one_panel(title: str) -> tuple[Figure, Any]:
    """A figure with one pair of axes."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    return figure, figure.subplots(subplot_kw={"title": title})


def label_ends(axes: Any, ends: Iterable[End]) -> None:
    """Name each line at the right edge, at the height where it ends, moved up where two names would overlap."""
    points = 72 / axes.figure.dpi
    last = -np.inf
    for value, name, color in sorted(ends):
        height = float(axes.transData.transform((1, value))[1]) * points
        last = max(height, last + 12)  # a line of text
        place = {"xycoords": axes.get_yaxis_transform(), "xytext": (6, last - height), "textcoords": "offset points"}
        axes.annotate(name, (1, value), **place, **BOLD, color=color, va="center", annotation_clip=False)


def log_ticks(axes: Any, low: float, high: float) -> None:
    """Set ticks at 1, 2 and 5 times the powers of ten, for a logarithmic vertical axis."""
    ticks = [step * 10.0**power for power in range(-4, 6) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown, [f"{tick:g}" for tick in shown])
