"""Layers that downsample by a pool of their own: what ``replace_downsampling`` and ``alias_ops.models`` put in.

Each is a subclass of the layer whose place it takes, at stride 1: parameters keep their names, so
checkpoints of the strided layer load, and nothing takes it for a strided layer.
"""

from typing import Any

import torch
from torch import nn

from ._downsampling import stride_1_pool

__all__ = ["PooledAvgPool2d", "PooledConv2d", "PooledMaxPool2d", "TrimmedPool2d"]


class PooledConv2d(nn.Conv2d):
    """A convolution at stride 1 behind a pool, or before it.

    Args:
        args, kwargs: of nn.Conv2d, without stride.
        pool: the module that downsamples.
        pool_first: True: pool the input, then convolve, as the papers do. False: pool the stride-1 map, which costs
            the convolution at stride 1 and is of the strided layer's size whatever kernel and padding are.
    """

    def __init__(self, *args: Any, pool: nn.Module, pool_first: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pool = pool
        self.pool_first = pool_first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(self.pool(x)) if self.pool_first else self.pool(super().forward(x))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pool_first={self.pool_first}"


class _BeforePool2d(nn.Module):
    """What the two poolings have in common: the layer at stride 1, then the pool."""

    def __init__(self, kernel_size: Any, replaced_stride: tuple[int, int], *, pool: nn.Module, **kwargs: Any) -> None:
        super().__init__(kernel_size, 1, **kwargs)
        self.replaced_stride = replaced_stride
        self.pool = pool

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer: Any = self
        return self.pool(stride_1_pool(layer, x, self.replaced_stride) if layer.ceil_mode else super().forward(x))


class PooledMaxPool2d(_BeforePool2d, nn.MaxPool2d):
    """A max pooling at stride 1 before a pool.

    Args:
        kernel_size: of nn.MaxPool2d.
        replaced_stride: of the layer whose place it takes; under ceil_mode it says where the last window begins.
        pool: the module that downsamples.
        kwargs: of nn.MaxPool2d.
    """


class PooledAvgPool2d(_BeforePool2d, nn.AvgPool2d):
    """An average pooling at stride 1 before a pool; arguments as of :class:`PooledMaxPool2d`."""


class TrimmedPool2d(nn.Module):
    """A pool in the place of AvgPool2d(stride), which takes whole blocks: the rest, below and beside, is dropped."""

    def __init__(self, pool: nn.Module, stride: tuple[int, int]) -> None:
        super().__init__()
        self.pool = pool
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = (size // step * step for size, step in zip(x.shape[-2:], self.stride, strict=True))
        return self.pool(x[..., :height, :width])

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
