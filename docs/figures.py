"""Draws the two figures of concepts.md: ``make docs-figures``. Everything in them is computed by the package."""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

from alias_ops import designs
from alias_ops.plots import COLOURS, STYLE

KEPT, FOLDED, NEUTRAL = COLOURS["blue"], COLOURS["vermillion"], "#333333"
SIZE = 64  # samples of a line


def _stems(axis, k, height, colour, label, marker="o"):
    lines = axis.stem(k, height, basefmt=" ", label=label)
    lines.markerline.set(color=colour, markersize=4, marker=marker)
    lines.stemlines.set(color=colour, linewidth=1.4)


def folding():
    """Two waves, one of which does not fit half of the samples, before and after a slice."""
    n = np.arange(SIZE)
    slow, fast = np.cos(2 * np.pi * 3 * n / SIZE), 0.5 * np.cos(2 * np.pi * 22 * n / SIZE)
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 4.6), layout="constrained")
    for axis, step in zip(axes[0], (1, 2), strict=True):
        axis.plot(n[::step], (slow + fast)[::step], color=NEUTRAL, linewidth=0.8, marker="o", markersize=2.6)
        axis.plot(n, slow, color=KEPT, linewidth=1.6, label="the slow wave")
        axis.set(xlabel="position, pixels", ylim=(-1.75, 2.3), xlim=(-1, SIZE))
    axes[0, 0].set(title=f"{SIZE} samples: 3 and 22 waves a line", ylabel="value")
    axes[0, 1].set_title("every second one, x[::2]: the slow wave and a false one")
    axes[0, 0].legend(loc="upper right")

    k = np.arange(SIZE // 2)
    before = np.abs(np.fft.fft(slow + fast, norm="forward"))[: SIZE // 2]
    low = k < SIZE // 4
    axis = axes[1, 0]
    axis.axvspan(SIZE / 4, SIZE / 2, color=FOLDED, alpha=0.12, linewidth=0)
    _stems(axis, k[low & (before > 1e-9)], before[low & (before > 1e-9)], KEPT, "fits the smaller map")
    _stems(axis, k[~low & (before > 1e-9)], before[~low & (before > 1e-9)], FOLDED, "does not, and folds", "s")
    axis.annotate(
        "",
        (10, 0.33),
        (22, 0.33),
        arrowprops={"arrowstyle": "->", "color": FOLDED, "linewidth": 1.4, "connectionstyle": "arc3,rad=0.25"},
    )
    axis.text(16.4, 0.42, "22 → 32 - 22 = 10", color=FOLDED, ha="left", fontsize=8.5)
    axis.set(xlim=(-1, SIZE / 2), xticks=[0, 3, 10, 16, 22, 32])
    axis.set(title="its spectrum", xlabel="frequency, waves a line", ylabel="magnitude", ylim=(0, 0.72))
    axis.legend(loc="upper right")

    after = np.fft.fft((slow + fast)[::2], norm="forward")[: SIZE // 4]
    alias = np.abs(after - np.fft.fft(slow, norm="forward")[: SIZE // 4])
    axis = axes[1, 1]
    k = k[: SIZE // 4]
    _stems(axis, k[alias < 1e-9][np.abs(after)[alias < 1e-9] > 1e-9], np.abs(after)[[3]], KEPT, "was there")
    _stems(axis, k[alias > 1e-9], alias[alias > 1e-9], FOLDED, "folded: what the measure sums up", "s")
    axis.axvspan(SIZE / 4, SIZE / 2, color=NEUTRAL, alpha=0.08, linewidth=0)
    axis.text(24, 0.3, "the smaller map\nhas no such frequency", color=NEUTRAL, ha="center", fontsize=8.5)
    axis.set(xlim=(-1, SIZE / 2), xticks=[0, 3, 10, 16, 32])
    axis.set(title="the spectrum of every second sample", xlabel="frequency, waves a line", ylim=(0, 0.72))
    axis.legend(loc="upper right")
    return figure


def _between(samples, finer=16):
    """The one curve through the samples that has no frequencies but theirs."""
    half, spectrum = len(samples) // 2, np.fft.fft(samples, norm="forward")
    wide = np.zeros(finer * len(samples), dtype=complex)
    wide[:half], wide[1 - half :] = spectrum[:half], spectrum[1 - half :]
    wide[half] = wide[-half] = spectrum[half] / 2
    return np.fft.ifft(wide, norm="forward").real.round(9)


def windows():
    """What FLC and ASAP keep of each frequency, and what they make of an edge."""
    figure, axes = plt.subplots(1, 2, figsize=(8.6, 3.0), layout="constrained", width_ratios=(1, 1.25))
    edge = np.roll((np.arange(SIZE) < SIZE // 2).astype(float), SIZE // 4 + 1)
    for pool, colour, style, marker in (("flc", KEPT, "-", "o"), ("asap", FOLDED, "--", "s")):
        axis = designs.axis_spectrum(pool, 512)
        frequency = np.arange(-256, 256) / 512
        gain = np.zeros(512)
        gain[(axis.source + 256) % 512] = axis.window
        axes[0].plot(frequency, gain, color=colour, linestyle=style, linewidth=1.6, label=pool.upper())
        pooled = (designs.axis_spectrum(pool, SIZE).matrix() @ edge).real.round(9)  # the same on any machine
        between = _between(pooled)
        beyond = f"{pool.upper()}: beyond the edge by {100 * (between.max() - 1):.0f} %"
        axes[1].plot(np.arange(len(between)) * SIZE / len(between), between, style, color=colour, linewidth=1.3)
        axes[1].plot(np.arange(0, SIZE, 2), pooled, marker, color=colour, markersize=3.6)
        axes[1].plot([], [], linestyle=style, marker=marker, color=colour, markersize=3.6, label=beyond)
    axes[0].set(title="weight of each frequency", xlabel="frequency, waves a pixel of the input", ylabel="weight")
    axes[0].set(xticks=[-0.5, -0.25, 0, 0.25, 0.5], ylim=(0, 1.25))
    axes[0].legend(loc="upper right", ncols=2)
    axes[1].step(np.arange(SIZE), edge, where="mid", color=NEUTRAL, linewidth=0.9, label="the edge")
    axes[1].set(title="a line with an edge, pooled by 2", xlabel="position, pixels of the input", ylabel="value")
    axes[1].set(xlim=(0, SIZE / 2), ylim=(-0.2, 1.75))
    axes[1].legend(loc="upper left")
    return figure


FIGURES = {"folding.png": folding, "windows.png": windows}


def main() -> None:
    """Write the figures into a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent / "img")
    folder = parser.parse_args().folder
    with mpl.rc_context(STYLE):
        for name, draw in FIGURES.items():
            # No version of matplotlib in the file: the same picture is the same bytes.
            draw().savefig(folder / name, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
