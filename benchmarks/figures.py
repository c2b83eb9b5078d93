"""Pictures of a results file; drawn from it alone."""

from pathlib import Path
from typing import Any

import matplotlib

from .report import DIRECTIONS, found, ratio

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw"]

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
}
PEERS = {
    "fft2": ("published FFT module", "#7b3294"),
    "rfft2": ("rfft2", "#c51b7d"),
    "matmul": ("matmul", "#d95f02"),
    "max_pool2d": ("max_pool2d", "#1b7837"),
    "BlurPool (kornia)": ("BlurPool", "#2166ac"),
    "avg_pool2d": ("avg_pool2d", "#777777"),
}
DTYPES = {"float32": "#2166ac", "float64": "#7b3294", "bfloat16": "#d95f02", "float16": "#1b7837"}


def _label_ends(axis, ends: list[tuple[float, float, str, str]]) -> None:
    """Names where the lines end, moved apart where they would overlap (log scale)."""
    gap, last = 1.22, 1.0  # the first is kept off the line at 1
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        at = max(y, last * gap)
        axis.annotate(text, (x, y), (x * 1.08, at), color=colour, va="center", fontsize=8, annotation_clip=False)
        last = at


def _sizes(axis, ns) -> None:
    axis.set_xscale("log", base=2)
    # Names that are nearer to the next than they are wide are left out; the ticks stay.
    axis.set_xticks(ns, [str(n) if following >= 1.3 * n else "" for n, following in zip(ns, [*ns[1:], 9e9])])
    axis.minorticks_off()
    axis.set_xlabel("side of a map, N")


def _speedups(document: dict[str, Any], device: str):
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.6), sharey=True)
    for axis, direction in zip(axes, DIRECTIONS):
        results = sorted(found(document, group="pooling, sizes", direction=direction), key=lambda r: r["shape"][-1])
        ns = [r["shape"][-1] for r in results]
        ends = []
        for peer, (name, colour) in PEERS.items():
            points = [(n, ratio(r, peer)) for n, r in zip(ns, results) if ratio(r, peer) is not None]
            if not points:
                continue
            axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1.4, color=colour)
            ends.append((*points[-1], name, colour))
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1x", "2x", "5x", "10x", "20x", "50x", "100x"])
        _sizes(axis, ns)
        axis.set_title(direction, loc="left", fontsize=9)
        _label_ends(axis, ends)
    axes[0].set_ylabel("time of the peer / flc_pool2d")
    figure.suptitle(f"FLC pooling against its peers, float32, {device}", x=0.06, ha="left", fontsize=10)
    figure.subplots_adjust(wspace=0.42, top=0.86)
    return figure


def _floors(document: dict[str, Any], device: str):
    figure, axes = plt.subplots(1, 2, figsize=(9.4, 3.2), sharey=True)
    for axis, direction in zip(axes, DIRECTIONS):
        ns: list[int] = []
        for dtype, colour in DTYPES.items():
            group = "pooling, sizes" if dtype == "float32" else "pooling, dtypes"
            results = found(document, group=group, direction=direction, dtype=dtype)
            points = sorted((r["shape"][-1], r["floor"]["fraction"]) for r in results if r.get("floor"))
            if points:
                ns = [n for n, _ in points]
                axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1.4, color=colour, label=dtype)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_ylim(0, None)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _sizes(axis, ns)
        axis.set_title(direction, loc="left", fontsize=9)
    axes[0].set_ylabel("floor / time of flc_pool2d")
    axes[0].legend(fontsize=8, loc="upper left", framealpha=1, edgecolor="none")
    figure.suptitle(
        f"Fraction of the floor: bytes over bandwidth or half-band arithmetic over peak, {device}",
        x=0.06,
        ha="left",
        fontsize=10,
    )
    figure.subplots_adjust(wspace=0.1, top=0.84)
    return figure


def _convolutions(document: dict[str, Any], device: str):
    results = [r for r in document["results"] if r["op"] == "conv2d_aliasing" and r["direction"] == "forward"]
    names = {"definition": "#7b3294", "stride-1 convolution": "#2166ac", "strided convolution": "#1b7837"}
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(results) + 1))
    for i, result in enumerate(results):
        for name, colour in names.items():
            value = ratio(result, name)
            if value is not None:
                axis.plot([value], [i], "o", color=colour, markersize=5, label=name if i == 0 else None)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5x", "1x", "2x", "5x", "10x", "20x", "50x"])
    axis.set_yticks(range(len(results)), [f"{r['layer']}, batch {r['shape'][0]}" for r in results])
    axis.set_xlabel("time of it / conv2d_aliasing(output=y)")
    axis.set_ylim(len(results) - 0.4, -0.6)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(-0.02, 1))
    axis.set_title(f"Aliasing measure of a convolution, float32, {device}", fontsize=10, x=-0.45, ha="left", pad=24)
    return figure


def draw(document: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write the figures that the document has results for.

    Returns:
        The files: bench_speedup.png, bench_floor.png, bench_convolutions.png.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    processor = document["machine"]["processor"]
    device = f"{document['machine']['device']}, {processor['threads']} threads"
    drawn = []
    with plt.rc_context(STYLE):
        for name, group, picture in (
            ("bench_speedup.png", "pooling, sizes", _speedups),
            ("bench_floor.png", "pooling, sizes", _floors),
            ("bench_convolutions.png", "convolutions, bars", _convolutions),
        ):
            if not found(document, group=group):
                continue
            figure = picture(document, device)
            figure.savefig(target / name)
            plt.close(figure)
            drawn.append(target / name)
    return drawn
