"""The three figures; a title claims what the numbers under it show, and nothing where they do not."""

from pathlib import Path

import matplotlib as mpl
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullFormatter

import alias_ops
from alias_ops.plots import COLOURS, STYLE
from data import normalise, photograph
from kinds import KINDS, halve, stride_1_form
from model import POOLS, ResNet
from train import Epoch, Run

__all__ = ["draw_photograph", "draw_spectra", "draw_training"]

# Markers and dashes say the same to whom the colours do not.
STYLES = {
    "strided": {"color": COLOURS["vermillion"], "marker": "o", "linestyle": "-"},
    "FLC": {"color": COLOURS["blue"], "marker": "s", "linestyle": "--"},
    "ASAP": {"color": COLOURS["green"], "marker": "^", "linestyle": "-."},
}
NAMES = {
    "strided": "strided",
    "max": "max pooling",
    "average": "average pooling",
    "blur": "3\N{MULTIPLICATION SIGN}3 blur",
    "FLC": "FLC pooling",
    "ASAP": "ASAP pooling",
}
RC = {
    **STYLE,
    "font.size": 18,
    "axes.titlesize": 19,
    "axes.titlelocation": "center",
    "axes.grid": False,
    "figure.titlesize": 25,
    "figure.titleweight": "bold",
}
DPI = 100


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=DPI)
    return path


def _training_title(runs: list[Run]) -> str:
    last = {run.variant: run.last.aliasing for run in runs}
    strided = last.pop("strided")
    ratios = [strided[layer] / aliasing[layer] for aliasing in last.values() for layer in strided]
    if not ratios or min(ratios) < 1.5 or min(run.last.epoch for run in runs) == 0:
        return "Aliasing of each downsampling layer over training"
    return (
        f"{' and '.join(last)} pooling fold {min(ratios):.0f} to {max(ratios):.0f} times less than strided convolution"
    )


def _label_ends(ax, ends: list[tuple[str, Epoch]], layer: str) -> None:
    """The variants' names where their lines end, kept apart (log scale)."""
    lowest = 0.0
    for variant, epoch in sorted(ends, key=lambda end: end[1].aliasing[layer]):
        at = max(epoch.aliasing[layer], 1.45 * lowest)
        place = {"xytext": (14, 0), "textcoords": "offset points", "va": "center", "annotation_clip": False}
        ax.annotate(variant, (epoch.epoch, at), color=STYLES[variant]["color"], **place)
        lowest = at


def draw_training(runs: list[Run], path: Path) -> Path:
    """AM of every layer over the epochs, one line per variant."""
    with mpl.rc_context(RC):
        figure = _figure(16, 9)
        axes = figure.subplots(2, 2, sharex=True, sharey=True)
        for ax, layer in zip(axes.T.flat, runs[0].last.aliasing, strict=True):
            for run in runs:
                epochs = [epoch.epoch for epoch in run.history]
                values = [epoch.aliasing[layer] for epoch in run.history]
                ax.plot(epochs, values, linewidth=3, markersize=10, **STYLES[run.variant])
            _label_ends(ax, [(run.variant, run.last) for run in runs], layer)
            ax.set_title(layer, loc="left")
            ax.set_yscale("log")
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(axis="y", alpha=0.4)
        figure.supxlabel("epoch (0: before training)")
        figure.supylabel("aliasing measure (AM)")
        figure.suptitle(_training_title(runs))
        return _save(figure, path)


def _centred_spectrum(maps: torch.Tensor) -> torch.Tensor:
    return torch.fft.fftshift(torch.fft.fft2(maps, norm="forward"), dim=(-2, -1))


