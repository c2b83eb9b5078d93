"""Maps too large for dense factors: the same results by ``torch.fft``, O(log N) per sample."""

import torch
import torch.nn.functional as F

from .. import designs
from ._library import accumulation_dtype, like_input, outside_autocast
from ._spectra import l1_norm, subtract_low

__all__ = ["DENSE_LIMIT", "DENSE_MAPS_LIMIT", "DENSE_MEASURE_LIMIT", "alias_l1", "half_plane", "pool2d"]

# Longest side served by dense factors, for the poolings, for the measure of a convolution and for that of maps;
# benchmarks/NOTES.md has the crossovers.
DENSE_LIMIT = 1024
DENSE_MEASURE_LIMIT = 512
DENSE_MAPS_LIMIT = 400


def half_plane(maps: torch.Tensor) -> torch.Tensor:
    """Spectrum of real maps [..., N, M] at (+-f, g >= 0): complex [2, N // 2 + 1, M // 2 + 1, ...]."""
    full = torch.fft.rfft2(maps, norm="forward")
    f = torch.arange(maps.shape[-2] // 2 + 1, device=maps.device)
    both = torch.stack([f, (-f) % maps.shape[-2]])
    return full[..., both, :].movedim((-3, -2, -1), (0, 1, 2))


@outside_autocast
def alias_l1(x: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """``alias_l1`` by its definition, on the half plane."""
    maps = x.to(accumulation_dtype(x.dtype))
    if maps.numel() == 0:
        return maps.sum((-2, -1))
    height, width = maps.shape[-2:]
    outputs = designs.output_size(height, stride[0]), designs.output_size(width, stride[1])
    missing = outputs[0] * stride[0] - height, outputs[1] * stride[1] - width
    maps = torch.cat([maps, maps[..., -1:, :].expand(*maps.shape[:-2], missing[0], width)], -2)
    maps = torch.cat([maps, maps[..., -1:].expand(*maps.shape[:-1], missing[1])], -1)
    strided = half_plane(maps[..., :: stride[0], :: stride[1]])
    kept = [designs.half_band(size, step) + 1 for size, step in zip((height, width), stride, strict=True)]
    low = half_plane(maps)[:, : kept[0], : kept[1]]
    return l1_norm(subtract_low(strided, low), outputs)


@outside_autocast
def pool2d(x: torch.Tensor, axes: tuple[designs.AxisSpectrum, designs.AxisSpectrum]) -> torch.Tensor:
    """A pooling by its spectrum along each axis."""
    y = x.to(accumulation_dtype(x.dtype))
    if x.numel() == 0:
        return x.reshape(*x.shape[:-2], *(axis.crop[1] - axis.crop[0] for axis in axes))
    for dim, axis in zip((-2, -1), axes, strict=True):
        y = y.movedim(dim, -1)
        y = torch.fft.fft(F.pad(y, axis.pad), norm="forward")
        window = torch.as_tensor(axis.window, device=y.device, dtype=y.real.dtype)
        order = torch.as_tensor(axis.target.argsort(), device=y.device)
        source = torch.as_tensor(axis.source, device=y.device)[order]
        y = torch.fft.ifft(y[..., source] * window[order], norm="forward")
        y = y[..., slice(*axis.crop)].movedim(-1, dim)
    return like_input(y.real, x)
