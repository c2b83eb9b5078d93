"""Pooling layers, drop-in for ``MaxPool2d`` and timm's ``aa_layer``, without parameters; aliasing as a loss."""

import torch
from torch import nn

from ._checks import check_variant, pair
from .functional import IntPair, asap_pool2d, flc_pool2d
from .penalty import AliasingPenalty

__all__ = ["ASAPPool2d", "AliasingPenalty", "FLCPool2d"]


class _Pool2d(nn.Module):
    pool: str

    def __init__(
        self,
        channels: int | None = None,
        stride: IntPair = 2,
        *,
        variant: str = "centered",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        pair(stride, "stride", 1)
        check_variant(self.pool, variant)
        self.channels = channels
        self.stride = stride
        self.variant = variant

    def extra_repr(self) -> str:
        named = "" if self.channels is None else f"channels={self.channels}, "
        return f"{named}stride={self.stride}, variant={self.variant!r}"


class FLCPool2d(_Pool2d):
    """FLC pooling as a layer; see :func:`alias_ops.flc_pool2d`.

    Args:
        channels: accepted and kept for ``repr``, so that the class fits timm's ``aa_layer=``; every
            channel is treated alike, whatever their number.
        stride: downsampling factor, an int or (height, width).
        variant: "centered" or "upstream".
        device, dtype: accepted as every torch layer does; there are no parameters to place.

    Shape: [..., H, W] -> [..., ceil(H / stride), ceil(W / stride)].
    """

    pool = "flc"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return torch.ops.alias_ops.pool2d(x, "flc", self.stride, self.variant)
        return flc_pool2d(x, self.stride, variant=self.variant)


class ASAPPool2d(_Pool2d):
    """ASAP pooling as a layer; see :func:`alias_ops.asap_pool2d`.

    Args:
        channels: accepted and kept for ``repr``, so that the class fits timm's ``aa_layer=``.
        stride: downsampling factor, an int or (height, width).
        variant: "centered", "upstream", "upstream_pad1" or "upstream_padlarge".
        device, dtype: accepted as every torch layer does; there are no parameters to place.

    Shape: [..., H, W] -> [..., ceil(H / stride), ceil(W / stride)] ("upstream..." as published).
    """

    pool = "asap"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.jit.is_scripting():
            return torch.ops.alias_ops.pool2d(x, "asap", self.stride, self.variant)
        return asap_pool2d(x, self.stride, variant=self.variant)
