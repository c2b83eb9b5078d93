"""Six ways to halve a map, each with the full-size map that it keeps samples of."""

import torch
import torch.nn.functional as F

from model import POOLS

__all__ = ["KINDS", "halve", "stride_1_form"]

KINDS = ("strided", "max", "average", "blur", *POOLS)


def _gain(kind: str, size: int, times: int) -> torch.Tensor:
    """What FLC or ASAP, ``times`` in a row, leave of the signed frequencies k of an axis, float64 [size]."""
    k = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)
    gain = torch.ones_like(k)
    for length in (size // 2**halving for halving in range(times)):
        gain = gain * ((-length <= 4 * k) & (4 * k < length))
        if kind == "ASAP":
            gain = gain * (0.54 + 0.46 * torch.cos(2 * torch.pi * k / length)).clamp_min(0).sqrt()
    return gain


def stride_1_form(kind: str, x: torch.Tensor, times: int = 1) -> torch.Tensor:
    """The full-size map of which ``halve(kind, x, times)`` keeps every ``2**times``-th sample.

    ``alias_ops.aliasing`` of it, with that stride, is the AM of the downsampling.

    Args:
        kind: one of ``KINDS``; "blur" is the 3 x 3 binomial filter.
        x: maps [B, C, H, W] whose sides ``2**times`` divides.
        times: how often the map is halved.
    """
    if kind in POOLS:
        gain = torch.outer(*(_gain(kind, size, times) for size in x.shape[-2:])).to(x)
        return torch.fft.ifft2(torch.fft.fft2(x) * gain).real
    if kind in ("max", "average"):
        pool, size = (F.max_pool2d if kind == "max" else F.avg_pool2d), 2**times
        return pool(F.pad(x, (0, size - 1, 0, size - 1), mode="replicate"), size, 1)
    if kind == "blur":
        binomial = torch.tensor([1.0, 2.0, 1.0]).to(x) / 4
        kernel = torch.outer(binomial, binomial).expand(x.shape[1], 1, 3, 3)
        for step in (2**halving for halving in range(times)):
            x = F.conv2d(F.pad(x, (step,) * 4, mode="replicate"), kernel, dilation=step, groups=x.shape[1])
    return x


def halve(kind: str, x: torch.Tensor, times: int = 1) -> torch.Tensor:
    """Maps [B, C, H, W] at half the size along both axes, ``times`` in a row, in one of the ways of ``KINDS``."""
    if kind not in POOLS:
        return stride_1_form(kind, x, times)[..., :: 2**times, :: 2**times]
    for _ in range(times):
        x = POOLS[kind](stride=2)(x)
    return x
