"""Where the CPU takes identity 4, and what it needs for it."""

import torch

from .. import designs
from ._library import plane

__all__ = ["by_taps", "has_taps", "low_band_is_cheaper", "tables_with_taps"]

# Identity 4 fills vectors with the channels of a convolution group and visits every tap of the kernel. Measured in
# benchmarks/NOTES.md: within these it is the faster one, by far or by a little.
LARGEST_KERNEL = 49
NARROWEST_GROUP = 8

CONV_TABLES = 6

# What the CPU's kernel keeps of the spectra of x and of its output, images whose weights are transformed once:
# kChunkBytes of csrc/cpu/conv2d_alias_l1_backward.cpp, and numbers of float32 in a vector.
CHUNK_BYTES = 6 << 20
LANES = 16


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


def low_band_is_cheaper(x: torch.Tensor, weight: torch.Tensor, groups: int, outputs: tuple[int, int]) -> bool:
    """Whether the low band's gradients alone, the rest taking the way through the strided output, cost clearly less
    than both of identity 4.

    Multiply-adds an output sample, for both gradients: 4 for the bins, and for each image of a chunk its share of a
    weight's transforms and folds, against two products a tap, of which pairs save a fifth. Measured, the ratio is up
    to a third worse than counted: what x and its gradients take to transform is not in it.
    """
    if not by_taps(weight, groups):
        return True
    height, width = plane(weight)
    bins = outputs[0] * (outputs[1] // 2 + 1)
    channels = sum(-(-count // LANES) * LANES for count in (x.shape[1], weight.shape[0]))
    images = min(x.shape[0], max(1, CHUNK_BYTES // (2 * x.element_size() * bins * channels)))
    return 4 + (4 + 4 * height) / images < 0.6 * 1.6 * height * width