def _alias_free(maps: torch.Tensor) -> torch.Tensor:
    """The centred spectrum's middle half along each axis, its Nyquist row and column 0."""
    height, width = maps.shape[-2:]
    low = _centred_spectrum(maps)[..., height // 4 : 3 * height // 4, width // 4 : 3 * width // 4].clone()
    low[..., 0, :] = 0
    low[..., 0] = 0
    return low


@torch.no_grad()
def _real_map(model: ResNet, name: str, side: int) -> torch.Tensor:
    """The stride-1 map [1, 1, side, side] that the first strided convolution makes of a photograph.

    Of its channels the one that aliases most.
    """
    model.eval()
    block = model.stage2
    image = normalise(photograph(name))[None, :, :side, :side]
    x = F.relu(block.norm1(model.stage1(model.stem(image))))
    maps = F.conv2d(x, block.conv1.weight, None, 1, block.conv1.padding)
    return maps[:, alias_ops.aliasing(maps, reduction="none")[0].argmax()][:, None]


def _picture(ax, pixels: torch.Tensor, title: str, **options):
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.set_title(title)
    return ax.imshow(pixels, interpolation="nearest", **options)


def _spectra_title(aliasing: dict[str, float], beside_nyquist: float) -> str:
    if beside_nyquist > 1e-3 * aliasing["strided"] or aliasing["strided"] < 2 * aliasing["FLC"]:
        return "Spectrum of a feature map, halved in six ways"
    return "Strides fold high frequencies onto low ones; FLC and ASAP cut them off first"


def draw_spectra(model: ResNet, path: Path, name: str = "brick", side: int = 256) -> Path:
    """Spectrum of one map of the strided network, of all its ways to half the size, and what folded in each."""
    original = _real_map(model, name, side)
    forms = {kind: stride_1_form(kind, original) for kind in KINDS}
    after = {kind: _centred_spectrum(halve(kind, original))[0, 0] for kind in KINDS}
    folded = {kind: after[kind] - _alias_free(forms[kind])[0, 0] for kind in KINDS}
    aliasing = {kind: alias_ops.aliasing(form, 2).item() for kind, form in forms.items()}
    before = _centred_spectrum(original)[0, 0]
    # Without DC and the few bins beside it, which would leave no contrast to the others.
    top = before.abs().max().log10().item() - 0.5

    with mpl.rc_context(RC):
        figure = _figure(21, 7.9)
        axes = figure.subplots(2, 1 + len(KINDS))

        def show(ax, spectrum: torch.Tensor, title: str):
            log = spectrum.abs().clamp_min(1e-12).log10()
            return _picture(ax, log, title, cmap="magma", vmin=top - 4.5, vmax=top)

        image = show(axes[0, 0], before, "before")
        corner = (side / 4 - 0.5, side / 4 - 0.5)
        axes[0, 0].add_patch(Rectangle(corner, side / 2, side / 2, fill=False, edgecolor="white", linewidth=3))
        show(axes[1, 0], _alias_free(original)[0, 0], "box: alias-free")
        for column, kind in enumerate(KINDS, 1):
            show(axes[0, column], after[kind], NAMES[kind])
            show(axes[1, column], folded[kind], f"AM {aliasing[kind]:.2f}")
            if kind in POOLS:
                where = {"ha": "center", "va": "center", "color": "white", "transform": axes[1, column].transAxes}
                axes[1, column].text(0.5, 0.5, "only the edge\n(Nyquist bins)", **where)
        axes[0, 1].set_ylabel("after")
        axes[1, 1].set_ylabel("folded part")
        bar = figure.colorbar(image, ax=axes, shrink=0.85, pad=0.01)
        bar.set_label("log10 magnitude")
        sizes = " to ".join(f"{size}\N{MULTIPLICATION SIGN}{size}" for size in (side, side // 2))
        figure.supxlabel(
            f"One map of stage2.conv1 of the strided network on the {name} photograph, {sizes}; zero frequency central"
        )
        beside_nyquist = max(folded[kind][1:, 1:].abs().sum().item() for kind in POOLS)
        figure.suptitle(_spectra_title(aliasing, beside_nyquist))
        return _save(figure, path)


def draw_photograph(path: Path) -> Path:
    """A detail of the photograph "camera", halved twice in all ways."""
    top, left, side, times = 260, 200, 240, 2
    image = photograph("camera")[None, :1]
    options = {"cmap": "gray", "vmin": 0, "vmax": 1}
    with mpl.rc_context(RC):
        figure = _figure(20, 9.6)
        original, halved = figure.subfigures(1, 2, width_ratios=(1, 1.75))
        pixels = image[0, 0, top : top + side, left : left + side]
        _picture(original.subplots(), pixels, "photograph (detail)", **options)
        for ax, kind in zip(halved.subplots(2, 3).flat, KINDS, strict=True):
            small = halve(kind, image, times)[0, 0]
            rows, columns = (slice(start // 2**times, (start + side) // 2**times) for start in (top, left))
            aliasing = alias_ops.aliasing(stride_1_form(kind, image, times), 2**times).item()
            _picture(ax, small[rows, columns], f"{NAMES[kind]}: AM {aliasing:.2f}", **options)
        figure.suptitle(
            "A quarter of the size: strides cut the tripod's legs into dashes, low-pass filters keep them lines"
        )
        return _save(figure, path)
