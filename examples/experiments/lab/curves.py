"""Curves over a setting: the mean of several seeds, and their spread as a shade."""

from typing import Any

import pandas as pd

from alias_ops.plots import COLOURS

__all__ = ["LOOKS", "curve"]

# Colour, marker and dash: each alone tells the curves apart.
LOOKS: tuple[dict[str, Any], ...] = tuple(
    {"color": COLOURS[name], "marker": marker, "linestyle": dash}
    for name, marker, dash in (
        ("black", "o", "-"),
        ("vermillion", "s", "--"),
        ("blue", "^", "-."),
        ("green", "D", ":"),
        ("purple", "X", (0, (6, 1, 1, 1, 1, 1))),
        ("orange", "v", (0, (2, 2))),
    )
)


def curve(ax: Any, x: pd.Series, y: pd.Series, label: str, look: int, **more: Any) -> None:
    """One curve into axes: at each x the mean of y, and one standard deviation to either side.

    Args:
        ax: of matplotlib.
        x, y: a value for each run and place, in any order.
        label: for the legend.
        look: of ``LOOKS``.
        more: over that look.
    """
    by_place = y.groupby(x.to_numpy())
    mean, std = by_place.mean(), by_place.std().fillna(0)
    style = {**LOOKS[look % len(LOOKS)], "markersize": 4.5, "linewidth": 1.4, **more}
    ax.plot(mean.index, mean, label=label, **style)
    ax.fill_between(mean.index, mean - std, mean + std, color=style["color"], alpha=0.16, linewidth=0)
