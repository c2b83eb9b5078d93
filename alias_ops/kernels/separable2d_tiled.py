"""separable2d of maps of any size: blocks of rows come in, a tile of the result stays on chip until it is done."""

import triton
import triton.language as tl

from ._arithmetic import inverse_scale
from ._maps import first_sample, offsets
from ._products import left_product, map_scale, over_columns, over_rows, right_product, right_table

__all__ = ["tiled"]


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


@triton.jit(do_not_specialize=["maps"])
def tiled(
    x, y, left, right, outer, maps, channels,
    x_image, x_channel, x_row, x_column, y_image, y_channel, y_row, y_column,
    height, width, out_height, out_width, left_pitch, left_low, right_pitch, right_low, factor_left, factor_right,
    TERMS: tl.constexpr, OUTER: tl.constexpr, PRODUCTS: tl.constexpr, WIDE: tl.constexpr, LAST: tl.constexpr,
    ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr, WHOLE: tl.constexpr,
    HB: tl.constexpr, WB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Programs: blocks of CB maps, tiles of BN columns, tiles of BM rows of the result.

    WHOLE: WB covers the width, so that a block of rows is read once; otherwise twice, for its largest sample first.
    LAST: y is channels_last, where neighbouring maps are neighbours in memory.
    """
    width, out_width = width * ALIGN_X, out_width * ALIGN_Y
    block = tl.program_id(0).to(tl.int64) * CB
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    r = tl.arange(0, HB * CB)
    row, index = r // CB, block + r % CB
    if CB == 1:
        index = block
    x_map = first_sample(x, index, channels, x_image, x_channel, ALIGN_X)
    w = tl.arange(0, WB)
    in_h, in_w = outer, outer + left_pitch
    if WHOLE:
        b, b_low, b_2, b_2_low, to_sum = _tables(right, right_low, right_pitch, n, w, in_w, TERMS, OUTER, PRODUCTS)
    total = tl.zeros([BM, CB * BN], tl.float32)
    common = tl.zeros([CB], tl.float32)
    for h in range(0, height, HB):
        x_rows = x_map + offsets(h + row, x_row, WIDE) * ALIGN_X
        live = (h + row < height) & (index < maps)
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
        total += part * over_columns(inverse * factor_right * factor_left, CB, BN)[None, :]
        if OUTER:
            weights = tl.load(in_h + rows_of_left)
            common += tl.sum(tl.reshape(row_sums, [HB, CB]) * weights[:, None], axis=0) * inverse
    if LAST:
        total = tl.reshape(tl.permute(tl.reshape(total, [BM, CB, BN]), (0, 2, 1)), [BM, BN * CB])
        j = tl.arange(0, BN * CB)
        n, index = tl.program_id(1) * BN + j // CB, block + j % CB
    elif CB > 1:
        j = tl.arange(0, CB * BN)
        n, index = tl.program_id(1) * BN + j % BN, block + j // BN
    if OUTER:
        out_h, out_w = in_w + right_pitch, in_w + right_pitch + left_low // left_pitch
        if LAST:
            per_column = tl.reshape(tl.broadcast_to(common[None, :], [BN, CB]), [BN * CB])
        else:
            per_column = over_columns(common, CB, BN)
        total += tl.load(out_h + m)[:, None] * (per_column * tl.load(out_w + n))[None, :]
    y_columns = first_sample(y, index, channels, y_image, y_channel, ALIGN_Y) + offsets(n, y_column, WIDE)
    mask = (m < out_height)[:, None] & ((n < out_width) & (index < maps))[None, :]
    tl.store(y_columns[None, :] + offsets(m, y_row, WIDE)[:, None] * ALIGN_Y, total.to(y.dtype.element_ty), mask=mask)
