"""Accuracies and AM over the epochs, with the epochs in which the two rules say stop."""

from itertools import cycle
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alias_ops.plots import COLOURS
from fgsm.results import stopping_epochs
from fgsm.training import Epoch

__all__ = ["draw"]

# Markers and dashes say the same to whom the colours do not.
ACCURACIES = {
    "clean_accuracy": ("clean", {"color": COLOURS["black"], "marker": "o", "linestyle": "-"}),
    "fgsm_accuracy": ("FGSM", {"color": COLOURS["blue"], "marker": "s", "linestyle": "--"}),
    "pgd_accuracy": ("PGD", {"color": COLOURS["vermillion"], "marker": "^", "linestyle": "-."}),
}
RULES = {"am": ("AM rule", COLOURS["green"], ":"), "pgd": ("PGD rule", COLOURS["vermillion"], "--")}
BLOCKS = (("#555555", "-"), ("#777777", "--"), ("#777777", "-."), ("#777777", ":"))
BESIDE = 0.006  # of the width: where both rules stop in the same epoch, their lines do not cover each other
RC = {
    "font.size": 15,
    "axes.titlesize": 15,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def _accuracies(ax, epochs: list[int], history: list[Epoch]) -> None:
    for field, (name, style) in ACCURACIES.items():
        ax.plot(epochs, [100 * getattr(e, field) for e in history], linewidth=2.5, markersize=7, label=name, **style)
    ax.set_ylim(0, 102)
    ax.set_ylabel("held-out accuracy (%)")


def _aliasing(ax, epochs: list[int], history: list[Epoch]) -> None:
    for block, (color, dashes) in zip(history[0].blocks, cycle(BLOCKS)):
        values = [e.blocks[block] for e in history]
        ax.plot(epochs, values, linewidth=1.5, color=color, linestyle=dashes, label=block)
    ax.plot(
        epochs, [e.am for e in history], linewidth=3, marker="D", markersize=7, color=COLOURS["purple"], label="mean"
    )
    ax.set_ylim(bottom=0)
    ax.set_ylabel("aliasing measure (AM)")


def draw(history: list[Epoch], title: str, path: Path) -> Path:
    """Draw the epochs of a run, at least one.

    Args:
        history: the epochs.
        title: what was trained, in a line.
        path: of the PNG file.
    """
    with mpl.rc_context(RC):
        figure = Figure(figsize=(11, 8), layout="constrained")
        measured = history[0].am is not None
        axes = figure.subplots(1 + measured, 1, sharex=True, squeeze=False)[:, 0]
        epochs = [epoch.epoch for epoch in history]
        _accuracies(axes[0], epochs, history)
        if measured:
            _aliasing(axes[1], epochs, history)
        stops = stopping_epochs(history)
        for side, (rule, when) in zip((-1, 1), stops.items()):
            if when is not None:
                name, color, dashes = RULES[rule]
                at = when + side * BESIDE * len(epochs) * (stops["am"] == stops["pgd"])
                for ax in axes:
                    label = f"{name}:\nstop, epoch {when}" if ax is axes[0] else None
                    ax.axvline(at, color=color, linestyle=dashes, linewidth=2.5, label=label)
        for ax in axes:
            ax.grid(axis="y", alpha=0.4)
            # Beside the axes: inside, there is no place that no line ever crosses.
            ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[-1].set_xlabel("epoch")
        figure.align_ylabels()
        figure.suptitle(title)
        figure.savefig(path, dpi=100)
    return path
