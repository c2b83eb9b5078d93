"""Where the CPU takes identity 4, and what it needs for it."""

import torch

from .. import designs
from ._library import plane

__all__ = ["by_taps", "has_taps", "tables_with_taps"]

# Identity 4 fills vectors with the channels of a convolution group and visits every tap of the kernel. Measured in
# benchmarks/NOTES.md: within these it is the faster one, by far or by a little.
LARGEST_KERNEL = 49
NARROWEST_GROUP = 8

CONV_TABLES = 6


def by_taps(weight: torch.Tensor, groups: int) -> bool:
    """Whether identity 4 serves a layer's gradients.

    Of these layers it serves many, not all, for norms where the output is not at hand: csrc/conv2d_ops.cpp looks.
    """
    height, width = plane(weight)
    return 1 < height * width <= LARGEST_KERNEL and (groups == 1 or weight.shape[1] >= NARROWEST_GROUP)


def tables_with_taps(x, weight, stride, padding, dilation) -> list[list[torch.Tensor]]:
    """Of both axes, for the op ``conv2d_alias_l1`` on the CPU."""
    size, kernel = plane(x), plane(weight)
    return [designs.conv_tables_with_taps(size[d], kernel[d], stride[d], padding[d], dilation[d]) for d in (0, 1)]


def has_taps(tables: list[torch.Tensor]) -> bool:
    """Whether an axis came with them."""
    return len(tables) > CONV_TABLES


def without_taps(tables: list[torch.Tensor]) -> list[torch.Tensor]:
    return tables[:CONV_TABLES]
