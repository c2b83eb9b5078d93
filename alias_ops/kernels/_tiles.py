"""A tile of left x right^T, for CB maps at a time: blocks of rows of x come in, the tile stays on chip till done."""

import triton
import triton.language as tl

from ._arithmetic import inverse_scale
from ._maps import offsets
from ._products import left_product, map_scale, over_columns, over_rows, right_product, right_table

__all__ = ["accumulate"]


@triton.jit
def _rows(x_rows, live, w, width, x_column, WIDE: tl.constexpr):
    """float32 [rows, columns w] from pointers to the rows' first samples, 0 outside."""
    mask = live[:, None] & (w < width)[None, :]
    return tl.load(x_rows[:, None] + offsets(w, x_column, WIDE)[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _step(
    samples, z, z_2, row_sums, b, b_low, b_2, b_2_low, to_sum,
    TERMS: tl.constexpr, OUTER: tl.constexpr, PRODUCTS: tl.constexpr,
):  # fmt: skip
    """What a block of samples adds to the first products of both terms, and to the rank-1 term's row sums."""
    z = right_product(samples, z, b, b_low, PRODUCTS)
    if TERMS == 2:
        z_2 = right_product(samples, z_2, b_2, b_2_low, PRODUCTS)
    if OUTER:
        row_sums += tl.sum(samples * to_sum[None, :], axis=1)
    return z, z_2, row_sums


@triton.jit
def _tables(
    right, low, pitch, n, w, in_w, TERMS: tl.constexpr, OUTER: tl.constexpr, PRODUCTS: tl.constexpr
):  # fmt: skip
    """What _step multiplies columns w with."""
    b, b_low = right_table(right, low, pitch, n, w, PRODUCTS)
    b_2, b_2_low, to_sum = b, b_low, w
    if TERMS == 2:
        b_2, b_2_low = right_table(right + 2 * low, low, pitch, n, w, PRODUCTS)
    if OUTER:
        to_sum = tl.load(in_w + w)
    return b, b_low, b_2, b_2_low, to_sum


@triton.jit
def accumulate(
    total, common, x_map, live_maps, x_row, x_column, height, width, m, n,
    left, left_pitch, left_low, right, right_pitch, right_low, in_h, in_w, factor,
    TERMS: tl.constexpr, OUTER: tl.constexpr, PRODUCTS: tl.constexpr, WIDE: tl.constexpr, ALIGN_X: tl.constexpr,
    WHOLE: tl.constexpr, HB: tl.constexpr, WB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """total [BM, CB BN] + factor * rows m of left x right^T, columns n; and in_h^T x in_w per map, added to common.

    Args:
        x_map: pointers to the maps of the tile's rows, (row, map) [HB CB]; one pointer where CB is 1.
        x_row: in units of ALIGN_X samples.
        WHOLE: WB covers the width, so that a block of rows is read once; otherwise twice, for its largest sample
            first.
    """
    row = tl.arange(0, HB * CB) // CB
    w = tl.arange(0, WB)
    if WHOLE:
        b, b_low, b_2, b_2_low, to_sum = _tables(right, right_low, right_pitch, n, w, in_w, TERMS, OUTER, PRODUCTS)
    for h in range(0, height, HB):
        x_rows = x_map + offsets(h + row, x_row, WIDE) * ALIGN_X
        live = (h + row < height) & live_maps
        if WHOLE:
            samples = _rows(x_rows, live, w, width, x_column, WIDE)
            largest = tl.max(tl.abs(samples), axis=1)
        else:
            largest = tl.zeros([HB * CB], tl.float32)
            for first in range(0, width, WB):
                block_of_x = _rows(x_rows, live, first + w, width, x_column, WIDE)
                largest = tl.maximum(largest, tl.max(tl.abs(block_of_x), axis=1))
        scale = map_scale(largest, HB, CB)
        inverse = inverse_scale(scale)
        to_rows = over_rows(scale, HB, CB)[:, None]
        z = tl.zeros([HB * CB, BN], tl.float32)
        z_2 = z
        row_sums = tl.zeros([HB * CB], tl.float32)
        if WHOLE:
            z, z_2, row_sums = _step(
                samples * to_rows, z, z_2, row_sums, b, b_low, b_2, b_2_low, to_sum, TERMS, OUTER, PRODUCTS
            )
        else:
            for first in range(0, width, WB):
                block_of_x = _rows(x_rows, live, first + w, width, x_column, WIDE) * to_rows
                b, b_low, b_2, b_2_low, to_sum = _tables(
                    right, right_low, right_pitch, n, first + w, in_w, TERMS, OUTER, PRODUCTS
                )
                z, z_2, row_sums = _step(
                    block_of_x, z, z_2, row_sums, b, b_low, b_2, b_2_low, to_sum, TERMS, OUTER, PRODUCTS
                )
        rows_of_left = h + tl.arange(0, HB)
        part = tl.zeros([BM, CB * BN], tl.float32)
        part = left_product(z, part, left, left_low, left_pitch, m, rows_of_left, PRODUCTS, HB, CB, BN)
        if TERMS == 2:
            second = left + 2 * left_low
            part = left_product(z_2, part, second, left_low, left_pitch, m, rows_of_left, PRODUCTS, HB, CB, BN)
        total += part * over_columns(inverse * factor, CB, BN)[None, :]
        if OUTER:
            weights = tl.load(in_h + rows_of_left)
            common += tl.sum(tl.reshape(row_sums, [HB, CB]) * weights[:, None], axis=0) * inverse
    return total, common
