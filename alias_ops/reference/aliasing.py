"""The aliasing measure by its definition: stride-1 map, two FFTs, the alias-free corners, an L1 norm."""

import torch
import torch.nn.functional as F

from ..designs import output_size
from .pooling import _pair

__all__ = ["aliasing", "conv2d_aliasing"]


def _kept_bins(outputs: int, length: int, device) -> torch.Tensor:
    """For every output bin, the bin of the same signed frequency among ``length``."""
    k = torch.arange(outputs, device=device)
    return torch.where(2 * k < outputs, k, k - outputs) % length


def _alias_free(outputs: int, device) -> torch.Tensor:
    """True for the bins with 2|k| < outputs; the Nyquist bin of an even size is not alias-free."""
    k = torch.arange(outputs, device=device)
    return torch.where(2 * k < outputs, 2 * k, 2 * (outputs - k)) < outputs


def _reduce(maps: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return maps
    return maps.mean() if reduction == "mean" else maps.sum()


def aliasing(x: torch.Tensor, stride=2, *, reduction: str = "mean") -> torch.Tensor:
    """AM of stride-1 maps x [..., H, W], Grabinski, Keuper & Keuper, Mach Learn 2022, section 3.

    ``reduction="none"`` gives one value per map. Slow and obvious; differentiable; float32 or float64.
    """
    sh, sw = _pair(stride)
    height, width = x.shape[-2:]
    outputs = output_size(height, sh), output_size(width, sw)
    bottom, right = outputs[0] * sh - height, outputs[1] * sw - width
    flat = x.reshape(-1, 1, height, width)
    extended = F.pad(flat, (0, right, 0, bottom), mode="replicate") if flat.numel() else flat
    extended = extended.reshape(*x.shape[:-2], *extended.shape[-2:])
    strided = torch.fft.fft2(extended[..., ::sh, ::sw], norm="forward")
    full = torch.fft.fft2(extended, norm="forward")
    rows = _kept_bins(outputs[0], extended.shape[-2], x.device)
    cols = _kept_bins(outputs[1], extended.shape[-1], x.device)
    mask = _alias_free(outputs[0], x.device)[:, None] & _alias_free(outputs[1], x.device)
    low = full[..., rows, :][..., cols] * mask
    return _reduce((strided - low).abs().sum((-1, -2)), reduction)


def conv2d_aliasing(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride=2,
    padding=0,
    dilation=1,
    groups: int = 1,
    *,
    output: torch.Tensor | None = None,
    through_output: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    """AM of a strided convolution: run it with stride 1, then :func:`aliasing`.

    ``output`` and ``through_output`` are accepted so that the signature is the fast function's; the definition has no
    use for them.
    """
    stride_1 = F.conv2d(x, weight, bias, 1, padding, dilation, groups)
    return aliasing(stride_1, stride, reduction=reduction)
