"""separable2d of maps of up to 16 x 16: one product of many maps, a row each, with the Kronecker matrix."""

import triton
import triton.language as tl

from ._arithmetic import INPUT_BITS, inverse_scale, pieces, product, scale_of
from ._maps import first_sample, offsets

__all__ = ["BITS", "map_rows", "small"]

BITS: tl.constexpr = tl.constexpr(INPUT_BITS)


@triton.jit
def map_rows(x, row, column_stride, width, inputs, position, live, WIDE: tl.constexpr, FLAT: tl.constexpr):
    """float32 [maps, positions]: the samples ``position`` of the maps that start at x [maps], 0 outside."""
    if FLAT:
        place = offsets(position, column_stride, WIDE)
    else:
        place = offsets(position // width, row, WIDE) + offsets(position % width, column_stride, WIDE)
    mask = live[:, None] & (position < inputs)[None, :]
    return tl.load(x[:, None] + place[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["maps"])
def small(
    x, y, table, maps, channels,
    x_image, x_channel, x_row, x_column, y_image, y_channel, y_row, y_column,
    width, inputs, out_width, outputs, pitch, table_low, factor,
    PRODUCTS: tl.constexpr, WIDE: tl.constexpr, FLAT_X: tl.constexpr, FLAT_Y: tl.constexpr,
    ALIGN_X: tl.constexpr, ALIGN_Y: tl.constexpr, BR: tl.constexpr, BK: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    inputs, outputs = inputs * ALIGN_X, outputs * ALIGN_Y
    index = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    live = index < maps
    x_map = first_sample(x, index, channels, x_image, x_channel, ALIGN_X)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    total = tl.zeros([BR, BO], tl.float32)
    for k in range(0, inputs, BK):
        position = k + tl.arange(0, BK)
        samples = map_rows(x_map, x_row, x_column, width, inputs, position, live, WIDE, FLAT_X)
        # A row is a map, and what one map holds must not touch another's result.
        scale = scale_of(tl.max(tl.abs(samples), axis=1), BITS)
        a, a_low = pieces(samples * scale[:, None], PRODUCTS)
        at = table + o[None, :] * pitch + position[:, None]
        b = tl.load(at)
        b_low = b
        if PRODUCTS == 3:
            b_low = tl.load(at + table_low)
        part = product(a, a_low, b, b_low, tl.zeros([BR, BO], tl.float32), PRODUCTS)
        total += part * (inverse_scale(scale) * factor)[:, None]
    y_map = first_sample(y, index, channels, y_image, y_channel, ALIGN_Y)
    # Only flat maps come in units of more than one sample.
    if FLAT_Y:
        place = offsets(o, y_column, WIDE)
    else:
        place = offsets(o // out_width, y_row, WIDE) + offsets(o % out_width, y_column, WIDE)
    mask = live[:, None] & (o < outputs)[None, :]
    tl.store(y_map[:, None] + place[None, :], total.to(y.dtype.element_ty), mask=mask)
