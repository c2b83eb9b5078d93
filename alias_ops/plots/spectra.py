"""Spectra as pictures and over rings."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from ..spectra import PerturbationSpectrum, RadialProfile
from ._style import by_name, extent, grid, limits, mark, new_axes, series, short, styled

__all__ = ["plot_perturbation", "plot_radial_profile", "plot_spectrum"]

RGB = ("red", "green", "blue")
PICTURE, COLUMNS, PICTURE_NAME = 2.1, 5, 24
LEVEL = "log10 magnitude"


def _names(count: int, names: Sequence[str] | None, kind: str) -> list[str]:
    if names is None:
        return list(RGB) if count == len(RGB) else [f"{kind} {index}" for index in range(count)]
    if len(names) != count:
        raise ValueError(f"names must be {count}, one a {kind}, got {len(names)}")
    return list(names)


def _pictures(levels: torch.Tensor, titles: Sequence[str], axes: Sequence[Any] | None) -> Any:
    """One picture each of [n, H, W], on one scale; returns the figure."""
    arrays = levels.detach().cpu().double().numpy()
    low, high = limits([arrays])
    places = grid(axes, len(arrays), COLUMNS, PICTURE, PICTURE + 0.2)
    image: Any = None
    for ax, array, title in zip(places, arrays, titles, strict=True):
        image = ax.imshow(array, extent=extent(array.shape), vmin=low, vmax=high, interpolation="nearest")
        ax.set_title(short(title, PICTURE_NAME))
        mark(ax)
        ax.label_outer()
    figure = places[0].figure
    if axes is None:
        figure.supxlabel("horizontal frequency, cycles/sample", fontsize=8.5)
        figure.supylabel("vertical frequency, cycles/sample", fontsize=8.5)
    figure.colorbar(image, ax=places, label=LEVEL, shrink=0.8, pad=0.02)
    return figure


@styled
def plot_spectrum(
    levels: torch.Tensor, *, names: Sequence[str] | None = None, axes: Sequence[Any] | None = None
) -> Any:
    """Centred spectra, one picture a channel, on one scale.

    Args:
        levels: [C, H, W], as of :func:`alias_ops.spectra.spectrum`.
        names: of the channels; None for red, green and blue where there are three.
        axes: matplotlib's Axes to draw into, C of them; None for a new figure.

    Returns:
        The Figure.

    Raises:
        TypeError, ValueError: an argument is not of this kind.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(levels, torch.Tensor):
        raise TypeError(f"levels must be a tensor [C, H, W], got {type(levels).__name__}")
    if levels.dim() != 3 or levels.numel() == 0:
        raise ValueError(f"levels must be [C, H, W], not empty, got {list(levels.shape)}")
    return _pictures(levels, _names(len(levels), names, "channel"), axes)


@styled
def plot_perturbation(
    perturbation: PerturbationSpectrum,
    *,
    by: Literal["channel", "class"] = "channel",
    names: Sequence[str] | Mapping[int, str] | None = None,
    axes: Sequence[Any] | None = None,
) -> Any:
    """Spectra of what an attack adds: one picture a channel, or one a class.

    Args:
        perturbation: as of :func:`alias_ops.spectra.perturbation_spectrum`.
        by: "channel", or "class" (the mean over its channels), which needs ``by_class=True`` there.
        names: of the channels; of the classes, where the class is the index or the key.
        axes: matplotlib's Axes to draw into, as many as there are pictures; None for a new figure.

    Returns:
        The Figure.

    Raises:
        ValueError: another ``by``, or there are no classes.
        ImportError: matplotlib is not installed.
    """
    if by == "channel":
        of_channels = None if names is None else [names[index] for index in range(len(perturbation.channels))]
        return _pictures(perturbation.channels, _names(len(perturbation.channels), of_channels, "channel"), axes)
    if by != "class":
        raise ValueError(f'by must be "channel" or "class", got {by!r}')
    if not perturbation.classes:
        raise ValueError('by="class" needs perturbation_spectrum(..., by_class=True), and an image that was changed')
    levels = torch.stack([level.mean(0) for level in perturbation.classes.values()])
    titles = [f"class {label}" if names is None else names[label] for label in perturbation.classes]
    return _pictures(levels, titles, axes)


@styled
def plot_radial_profile(profiles: RadialProfile | Mapping[str, RadialProfile], *, ax: Any = None) -> Any:
    """Spectra over the distance from zero frequency, means over the channels.

    Args:
        profiles: of :func:`alias_ops.spectra.radial_profile`, of logarithms; several by name.
        ax: matplotlib's Axes to draw into; None for a new figure.

    Returns:
        The Axes. A dotted line stands at 0.5 cycles a sample, the highest frequency of a row or column.

    Raises:
        ValueError: there is no profile.
        ImportError: matplotlib is not installed.
    """
    named = by_name(profiles, RadialProfile, "profiles")
    ax = new_axes(ax)
    for name, look in series(list(named)):
        frequency, level = (part.detach().cpu().double().numpy() for part in named[name])
        marker = look["marker"] if len(frequency) < 2 else ""
        ax.plot(frequency, np.mean(level, 0), label=short(name), linewidth=1.8, **{**look, "marker": marker})
    ax.axvline(0.5, color="#777777", linestyle=":", linewidth=1)
    ax.set(xlabel="frequency, cycles/sample", ylabel=f"mean {LEVEL}")
    ax.set_xlim(left=-0.01)
    if len(named) > 1:
        ax.legend(loc="upper right")
    return ax
