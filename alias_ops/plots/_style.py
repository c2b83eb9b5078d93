"""One look for all figures, and what they have in common."""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import cycle
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

__all__ = [
    "COLOURS",
    "HATCHES",
    "NEUTRAL",
    "STYLE",
    "extent",
    "grid",
    "limits",
    "mark",
    "new_axes",
    "numbers",
    "plain",
    "series",
    "short",
    "styled",
]

P = ParamSpec("P")
T = TypeVar("T")

# Okabe and Ito's palette, told apart by every kind of colour vision.
COLOURS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
}
NEUTRAL = "#333333"
# Markers, dashes and hatches say the same to whom the colours do not.
MARKERS, DASHES = ("o", "s", "^", "D", "v", "P", "X"), ("-", "--", "-.", ":")
HATCHES = ("", "///", "...", "xxx", "++")

# Parameters of matplotlib, for ``matplotlib.rc_context``.
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "image.cmap": "magma",
}


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Run a function in ``STYLE``; ImportError with the line for pip where matplotlib is missing."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            import matplotlib as mpl
        except ModuleNotFoundError as error:
            raise ImportError("alias_ops.plots needs matplotlib: pip install 'alias-ops[plots]'") from error
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def new_axes(ax: Any, width: float = 5.6, height: float = 3.4) -> Any:
    """``ax``, or the axes of a new figure of that many inches."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots()


def grid(axes: Sequence[Any] | None, count: int, columns: int, width: float, height: float) -> list[Any]:
    """As many axes as pictures: those given, or of a new figure with so many columns at most."""
    if axes is not None:
        given = list(np.asarray(axes, dtype=object).flat)
        if len(given) != count:
            raise ValueError(f"axes must be {count}, one a picture, got {len(given)}")
        return given
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.9, height * rows + 0.3), layout="constrained")
    every = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in every[count:]:
        spare.remove()
    return every[:count]


def series(names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Colour, marker and dashes for each name, in that order."""
    looks = zip(cycle(COLOURS.values()), cycle(MARKERS), cycle(DASHES))
    return [(n, {"color": c, "marker": m, "linestyle": d}) for n, (c, m, d) in zip(names, looks)]


def plain(text: object) -> str:
    """Text in which matplotlib finds no formula, and which no legend leaves out, as it does what begins with "_"."""
    escaped = str(text).replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def by_name(given: Any, kind: type, plural: str) -> dict[str, Any]:
    """Results by name, of which there must be one; a single one has none."""
    named = {"": given} if isinstance(given, kind) else dict(given)
    if not named:
        raise ValueError(f"{plural} must have at least one {plural[:-1]}, got none")
    return named


def short(text: object, length: int = 30) -> str:
    """:func:`plain` text that leaves room for the figure: what is left out of a long one is in its middle."""
    name = str(text)
    return plain(name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}")


def numbers(values: Any, name: str) -> np.ndarray:
    """float64 of one dimension from a tensor or a sequence of numbers; None becomes NaN."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray([np.nan if v is None else float(v) for v in values])
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a sequence of numbers, got {values!r}") from error
    if not len(array):
        raise ValueError(f"{name} must have at least one value, got none")
    return array


def extent(shape: tuple[int, ...], within: tuple[int, int] = (1, 1)) -> tuple[float, float, float, float]:
    """Edges of a centred spectrum for ``imshow``, in cycles a sample: of the map, or of one ``within`` times finer."""
    height, width = shape
    left, right = (edge / (width * within[1]) for edge in (-(width // 2) - 0.5, width - width // 2 - 0.5))
    top, bottom = (edge / (height * within[0]) for edge in (-(height // 2) - 0.5, height - height // 2 - 0.5))
    return left, right, bottom, top


def mark(ax: Any) -> None:
    """Ticks at zero and at the half-band of a stride of 2, within the picture as it is."""
    edges = ax.get_xlim(), ax.get_ylim()
    ax.set(xticks=[-0.25, 0, 0.25], yticks=[-0.25, 0, 0.25])
    ax.set(xlim=edges[0], ylim=edges[1])
    ax.grid(False)


def limits(levels: Sequence[np.ndarray], decades: float | None = None) -> tuple[float, float]:
    """The least and the greatest level to tell apart; of some decades at most."""
    finite = np.concatenate([level[np.isfinite(level)] for level in levels])
    if not len(finite):
        return -1.0, 0.0
    low, high = float(finite.min()), float(finite.max())
    if decades is not None:
        low = max(low, high - decades)
    return (low, high) if low < high else (low - 0.5, high + 0.5)
