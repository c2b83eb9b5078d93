"""separable2d of maps of any size, tile by tile of the result."""

import triton
import triton.language as tl

from ._maps import first_sample, offsets
from ._products import over_columns
from ._tiles import accumulate

__all__ = ["tiled"]


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

    LAST: y is channels_last, where neighbouring maps are neighbours in memory.
    """
    width, out_width = width * ALIGN_X, out_width * ALIGN_Y
    block = tl.program_id(0).to(tl.int64) * CB
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    index = block
    if CB > 1:
        index = block + tl.arange(0, HB * CB) % CB
    x_map = first_sample(x, index, channels, x_image, x_channel, ALIGN_X)
    in_w = outer + left_pitch
    total, common = accumulate(
        tl.zeros([BM, CB * BN], tl.float32), tl.zeros([CB], tl.float32), x_map, index < maps, x_row, x_column,
        height, width, m, n, left, left_pitch, left_low, right, right_pitch, right_low, outer, in_w,
        factor_right * factor_left, TERMS, OUTER, PRODUCTS, WIDE, ALIGN_X, WHOLE, HB, WB, BM, BN, CB,
    )  # fmt: skip
    if LAST:
        total = tl.reshape(tl.permute(tl.reshape(total, [BM, CB, BN]), (0, 2, 1)), [BM, BN * CB])
        j = tl.arange(0, BN * CB)
        n, index = tl.program_id(1) * BN + j // CB, block + j % CB
    elif CB > 1:
        j = tl.arange(0, CB * BN)
        n, index = tl.program_id(1) * BN + j % BN, block + j // BN
    if OUTER:
        out_h = in_w + right_pitch
        out_w = out_h + left_low // left_pitch
        if LAST:
            per_column = tl.reshape(tl.broadcast_to(common[None, :], [BN, CB]), [BN * CB])
        else:
            per_column = over_columns(common, CB, BN)
        total += tl.load(out_h + m)[:, None] * (per_column * tl.load(out_w + n))[None, :]
    y_columns = first_sample(y, index, channels, y_image, y_channel, ALIGN_Y) + offsets(n, y_column, WIDE)
    mask = (m < out_height)[:, None] & ((n < out_width) & (index < maps))[None, :]
    place = offsets(m, y_row, WIDE)[:, None] * ALIGN_Y
    tl.store(y_columns[None, :] + place, total.to(y.dtype.element_ty), mask=mask)
