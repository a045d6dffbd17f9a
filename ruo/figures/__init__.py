"""Figures of results, one file a subject. Nothing is measured here."""

from ruo.errors import needs

with needs("notebooks"):
    from ruo.figures.learning import figure_of_calibration, figure_of_confusion, figure_of_learning
    from ruo.figures.runs import (
        figure_of_outlook,
        figure_of_ranking,
        figure_of_sizes,
        figure_of_speed_up,
        figure_of_systems,
    )
    from ruo.figures.style import Picture, save_figure

__all__ = [
    "Picture",
    "figure_of_calibration",
    "figure_of_confusion",
    "figure_of_learning",
    "figure_of_outlook",
    "figure_of_ranking",
    "figure_of_sizes",
    "figure_of_speed_up",
    "figure_of_systems",
    "save_figure",
]
