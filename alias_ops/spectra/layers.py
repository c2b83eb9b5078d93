"""What each downsampling layer of a model folds, bin by bin."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from .._checks import check_positive, pair
from .._downsampling import SAMPLES_AT_A_TIME, Downsampling, stride_1_map
from .._selection import Layers
from .._watching import LayerWatch
from ..designs.aliasing import residual_factors
from ..ops import separable2d
from ..ops._library import accumulation_dtype
from ._batches import at_rest
from .images import check_images, magnitude

__all__ = ["LayerSpectrum", "layer_spectra"]


@dataclass(frozen=True)
class LayerSpectrum:
    """Spectra of one downsampling layer: means over images and channels of magnitudes, not of logarithms.

    Args:
        name: of the layer.
        kind: its kind, kernel and stride.
        stride: (vertical, horizontal).
        before: [H, W], of the stride-1 map, zero frequency at [H // 2, W // 2].
        folded: [N, M], of the residual: what the layer's output has beside the low band of its stride-1 map. Zero
            frequency at [N // 2, M // 2]. Its sum is the layer's AM.
        images: how many the means are of.
    """

    name: str
    kind: str
    stride: tuple[int, int]
    before: torch.Tensor
    folded: torch.Tensor
    images: int

    @property
    def aliasing(self) -> float:
        """The layer's AM: the sum of ``folded``."""
        return self.folded.double().sum().item()


class _Sums:
    """Magnitudes summed over the maps of a layer."""

    def __init__(self, stride: tuple[int, int]) -> None:
        self.stride = stride
        self.total: tuple[torch.Tensor, torch.Tensor] | None = None
        self.maps = self.images = 0

    def add(self, module: Downsampling, x: torch.Tensor) -> None:
        g = stride_1_map(module, x)
        height, width = g.shape[-2:]
        left, right = (factor.to(g) for factor in residual_factors(height, width, self.stride))
        new = [magnitude(maps).cpu().double().sum((0, 1)) for maps in (g, separable2d(g, left, right))]
        if self.total is not None and self.total[0].shape != new[0].shape:
            sizes = list(self.total[0].shape), list(new[0].shape)
            raise ValueError(f"maps of {sizes[0]} and of {sizes[1]} have no mean: give it images of one size")
        self.total = (new[0], new[1]) if self.total is None else (self.total[0] + new[0], self.total[1] + new[1])
        self.maps += g.shape[0] * g.shape[1]
        self.images += len(x)


class _Watch(LayerWatch):
    sums: dict[str, _Sums]

    def _begin(self) -> bool:
        return True

    def _take(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> None:
        x = x.to(accumulation_dtype(output.dtype))
        sums = self.sums.setdefault(name, _Sums(pair(module.stride, "stride", 1)))
        x = x.unsqueeze(0) if x.dim() == 3 else x
        for some in x.split(max(1, SAMPLES_AT_A_TIME * len(x) // max(x.numel(), output.numel() * 4))):
            sums.add(module, some)


def layer_spectra(
    model: nn.Module,
    images: torch.Tensor | Iterable[torch.Tensor],
    *,
    layers: Layers | None = None,
    batch_size: int = 16,
) -> list[LayerSpectrum]:
    """Spectra of what each downsampling layer of a model receives to sample, and of what folds in it.

    1. Runs the model on the images, in evaluation mode and without gradients; it is as before afterwards.
    2. Runs each layer that downsamples with stride 1 on what it received, some images at a time. Takes the spectrum
       of this map and that of the residual, the difference between the layer's output and the low band of the map.
    3. Means the magnitudes, ``|fft2(map, norm="forward")|``, over images and channels. A layer that runs twice in a
       forward is in the mean twice.

    Slower than :class:`alias_ops.AliasingMonitor`, which sums up the residual without a stride-1 map; it is the same
    sum.

    Args:
        model: any nn.Module.
        images: floating [B, C, H, W], or batches of them: images of one size, as the model takes them.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``.
        batch_size: images of a tensor that go through the model at a time; of no effect on batches.

    Returns:
        A :class:`LayerSpectrum` for each layer that ran, in the order of the model, on the CPU in float64.

    Raises:
        TypeError, ValueError: an argument is not of this kind, or the model has no layer that downsamples, as of
            :class:`alias_ops.AliasingMonitor`.
        RuntimeError: a layer cannot be measured (its maps are of several sizes, say), with its name.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """
    if isinstance(images, torch.Tensor):
        check_images(images, "images")
        check_positive("batch_size", batch_size)
        images = images.split(batch_size)
    with _Watch(model, layers, None, None, "layer_spectra") as watch, torch.no_grad(), at_rest(model):
        watch.sums = {}
        for batch in images:
            model(batch)
    return [
        LayerSpectrum(name, kind, sums.stride, sums.total[0] / sums.maps, sums.total[1] / sums.maps, sums.images)
        for name, kind in watch.layers.items()
        if (sums := watch.sums.get(name)) is not None and sums.total is not None
    ]
