"""separable2d of large maps whose rows are split: a map is taken as its left and its right half.

With the right factor [[P, Q], [Q, P]], S = (P + Q) / 2 and D = (P - Q) / 2, the sum of the halves goes through S and
their difference through D; sum and difference of what comes out are the halves of the result. That is half of the
first product's multiplications, and a table of half the size. Of the second product it would be half, too; but a
matrix unit takes 64 rows at a time, and half of a factor has fewer.
"""

import triton
import triton.language as tl

from ._arithmetic import inverse_scale
from ._maps import first_sample, offsets
from ._products import left_product, map_scale, right_product, right_table

__all__ = ["split"]


@triton.jit
def _half(x, rows, columns, mask):
    return tl.load(x + (rows[:, None] + columns[None, :]), mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["maps"])
def split(
    x, y, left, right, outer, maps, channels,
    x_image, x_channel, x_row, x_column, y_image, y_channel, y_row, y_column,
    height, width, out_height, out_width, left_pitch, left_low, right_pitch, right_low, factor_left, factor_right,
    OUTER: tl.constexpr, PRODUCTS: tl.constexpr, WIDE: tl.constexpr, ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr,
    HB: tl.constexpr, WB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Programs: maps, tiles of BN columns and of BM rows of a half of the result. Widths are those of halves.

    The right table holds S, then D; ``outer`` the vectors of a rank-1 term, those along the width half by half.
    """
    width, out_width = width * ALIGN_X, out_width * ALIGN_Y
    index = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    w = tl.arange(0, WB)
    x_map = first_sample(x, index, channels, x_image, x_channel, ALIGN_X)
    columns_l, columns_r = offsets(w, x_column, WIDE), offsets(width + w, x_column, WIDE)
    in_h, in_w = outer, outer + left_pitch
    if OUTER:
        to_l, to_r = tl.load(in_w + w)[None, :], tl.load(in_w + right_pitch + w)[None, :]
    KEPT: tl.constexpr = WB * BN <= 2048  # larger tables are too much for the registers
    if KEPT:
        s, s_low = right_table(right, right_low, right_pitch, n, w, PRODUCTS)
        d, d_low = right_table(right + 2 * right_low, right_low, right_pitch, n, w, PRODUCTS)
    sums = tl.zeros([BM, BN], tl.float32)
    differences = sums
    common = tl.zeros([1], tl.float32)
    for first in range(0, height, HB):
        h = first + tl.arange(0, HB)
        rows = offsets(h, x_row, WIDE) * ALIGN_X
        mask = (h < height)[:, None] & (w < width)[None, :]
        l_, r_ = _half(x_map, rows, columns_l, mask), _half(x_map, rows, columns_r, mask)
        scale = map_scale(tl.max(tl.maximum(tl.abs(l_), tl.abs(r_)), axis=1), HB, 1)[:, None]
        inverse = inverse_scale(scale)
        l_, r_ = l_ * scale, r_ * scale
        if OUTER:
            whole = tl.sum(tl.sum(l_ * to_l + r_ * to_r, axis=1) * tl.load(in_h + h), axis=0)
            common += whole * tl.reshape(inverse, [1])
        unit = inverse * factor_right * factor_left
        zero = tl.zeros([HB, BN], tl.float32)
        if not KEPT:
            s, s_low = right_table(right, right_low, right_pitch, n, w, PRODUCTS)
            d, d_low = right_table(right + 2 * right_low, right_low, right_pitch, n, w, PRODUCTS)
        z_s = right_product(l_ + r_, zero, s, s_low, PRODUCTS)
        z_d = right_product(l_ - r_, zero, d, d_low, PRODUCTS)
        zero = tl.zeros([BM, BN], tl.float32)
        sums += unit * left_product(z_s, zero, left, left_low, left_pitch, m, h, PRODUCTS, HB, 1, BN)
        differences += unit * left_product(z_d, zero, left, left_low, left_pitch, m, h, PRODUCTS, HB, 1, BN)
    l_, r_ = sums + differences, sums - differences
    if OUTER:
        out_h = in_w + 2 * right_pitch
        out_w = out_h + left_low // left_pitch
        to_rows = tl.load(out_h + m)[:, None]
        l_ += to_rows * (tl.load(out_w + n) * common)[None, :]
        r_ += to_rows * (tl.load(out_w + right_low // right_pitch + n) * common)[None, :]
    y_map = first_sample(y, index, channels, y_image, y_channel, ALIGN_Y)
    rows = offsets(m, y_row, WIDE)[:, None] * ALIGN_Y
    mask = (m < out_height)[:, None] & (n < out_width)[None, :]
    columns_l, columns_r = offsets(n, y_column, WIDE)[None, :], offsets(out_width + n, y_column, WIDE)[None, :]
    tl.store(y_map + (rows + columns_l), l_.to(y.dtype.element_ty), mask=mask)
    tl.store(y_map + (rows + columns_r), r_.to(y.dtype.element_ty), mask=mask)
