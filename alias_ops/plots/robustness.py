"""Accuracy under attacks of growing strength, and confidence."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..spectra import ConfidenceReport
from ._style import COLOURS, HATCHES, by_name, new_axes, numbers, plain, series, short, styled

__all__ = ["plot_accuracy", "plot_confidence"]


@styled
def plot_accuracy(
    norms: Any, accuracies: Mapping[str, Any], *, xlabel: str = "norm of the perturbation", ax: Any = None
) -> Any:
    """Accuracy over the norm that a perturbation may have, one line a network or attack.

    Args:
        norms: n numbers, in the units of ``xlabel``.
        accuracies: name -> n numbers in 0..1; None and NaN leave a gap.
        xlabel: which norm, of what, in which units: "L∞ norm of the perturbation, 1/255".
        ax: matplotlib's Axes to draw into; None for a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError, ValueError: an argument is not of this kind, or the lengths differ.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.ticker import MaxNLocator

    x = numbers(norms, "norms")
    lines = {name: 100 * numbers(values, f"accuracies[{name!r}]") for name, values in accuracies.items()}
    wrong = [name for name, line in lines.items() if len(line) != len(x)]
    if wrong or not lines:
        came = f"accuracies[{wrong[0]!r}] of {len(lines[wrong[0]])}" if wrong else "no accuracies"
        raise ValueError(f"accuracies must have {len(x)} values each, one a norm, got {came}")
    ax = new_axes(ax)
    for name, look in series(list(lines)):
        ax.plot(x, lines[name], label=short(name), linewidth=1.8, markersize=5, **look)
    ax.set(xlabel=plain(xlabel), ylabel="accuracy (%)", ylim=(-3, 103))
    if np.array_equal(x, np.round(x)):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    return ax


def _bars(report: ConfidenceReport) -> list[float]:
    clean, adversarial = report.clean, report.adversarial
    return [clean.mean, adversarial.mean, clean.wrong, adversarial.wrong]


@styled
def plot_confidence(reports: ConfidenceReport | Mapping[str, ConfidenceReport], *, ax: Any = None) -> Any:
    """Confidence of clean, adversarial and wrong predictions.

    Args:
        reports: of :func:`alias_ops.spectra.confidence_report`; of several networks by name.
        ax: matplotlib's Axes to draw into; None for a new figure.

    Returns:
        The Axes. Where a network has no wrong prediction, "none" stands in place of the bar.

    Raises:
        ValueError: there is no report.
        ImportError: matplotlib is not installed.
    """
    named = by_name(reports, ConfidenceReport, "reports")
    ax = new_axes(ax)
    width = 0.8 / len(named)
    places = np.arange(4.0)
    for index, (name, report) in enumerate(named.items()):
        values = [100 * value for value in _bars(report)]
        bars = ax.bar(
            places + (index + 0.5) * width - 0.4,
            [0.0 if math.isnan(value) else value for value in values],
            0.92 * width,
            label=short(name),
            color=list(COLOURS.values())[index % len(COLOURS)],
            hatch=HATCHES[index % len(HATCHES)],
            edgecolor="white",
        )
        ax.bar_label(bars, ["none" if math.isnan(value) else f"{value:.0f}" for value in values], padding=2, fontsize=8)
    ax.set_xticks(places, ["clean", "adversarial", "wrong,\nclean", "wrong,\nadversarial"])
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="mean confidence (%)", ylim=(0, 108), xlabel="predictions")
    if len(named) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    return ax
