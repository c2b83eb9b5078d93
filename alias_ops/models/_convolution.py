"""The convolution of the networks' blocks, which is where they downsample."""

from collections.abc import Callable

from torch import nn

from .._pooled import PooledConv2d
from ..nn import ASAPPool2d, FLCPool2d

__all__ = ["DOWNSAMPLING", "convolution"]

DOWNSAMPLING = ("strided", "flc", "asap", "max", "avg")


def _pool(downsampling: str, channels: int, stride: int, variant: str) -> nn.Module:
    # ceil_mode and count_include_pad: all of them keep the size of the strided convolution, and means stay means.
    if downsampling == "max":
        return nn.MaxPool2d(stride, ceil_mode=True)
    if downsampling == "avg":
        return nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
    layer: Callable[..., nn.Module] = FLCPool2d if downsampling == "flc" else ASAPPool2d
    return layer(channels, stride, variant=variant)


def convolution(inputs: int, outputs: int, kernel: int, stride: int, downsampling: str, variant: str) -> nn.Conv2d:
    """A convolution without bias that keeps the size or divides it by ``stride``.

    Args:
        inputs, outputs: channels.
        kernel: odd.
        stride: 1 or more.
        downsampling: "strided", or the pool that goes before the convolution.
        variant: of "flc" and "asap".

    Raises:
        ValueError: an unknown downsampling, or a variant that it does not have.
    """
    if not isinstance(downsampling, str) or downsampling not in DOWNSAMPLING:
        raise ValueError(f"downsampling must be one of {', '.join(map(repr, DOWNSAMPLING))}, got {downsampling!r}")
    if variant != "centered" and downsampling not in ("flc", "asap"):
        raise ValueError(f"variant is for downsampling 'flc' and 'asap', got {variant!r} with {downsampling!r}")
    if stride == 1 or downsampling == "strided":
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    pool = _pool(downsampling, inputs, stride, variant)
    return PooledConv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, pool=pool)
