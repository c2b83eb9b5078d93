"""The strip: what each downsampling layer folds, and where to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..spectra import LayerSpectrum
from ._style import extent, limits, mark, plain, styled

__all__ = ["plot_layers"]

COLUMNS = 6
WIDTH, HEIGHT, NAME = 1.95, 2.0, 26
DECADES = 4.0


def _log(magnitudes: Any) -> np.ndarray:
    array = magnitudes.detach().cpu().double().numpy()
    return np.log10(np.maximum(array, np.finfo(float).tiny))  # NaN stays NaN


def _short(name: str) -> str:
    return plain(name if len(name) <= NAME else f"…{name[1 - NAME :]}") or "(the model)"


def _mark_half_band(ax: Any, stride: tuple[int, int]) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    height, width = (1 / step for step in stride)
    box = Rectangle((-width / 2, -height / 2), width, height, fill=False, edgecolor="white", linewidth=1.4)
    box.set_path_effects([withStroke(linewidth=2.6, foreground="black")])
    ax.add_patch(box)


@styled
def plot_layers(layers: Sequence[LayerSpectrum]) -> Any:
    """Layer by layer: the spectrum that is sampled, the band that fits, what folds into it, and how much that is.

    Above, the spectrum of the stride-1 map, with a box around the half-band, the frequencies that the layer's output
    can hold. Below, the spectrum of the residual, what folded from outside of the box to where it is drawn, on the
    same scales of frequency and colour; AM is its sum.

    Args:
        layers: as of :func:`alias_ops.spectra.layer_spectra`, at least one.

    Returns:
        The Figure, of six layers a row.

    Raises:
        ValueError: there is no layer.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    if not layers:
        raise ValueError("layers must have at least one layer, got none")
    columns = min(COLUMNS, len(layers))
    strips = -(-len(layers) // columns)
    size = (max(WIDTH * columns + 1.5, 4.2), (2 * HEIGHT + 0.55) * strips + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2 * strips, columns, squeeze=False)
    levels = [(_log(layer.before), _log(layer.folded)) for layer in layers]
    low, high = limits([level for pair in levels for level in pair], DECADES)
    shown = {"vmin": low, "vmax": high, "interpolation": "nearest"}
    image: Any = None
    for index, (layer, (before, folded)) in enumerate(zip(layers, levels, strict=True)):
        row, column = 2 * (index // columns), index % columns
        above, below = axes[row, column], axes[row + 1, column]
        image = above.imshow(before, extent=extent(before.shape), **shown)
        above.set_title(f"{_short(layer.name)}\n{layer.kind}", fontsize=8)
        _mark_half_band(above, layer.stride)
        below.set_facecolor("#d9d9d9")
        below.imshow(folded, extent=extent(folded.shape, layer.stride), **shown)
        below.set(xlim=above.get_xlim(), ylim=above.get_ylim())
        below.set_title(f"AM {layer.aliasing:.3g}", fontsize=9, fontweight="bold")
        for ax in (above, below):
            mark(ax)
            ax.tick_params(labelsize=7)
            ax.tick_params(labelleft=column == 0, labelbottom=ax is below)
    for strip in range(strips):
        axes[2 * strip, 0].set_ylabel("stride-1 map\nbox: half-band")
        axes[2 * strip + 1, 0].set_ylabel("what folded")
    spares = list(axes[-2:, (len(layers) - 1) % columns + 1 :].flat)
    for spare in spares:
        spare.remove()
    figure.supxlabel("frequency, cycles/sample of the stride-1 map", fontsize=8.5)
    figure.colorbar(
        image,
        ax=[ax for ax in axes.flat if ax not in spares],
        label="log10 of the mean magnitude",
        shrink=0.8,
        pad=0.01,
    )
    return figure
