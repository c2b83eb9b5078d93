"""AM over a training, and against accuracy."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from ._style import COLOURS, NEUTRAL, new_axes, numbers, plain, series, styled

__all__ = ["pearson", "plot_correlation", "plot_training"]

SHORT = 25  # epochs that are marked one by one


def _lines(history: Sequence[Any]) -> dict[str, np.ndarray]:
    """Layer or block -> AM of every epoch, the mean last; the mean alone where nothing else is known."""
    if not any(isinstance(epoch, Mapping) for epoch in history):
        return {"AM": numbers(history, "history")}
    if not all(isinstance(epoch, Mapping) for epoch in history):
        raise TypeError("history must have either a number or a mapping for every epoch, got both")
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    parts = {name: numbers([epoch.get(name) for epoch in history], f"history[{name!r}]") for name in names}
    known = [[line[i] for line in parts.values() if not math.isnan(line[i])] for i in range(len(history))]
    return {**parts, "mean": np.array([fmean(values) if values else math.nan for values in known])}


@styled
def plot_training(history: Sequence[Any], *, stop: int | None = None, first: int = 1, ax: Any = None) -> Any:
    """AM over the epochs of a training, with the epoch in which a rule said stop.

    Args:
        history: of each epoch AM as a number, or a mapping name -> AM as of ``AliasingMonitor.compute()``, whose
            mean is drawn too. None and NaN leave a gap.
        stop: number of the epoch, if any.
        first: number of the first epoch.
        ax: matplotlib's Axes to draw into; None for a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError, ValueError: history is not of this kind, or empty.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.ticker import MaxNLocator

    if not len(history):
        raise ValueError("history must have at least one epoch, got none")
    lines, ax = _lines(history), new_axes(ax)
    epochs = np.arange(first, first + len(history))
    *parts, (whole, values) = lines.items()
    few = len(history) <= SHORT
    for (name, look), (_, line) in zip(series([name for name, _ in parts]), parts, strict=True):
        look = {**look, "marker": look["marker"] if few else ""}
        ax.plot(epochs, line, label=plain(name), linewidth=1.2, markersize=3.5, **look)
    marker = "o" if few or np.isfinite(values).sum() < 2 else ""
    label = whole if parts else "aliasing measure"
    ax.plot(epochs, values, label=label, color=NEUTRAL, linewidth=2.4, marker=marker, markersize=4.5, zorder=3)
    if stop is not None:
        ax.axvline(stop, color=COLOURS["vermillion"], linestyle=(0, (4, 2)), linewidth=1.8, label=f"stop: epoch {stop}")
    ax.set(xlabel="epoch", ylabel="aliasing measure (AM)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if np.isfinite(np.concatenate(list(lines.values()))).any():
        ax.set_ylim(bottom=0)
    if parts or stop is not None:
        # Beside the axes: inside, there is no place that no line ever crosses.
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3)
    return ax


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of finite pairs; NaN for fewer than two, or where one of the two does not vary."""
    if len(x) < 2 or not np.ptp(x) or not np.ptp(y):
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


@styled
def plot_correlation(am: Any, accuracy: Any, *, labels: Sequence[str] | None = None, ax: Any = None) -> Any:
    """AM of networks, or of the epochs of one, against their robust accuracy, with Pearson's r (NumPy's).

    Args:
        am: sequence or tensor of n numbers.
        accuracy: n numbers in 0..1. Pairs with a None or a NaN are left out.
        labels: n names to write beside the points, or None.
        ax: matplotlib's Axes to draw into; None for a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError, ValueError: the sequences are not of numbers, are empty, or differ in length.
        ImportError: matplotlib is not installed.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 4 (AM against robustness).
    """
    x, y = numbers(am, "am"), 100 * numbers(accuracy, "accuracy")
    if len(x) != len(y) or (labels is not None and len(labels) != len(x)):
        counts = [len(x), len(y)] + ([] if labels is None else [len(labels)])
        raise ValueError(f"am, accuracy and labels must be of one length, got {', '.join(map(str, counts))}")
    there = np.isfinite(x) & np.isfinite(y)
    ax = new_axes(ax, 4.6, 3.6)
    ax.plot(x[there], y[there], "o", color=COLOURS["blue"], markersize=6, markeredgecolor="white")
    r = pearson(x[there], y[there])
    if math.isnan(r):
        found = "r is not defined"
    else:
        slope, offset = np.polyfit(x[there], y[there], 1)
        ends = np.array([x[there].min(), x[there].max()])
        ax.plot(ends, slope * ends + offset, "--", color=COLOURS["vermillion"], linewidth=1.5)
        found = f"Pearson r = {r:.2f}"
    for label, at, here in zip(labels or (), zip(x, y), there, strict=bool(labels)):
        if here:
            ax.annotate(plain(label), at, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set_title(f"{found}, n = {there.sum()}")
    ax.set(xlabel="aliasing measure (AM)", ylabel="robust accuracy (%)")
    ax.margins(0.12)
    return ax
