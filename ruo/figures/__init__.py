"""Figures of results, one file a subject. Nothing is measured here."""

from ruo.figures.evaluation import figure_of_calibration, figure_of_confusion
from ruo.figures.scaling import figure_of_outlook, figure_of_seconds, figure_of_speed_up
from ruo.figures.sizes import figure_of_sizes, figure_of_systems
from ruo.figures.style import Picture, save_figure
from ruo.figures.training import figure_of_learning

__all__ = [
    "Picture",
    "figure_of_calibration",
    "figure_of_confusion",
    "figure_of_learning",
    "figure_of_outlook",
    "figure_of_seconds",
    "figure_of_sizes",
    "figure_of_speed_up",
    "figure_of_systems",
    "save_figure",
]
