"""The figures of the experiment on frequency components."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lab.components import AS_IS, CUTS, FREQUENCIES, SINGULAR_VALUES, WITH_MEAN
from lab.curves import curve
from lab.defences import D1, D2_RADIUS, D2_RHO, STRENGTHS

__all__ = ["draw_alone", "draw_black_box", "draw_defences", "draw_parts"]

STRONGER = {D1: "radius", D2_RADIUS: "radius (×4: of the first four layers)", D2_RHO: "rho"}
AXES = {FREQUENCIES: "radius r (bins)", SINGULAR_VALUES: "rank k"}


def _panels(figure: Figure, rows: int, columns: int) -> Any:
    return figure.subplots(rows, max(1, columns), sharey=True, squeeze=False)


def _legend(figure: Figure, ax: Any, columns: int) -> None:
    figure.legend(*ax.get_legend_handles_labels(), ncols=columns, loc="outside upper center")


def _title(kind: str) -> str:
    return f"trained {kind}" if kind.startswith("against") else kind


def draw_parts(parts: pd.DataFrame) -> Figure:
    """Accuracies on either part, a row of axes for each way to cut and a column for each training."""
    kinds = list(parts.training.unique())
    figure = Figure(figsize=(8.5, 6), layout="constrained")
    axes = _panels(figure, len(CUTS), len(kinds))
    for row, by in zip(axes, CUTS):
        for ax, kind in zip(row, kinds):
            part = parts[(parts.by == by) & (parts.training == kind)]
            bare, lit = (part[part.shown == shown] for shown in (AS_IS, WITH_MEAN))
            curves = (
                (bare.plain, "image"),
                (bare.low, "low part"),
                (bare.high, f"high part, {AS_IS}"),
                (lit.high, f"high part, {WITH_MEAN}"),
            )
            for look, (accuracy, label) in enumerate(curves):
                curve(ax, bare["at"], 100 * accuracy, label, look, **({"marker": ""} if look == 0 else {}))
            ax.set(title=f"{_title(kind)}, parted by {by}", xlabel=AXES[by], ylim=(0, 102))
            if by == SINGULAR_VALUES:
                ax.set_xscale("log", base=2)
            ax.set_xticks(CUTS[by], CUTS[by])
            ax.minorticks_off()
        row[0].set(ylabel="accuracy (%)")
    _legend(figure, axes[0, 0], 4)
    return figure


def draw_alone(parts: pd.DataFrame) -> Figure:
    """The share of images that are right on high alone, over the energy that high has."""
    kinds = list(parts.training.unique())
    figure = Figure(figsize=(8.5, 3.7), layout="constrained")
    axes = _panels(figure, 1, len(kinds))[0]
    lit = parts[(parts.shown == WITH_MEAN) & (parts.energy_high > 0)]
    for ax, kind in zip(axes, kinds):
        for look, by in enumerate(CUTS):
            part = lit[(lit.by == by) & (lit.training == kind)]
            # One place for each cut: energies of the seeds' images differ a little.
            place = 100 * part.groupby("at").energy_high.transform("mean")
            curve(ax, place, 100 * part.high_alone, f"high part, by {by}", 1 + look)
            curve(ax, place, 100 * part.by_mean, f"mean colours, by {by}", 3 + look, markerfacecolor="white")
        ax.set(xscale="log", xlabel="energy of the image in the high part (%)", title=_title(kind))
    axes[0].set(ylabel="right, and wrong on low (% of images)")
    axes[0].set_ylim(bottom=0)
    _legend(figure, axes[0], 2)
    return figure


def draw_defences(accuracies: pd.DataFrame) -> Figure:
    """Accuracy over the strength of each defence, which grows to the right."""
    kinds = list(accuracies.training.unique())
    figure = Figure(figsize=(10.5, 6.2), layout="constrained")
    axes = _panels(figure, len(kinds), len(STRENGTHS))
    for row, kind in zip(axes, kinds):
        for ax, (defence, strengths) in zip(row, STRENGTHS.items()):
            part = accuracies[(accuracies.training == kind) & (accuracies.defence == defence)]
            for look, (name, found) in enumerate(part.groupby("attack", sort=False)):
                places = [strengths.index(pair) for pair in zip(found.strength, found.layers)]
                curve(ax, pd.Series(places), 100 * found.accuracy, str(name), look)
            ax.set_xticks(range(len(strengths)), ["none", *map(str, strengths[1:])])
            ax.set(xlabel=STRONGER[defence], title=f"{_title(kind)}: {defence}", ylim=(-2, 102))
        row[0].set(ylabel="accuracy (%)")
    _legend(figure, axes[0, 0], 5)
    return figure


def draw_black_box(images: pd.DataFrame) -> Figure:
    """Of the attacked images the share that an attack turns with a change of at most so much."""
    kinds = list(images.training.unique())
    figure = Figure(figsize=(8.5, 3.7), layout="constrained")
    axes = _panels(figure, 1, len(kinds))[0]
    finite = images.l2[np.isfinite(images.l2)]
    farthest = max(1.0, float(finite.quantile(0.99))) if len(finite) else 1.0
    places = np.linspace(0, farthest, 41)
    for ax, kind in zip(axes, kinds):
        for look, (name, found) in enumerate(images[images.training == kind].groupby("attack", sort=False)):
            shares = [(one.l2.to_numpy() <= places[:, None]).mean(1) for _, one in found.groupby("seed")]
            at = pd.Series(np.tile(places, len(shares)))
            curve(ax, at, 100 * pd.Series(np.concatenate(shares)), str(name), 1 + look, markevery=4)
        ax.set(xlabel="L2 of the change (pixels in 0..1)", title=_title(kind), ylim=(-2, 102))
    axes[0].set(ylabel="turned images (%)")
    _legend(figure, axes[0], 3)
    return figure
