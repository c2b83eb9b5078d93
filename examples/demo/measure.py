"""What a downsampling folds, as one number per layer: the aliasing measure (AM).

Strided convolution: AM by its definition, the L1 distance between the spectrum of the layer's output
and the alias-free corners of its stride-1 spectrum.

Pooling, then convolution: a linear layer, so what folded is what it makes of the part of its input
that the smaller grid cannot carry, ``conv(pool(x - low_pass(x)))``. AM is the L1 norm of its spectrum.

For a strided convolution with circular padding the two are the same number.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

import alias_ops
from alias_ops import reference
from model import Block, ResNet

__all__ = ["Layer", "Timing", "downsampling_layers", "layer_aliasing", "measure_model", "reference_aliasing", "timed"]


@dataclass(frozen=True)
class Layer:
    """One downsampling convolution of a model, what it received and what it returned."""

    conv: nn.Conv2d
    pool: nn.Module | None
    x: torch.Tensor  # what the pooling received, where there is one
    output: torch.Tensor


def downsampling_layers(model: ResNet, images: torch.Tensor) -> dict[str, Layer]:
    """The downsampling convolutions on real activations: those of ``images``, in evaluation mode."""
    received: dict[nn.Module, torch.Tensor] = {}
    returned: dict[nn.Module, torch.Tensor] = {}

    def keep(module: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        received[module], returned[module] = args[0], output

    blocks = {name: m for name, m in model.named_children() if isinstance(m, Block) and m.shortcut is not None}
    watched = [m for block in blocks.values() for m in (block.pool, block.conv1, block.shortcut) if m is not None]
    handles = [m.register_forward_hook(keep) for m in watched]
    try:
        model.eval()
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return {
        f"{name}.{which}": Layer(conv, block.pool, received[block.pool or conv], returned[conv])
        for name, block in blocks.items()
        for which, conv in (("conv1", block.conv1), ("shortcut", block.shortcut))
    }


def _under_nyquist(size: int, stride: int) -> torch.Tensor:
    """1 for the signed frequencies that size / stride samples tell apart, 0 for the others."""
    return (2 * torch.fft.fftfreq(size, 1 / size, dtype=torch.float64).abs() < size / stride).double()


@lru_cache
def _low_pass_factor(size: int, stride: int) -> torch.Tensor:
    spectra = torch.fft.fft(torch.eye(size, dtype=torch.float64)) * _under_nyquist(size, stride)
    return torch.fft.ifft(spectra).real[None]


def _l1_of_spectrum(folded: torch.Tensor) -> float:
    return torch.fft.fft2(folded, norm="forward").abs().sum((-2, -1)).mean().item()


def _convolve(layer: Layer, pooled: torch.Tensor) -> torch.Tensor:
    return F.conv2d(pooled, layer.conv.weight, None, layer.conv.stride, layer.conv.padding)


@torch.no_grad()
def layer_aliasing(layer: Layer) -> float:
    """AM of a layer with alias_ops."""
    conv = layer.conv
    if layer.pool is None:
        return alias_ops.conv2d_aliasing(
            layer.x, conv.weight, None, conv.stride, conv.padding, output=layer.output
        ).item()
    factors = (_low_pass_factor(size, layer.pool.stride) for size in layer.x.shape[-2:])
    high = layer.x - alias_ops.ops.separable2d(layer.x, *factors)
    return _l1_of_spectrum(_convolve(layer, layer.pool(high)))


@torch.no_grad()
def reference_aliasing(layer: Layer) -> float:
    """AM of a layer as the papers write it, with ``torch.fft``: what ``layer_aliasing`` must agree with."""
    conv = layer.conv
    if layer.pool is None:
        return reference.conv2d_aliasing(layer.x, conv.weight, None, conv.stride, conv.padding).item()
    stride = layer.pool.stride
    gain = torch.outer(*(_under_nyquist(size, stride) for size in layer.x.shape[-2:])).to(layer.x)
    high = layer.x - torch.fft.ifft2(torch.fft.fft2(layer.x) * gain).real
    pool = reference.flc_pool2d if isinstance(layer.pool, alias_ops.FLCPool2d) else reference.asap_pool2d
    return _l1_of_spectrum(_convolve(layer, pool(high, stride)))


def measure_model(model: ResNet, images: torch.Tensor) -> dict[str, float]:
    """AM of every downsampling layer of a model on ``images``."""
    model.eval()
    if model.variant == "strided":
        with alias_ops.AliasingMonitor(model, max_samples=len(images)) as monitor:
            monitor.update(images)
            return monitor.compute()
    return {name: layer_aliasing(layer) for name, layer in downsampling_layers(model, images).items()}


@dataclass(frozen=True)
class Timing:
    """AM of a layer by alias_ops and by the reference, and the median time of each in milliseconds."""

    aliasing: float
    reference_aliasing: float
    alias_ops_ms: float
    reference_ms: float

    @property
    def speedup(self) -> float:
        return self.reference_ms / self.alias_ops_ms


def timed(layer: Layer, repeats: int = 9) -> Timing:
    """Measure a layer both ways, by turns, so that whatever else the machine does meets both."""

    def once(function: Callable[[Layer], float]) -> float:
        start = time.perf_counter()
        function(layer)
        return 1e3 * (time.perf_counter() - start)

    values = layer_aliasing(layer), reference_aliasing(layer)  # the first calls build their tables
    pairs = [(once(layer_aliasing), once(reference_aliasing)) for _ in range(repeats)]
    fast, slow = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Timing(*values, fast, slow)
