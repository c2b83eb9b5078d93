"""Figures of aliasing, spectra and robustness, with matplotlib (``pip install 'alias-ops[plots]'``).

Nothing of matplotlib is imported before the first figure is drawn. Each function draws into the axes that it is
given, or into a new figure.
"""

from ._style import COLOURS, STYLE
from .layers import plot_layers
from .robustness import plot_accuracy, plot_confidence
from .spectra import plot_perturbation, plot_radial_profile, plot_spectrum
from .training import plot_correlation, plot_training

__all__ = [
    "COLOURS",
    "STYLE",
    "plot_accuracy",
    "plot_confidence",
    "plot_correlation",
    "plot_layers",
    "plot_perturbation",
    "plot_radial_profile",
    "plot_spectrum",
    "plot_training",
]
