"""Smoother convolution kernels: a defence of a trained network that costs nothing when it runs."""

import difflib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from .._checks import FLOATING, check_positive
from .._downsampling import describe
from ..ops._library import accumulation_dtype
from .components import check_radius, low_pass

__all__ = ["SmoothedLayer", "SmoothingReport", "smooth_kernels_"]


class SmoothedLayer(NamedTuple):
    """What happened to the kernels of one convolution.

    Attributes:
        name: qualified name, "" for a model that is the convolution itself.
        layer: kernel and stride, as "conv 7x7 /2".
        by: "radius 1.2" or "rho 0.5".
        change: of each kernel the relative L2 change ``|new - old| / |old|``, float [Cout, Cin / groups] on the
            CPU; 0 for a kernel of zeros.
    """

    name: str
    layer: str
    by: str
    change: torch.Tensor


class SmoothingReport(tuple[SmoothedLayer, ...]):
    """What :func:`smooth_kernels_` did, a :class:`SmoothedLayer` for each layer; prints as a table.

    Also a context manager, which puts the kernels back at its end.
    """

    _kept: list[tuple[nn.Conv2d, torch.Tensor]]

    def restore(self) -> None:
        """Put the kernels back as they were, bit for bit, whatever they are by now; once, then nothing is kept."""
        with torch.no_grad():
            for module, weight in self._kept:
                module.weight.copy_(weight)
        self._kept = []

    def __enter__(self) -> "SmoothingReport":
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    def __str__(self) -> str:
        rows = [("layer", "", "by", "change: mean", "largest")]
        for name, layer, by, change in self:
            largest = change.max().item()
            rows.append((name or "(model)", layer, by, f"{change.mean().item():.3g}", f"{largest:.3g}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        )


def _chosen(model: nn.Module, layers: object) -> dict[str, nn.Conv2d]:
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    if isinstance(layers, int) and not isinstance(layers, bool):
        check_positive("layers", layers)
        if layers > len(found):
            raise ValueError(f"layers must be at most {len(found)}, the nn.Conv2d of the model, got {layers}")
        return dict(list(found.items())[:layers])
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise TypeError(f"layers must be a positive int, an iterable of names or a mapping of them, got {layers!r}")
    names = list(layers)
    every = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if not isinstance(every.get(name), nn.Conv2d):
            near = difflib.get_close_matches(str(name), found, n=3, cutoff=0.0)
            problem = "is not an nn.Conv2d" if name in every else "is not a module of the model"
            raise ValueError(f"layers: {name!r} {problem}" + (f"; nearest: {', '.join(map(repr, near))}" * bool(near)))
    if not names:
        raise ValueError("layers must name at least one nn.Conv2d, got none")
    return {name: every[name] for name in names}


def _obstacle(module: nn.Conv2d) -> str:
    if is_lazy(module.weight):
        return "its weight is not initialised yet; run a forward first"
    if parametrize.is_parametrized(module, "weight"):
        return "its weight is parametrized; remove the parametrization first"
    # weight_norm and pruning compute it anew before every forward.
    if "weight" not in dict(module.named_parameters(recurse=False)):
        return "its weight is not a parameter"
    kind = module.weight.dtype
    return "" if kind in FLOATING else f"its weight is {str(kind).removeprefix('torch.')}, not of a floating type"


def _neighbours(weight: torch.Tensor, rho: float) -> torch.Tensor:
    """Each weight plus rho times its eight neighbours, edges repeated beyond themselves."""
    kernels = weight.to(accumulation_dtype(weight.dtype)).flatten(0, 1).unsqueeze(1)
    mask = torch.full((1, 1, 3, 3), float(rho), dtype=kernels.dtype, device=kernels.device)
    mask[..., 1, 1] = 1
    return F.conv2d(F.pad(kernels, (1, 1, 1, 1), mode="replicate"), mask).view_as(weight).to(weight.dtype)


def _change(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    old, new = (w.to(accumulation_dtype(w.dtype)) for w in (old, new))
    norm = old.norm(dim=(-2, -1))
    return torch.where(norm > 0, (new - old).norm(dim=(-2, -1)) / norm, 0).cpu()


def smooth_kernels_(
    model: nn.Module,
    radius: float | None = None,
    layers: int | Iterable[str] | Mapping[str, float] = 1,
    *,
    rho: float | None = None,
) -> SmoothingReport:
    """Smooth the convolution kernels of a trained network, in place: a defence without training (D2).

        print(smooth_kernels_(model, 1.2))                     # until .restore()
        with smooth_kernels_(model, rho=0.5, layers=2):        # in here alone
            ...

    1. With a radius, every kH x kW kernel becomes its low-frequency component, as :func:`low_pass` takes it of the
       kernel. Of 3x3 kernels the distances are 0, 1 and 1.41: a radius in (0, 1] leaves their means, one in
       (1, 1.41] takes the four corners of their spectrum away, one above changes nothing.
    2. With rho, the published code's form: every weight plus rho times its eight neighbours, which is the convolution
       with a 3x3 mask of 1 in the middle and rho around it; edges are repeated beyond themselves. The mask sums to
       1 + 8 rho and is not normalised, there as here.

    What stands behind it is the convolution theorem: of a circular convolution,
    ``LFC(x, r) * w = x * LFC(w, r) = LFC(x * w, r)``, so that a kernel without high frequencies looks at none of the
    image's. That is exact for kernels of the size of x, or padded with zeros to it and smoothed there. It stops
    holding in three places, and what this function does is an approximation by as much:

    - the kernel is smoothed on its own few bins. A bin k of a side of 3 stands for all frequencies around k N / 3 of an
      image's side N; those between the bins are not zeroed;
    - layers pad with zeros or not at all, and do not wrap around: outputs within half a kernel of the border differ;
    - the real part. With distances from DC nothing imaginary is there to be dropped. Distances as the published
      code takes them are off DC at odd sizes, where taking the real part breaks the product.

    It says nothing of layers behind a nonlinearity, which makes new high frequencies of low ones. A 1x1 kernel has DC
    alone and stays.

    Args:
        model: any nn.Module; its nn.Conv2d parameters change where they are, so that optimizers and checkpoints go on.
        radius: non-negative number, in bins of the kernel's spectrum.
        layers: how many nn.Conv2d, the first ones of ``model.named_modules()``, which is the order they were
            defined in; or their names; or a mapping of names to radii, without ``radius`` then.
        rho: a number, in place of a radius.

    Returns:
        One row for each layer, with the relative change of each of its kernels. ``restore()`` undoes it; it keeps
        a copy of the kernels for that.

    Raises:
        TypeError, ValueError: an argument is wrong, a name is not one of an nn.Conv2d, or a layer's weight is
            parametrized, not initialised or not floating. The model is then as it was.

    Source: Wang et al., CVPR 2020, section 6.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    given = [value for value in (radius, rho, layers if isinstance(layers, Mapping) else None) if value is not None]
    if len(given) != 1:
        came = f"radius={radius!r}, rho={rho!r}, layers={layers!r}"
        raise ValueError(f"give one of radius, rho and a mapping of layers to radii, got {came}")
    if rho is not None and (not isinstance(rho, (int, float)) or isinstance(rho, bool)):
        raise TypeError(f"rho must be a number, got {rho!r}")
    chosen = _chosen(model, layers)
    radii = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(chosen, radius)
    changes: dict[int, tuple[nn.Conv2d, torch.Tensor, SmoothedLayer]] = {}
    for name, module in chosen.items():
        if rho is None:
            check_radius(radii[name], f"radius of {name!r}" if isinstance(layers, Mapping) else "radius")
        if obstacle := _obstacle(module):
            raise ValueError(f"layers: {name!r} cannot be smoothed: {obstacle}")
        if id(module.weight) in changes:  # shared by two layers, or one layer by two names
            continue
        old = module.weight.detach()
        new = _neighbours(old, rho) if rho is not None else low_pass(old, radii[name])  # type: ignore[arg-type]
        by = f"radius {radii[name]}" if rho is None else f"rho {rho}"
        changes[id(module.weight)] = module, new, SmoothedLayer(name, describe(module), by, _change(old, new))
    report = SmoothingReport(row for _, _, row in changes.values())
    report._kept = [(module, module.weight.detach().clone()) for module, _, _ in changes.values()]
    with torch.no_grad():
        for module, new, _ in changes.values():
            module.weight.copy_(new)
    return report
