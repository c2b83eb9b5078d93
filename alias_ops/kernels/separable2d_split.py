"""separable2d of large maps whose axes are split: a map is taken as its four quarters.

With both factors [[P, Q], [Q, P]], S = (P + Q) / 2 and D = (P - Q) / 2, sums and differences of the quarters make
four maps of half the size, which S and D take to four results; sums and differences of these are the quarters of
the result. That is half of the multiplications, and tables of half the size.
"""

import triton
import triton.language as tl

from ._arithmetic import inverse_scale
from ._maps import first_sample, offsets
from ._products import left_product, map_scale, right_product

__all__ = ["split"]


@triton.jit
def _quarter(x, rows, columns, mask):
    return tl.load(x + (rows[:, None] + columns[None, :]), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _add(
    total, quarter, left, right, left_low, left_pitch, right_low, right_pitch, m, n, h, w, factor,
    PRODUCTS: tl.constexpr, HB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """total + left quarter right^T of a block of rows."""
    z = right_product(quarter, tl.zeros([HB, BN], tl.float32), right, right_low, right_pitch, n, w, PRODUCTS)
    part = tl.zeros([BM, BN], tl.float32)
    return total + factor * left_product(z, part, left, left_low, left_pitch, m, h, PRODUCTS, HB, 1, BN)


@triton.jit(do_not_specialize=["maps"])
def split(
    x, y, left, right, outer, maps, channels,
    x_image, x_channel, x_row, x_column, y_image, y_channel, y_row, y_column,
    height, width, out_height, out_width, left_pitch, left_low, right_pitch, right_low, factor_left, factor_right,
    OUTER: tl.constexpr, PRODUCTS: tl.constexpr, WIDE: tl.constexpr, ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr,
    HB: tl.constexpr, WB: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Programs: maps, tiles of BN columns and of BM rows of a quarter of the result. Sizes are those of quarters.

    The tables hold S, then D; ``outer`` the vectors of a rank-1 term, half by half, each padded as the tables are.
    """
    x_image, x_channel = tl.multiple_of(x_image, ALIGN_X), tl.multiple_of(x_channel, ALIGN_X)
    y_image, y_channel = tl.multiple_of(y_image, ALIGN_Y), tl.multiple_of(y_channel, ALIGN_Y)
    x_row, y_row = tl.multiple_of(x_row, ALIGN_X), tl.multiple_of(y_row, ALIGN_Y)
    width, out_width = tl.multiple_of(width, ALIGN_X), tl.multiple_of(out_width, ALIGN_Y)
    index = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    w = tl.arange(0, WB)
    x_map = first_sample(x, index, channels, x_image, x_channel)
    columns_l, columns_r = offsets(w, x_column, WIDE), offsets(width + w, x_column, WIDE)
    left_d, right_d = left + 2 * left_low, right + 2 * right_low
    in_h, in_w = outer, outer + 2 * left_pitch
    factor = factor_right * factor_left
    ss = tl.zeros([BM, BN], tl.float32)
    sd, ds, dd = ss, ss, ss
    common = tl.zeros([1], tl.float32)
    for first in range(0, height, HB):
        h = first + tl.arange(0, HB)
        rows_t, rows_b = offsets(h, x_row, WIDE), offsets(height + h, x_row, WIDE)
        mask = (h < height)[:, None] & (w < width)[None, :]
        tl_, tr = _quarter(x_map, rows_t, columns_l, mask), _quarter(x_map, rows_t, columns_r, mask)
        bl, br = _quarter(x_map, rows_b, columns_l, mask), _quarter(x_map, rows_b, columns_r, mask)
        largest = tl.maximum(tl.maximum(tl.abs(tl_), tl.abs(tr)), tl.maximum(tl.abs(bl), tl.abs(br)))
        scale = map_scale(tl.max(largest, axis=1), HB, 1)[:, None]
        inverse = inverse_scale(scale)
        tl_, tr, bl, br = tl_ * scale, tr * scale, bl * scale, br * scale
        if OUTER:
            to_l, to_r = tl.load(in_w + w)[None, :], tl.load(in_w + right_pitch + w)[None, :]
            top, bottom = tl.sum(tl_ * to_l + tr * to_r, axis=1), tl.sum(bl * to_l + br * to_r, axis=1)
            whole = tl.sum(top * tl.load(in_h + h) + bottom * tl.load(in_h + left_pitch + h), axis=0)
            common += whole * tl.reshape(inverse, [1])
        unit = inverse * factor
        l_sum, r_sum, l_difference, r_difference = tl_ + bl, tr + br, tl_ - bl, tr - br
        ss = _add(
            ss, l_sum + r_sum, left, right, left_low, left_pitch, right_low, right_pitch, m, n, h, w, unit,
            PRODUCTS, HB, BM, BN,
        )  # fmt: skip
        sd = _add(
            sd, l_sum - r_sum, left, right_d, left_low, left_pitch, right_low, right_pitch, m, n, h, w, unit,
            PRODUCTS, HB, BM, BN,
        )  # fmt: skip
        ds = _add(
            ds, l_difference + r_difference, left_d, right, left_low, left_pitch, right_low, right_pitch,
            m, n, h, w, unit, PRODUCTS, HB, BM, BN,
        )  # fmt: skip
        dd = _add(
            dd, l_difference - r_difference, left_d, right_d, left_low, left_pitch, right_low, right_pitch,
            m, n, h, w, unit, PRODUCTS, HB, BM, BN,
        )  # fmt: skip
    tops, top_differences, bottoms, bottom_differences = ss + ds, sd + dd, ss - ds, sd - dd
    tl_, tr = tops + top_differences, tops - top_differences
    bl, br = bottoms + bottom_differences, bottoms - bottom_differences
    if OUTER:
        left_rows, right_rows = left_low // left_pitch, right_low // right_pitch
        out_h, out_w = in_w + 2 * right_pitch, in_w + 2 * right_pitch + 2 * left_rows
        out_t, out_b = tl.load(out_h + m)[:, None], tl.load(out_h + left_rows + m)[:, None]
        out_l = (tl.load(out_w + n) * common)[None, :]
        out_r = (tl.load(out_w + right_rows + n) * common)[None, :]
        tl_, tr, bl, br = tl_ + out_t * out_l, tr + out_t * out_r, bl + out_b * out_l, br + out_b * out_r
    y_map = first_sample(y, index, channels, y_image, y_channel)
    mask = (m < out_height)[:, None] & (n < out_width)[None, :]
    rows_t, rows_b = offsets(m, y_row, WIDE)[:, None], offsets(out_height + m, y_row, WIDE)[:, None]
    columns_l, columns_r = offsets(n, y_column, WIDE)[None, :], offsets(out_width + n, y_column, WIDE)[None, :]
    tl.store(y_map + (rows_t + columns_l), tl_.to(y.dtype.element_ty), mask=mask)
    tl.store(y_map + (rows_t + columns_r), tr.to(y.dtype.element_ty), mask=mask)
    tl.store(y_map + (rows_b + columns_l), bl.to(y.dtype.element_ty), mask=mask)
    tl.store(y_map + (rows_b + columns_r), br.to(y.dtype.element_ty), mask=mask)
