"""The two products of a separable operator on chip: samples times a table, then a table times the result.

Rows of a tile are (row of a map, map), the map running fastest: CB maps side by side, so that of a tensor in
channels_last neighbouring channels are read together. What the first product gives, [HB CB, BN], is then already
what the second one takes, [HB, CB BN].
"""

import triton
import triton.language as tl

from ._arithmetic import INPUT_BITS, pieces, product, scale_of

__all__ = [
    "BITS",
    "left_product",
    "load_table",
    "map_scale",
    "over_columns",
    "over_rows",
    "right_product",
    "right_table",
]

BITS: tl.constexpr = tl.constexpr(INPUT_BITS)


@triton.jit
def load_table(at, low, PRODUCTS: tl.constexpr):
    """A block of a table and of its low pieces, ``low`` elements further on."""
    values = tl.load(at)
    if PRODUCTS == 3:
        return values, tl.load(at + low)
    return values, values


@triton.jit
def over_rows(values, HB: tl.constexpr, CB: tl.constexpr):
    """Per map [CB] -> per row of a tile [HB CB]."""
    return tl.reshape(tl.broadcast_to(values[None, :], [HB, CB]), [HB * CB])


@triton.jit
def over_columns(values, CB: tl.constexpr, BN: tl.constexpr):
    """Per map [CB] -> per column of a result [CB BN]."""
    return tl.reshape(tl.broadcast_to(values[:, None], [CB, BN]), [CB * BN])


@triton.jit
def map_scale(largest, HB: tl.constexpr, CB: tl.constexpr):
    """Scale per map [CB] from the largest sample of each row [HB CB]."""
    return scale_of(tl.max(tl.reshape(largest, [HB, CB]), axis=0), BITS)


@triton.jit
def right_table(right, low, pitch, n, k, PRODUCTS: tl.constexpr):
    """right[n, k]^T and its low pieces. Loaded before the loop over rows wherever the loop does not change k."""
    return load_table(right + n[None, :] * pitch + k[:, None], low, PRODUCTS)


@triton.jit
def right_product(samples, z, b, b_low, PRODUCTS: tl.constexpr):
    """z + samples times a right table."""
    a, a_low = pieces(samples, PRODUCTS)
    return product(a, a_low, b, b_low, z, PRODUCTS)


@triton.jit
def left_product(
    z, total, left, low, pitch, m, h, PRODUCTS: tl.constexpr, HB: tl.constexpr, CB: tl.constexpr, BN: tl.constexpr
):
    """total + left[m, h] z, z being [HB CB, BN]."""
    b, b_low = pieces(z, PRODUCTS)
    a, a_low = load_table(left + m[:, None] * pitch + h[None, :], low, PRODUCTS)
    if CB > 1:
        b, b_low = tl.reshape(b, [HB, CB * BN]), tl.reshape(b_low, [HB, CB * BN])
    return product(a, a_low, b, b_low, total, PRODUCTS)
