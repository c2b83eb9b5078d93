"""The figure of ``alias-ops measure``: one bar per layer."""

import math
import textwrap
from pathlib import Path

from ..plots import COLOURS
from .rows import Row

__all__ = ["draw"]

# The hatches tell them apart in grey.
STYLES = {
    "conv": ("convolution", COLOURS["blue"], ""),
    "max pool": ("max pooling", COLOURS["orange"], "///"),
    "avg pool": ("average pooling", COLOURS["green"], "..."),
}

# Inches, and characters of the title to an inch.
BARS_WIDTH, CHARACTER, ROW, MARGINS, DENSITY = 5.5, 0.085, 0.32, 1.3, 13


def draw(path: Path, title: str, rows: list[Row]) -> None:
    """Write a PNG of the AM of each measured layer, in the model's order from top to bottom.

    Args:
        path: of the PNG.
        title: above the bars.
        rows: layers; those without an AM are left out, one that is not finite has a label and no bar.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    measured = [(row, row.am) for row in rows if row.am is not None]
    names = [f"{row.layer}  ({row.kind})" for row, _ in measured]
    width = BARS_WIDTH + CHARACTER * max(map(len, names))
    figure = Figure(figsize=(width, MARGINS + ROW * len(names)), dpi=150, layout="constrained")
    figure.suptitle(textwrap.fill(title, int(DENSITY * width)), x=0.01, ha="left", fontsize=10, parse_math=False)
    axes = figure.add_subplot()
    for kind, (label, colour, hatch) in STYLES.items():
        chosen = [(place, am) for place, (row, am) in enumerate(measured) if row.kind.startswith(kind)]
        if chosen:
            places, values = zip(*chosen, strict=True)
            lengths = [am if math.isfinite(am) else 0.0 for am in values]
            bars = axes.barh(places, lengths, 0.7, label=label, color=colour, hatch=hatch, edgecolor="white")
            axes.bar_label(bars, [f"{am:.3g}" for am in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    axes.set_xlabel("aliasing measure (0: nothing folds)", fontsize=9)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    if len(axes.containers) > 1:
        figure.legend(loc="outside lower right", ncols=len(STYLES), frameon=False, fontsize=9)
    figure.savefig(path)
