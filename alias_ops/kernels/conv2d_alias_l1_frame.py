"""The frame of identity 7: spectra of single rows and columns of x, their products with the weight, and the
strided output's bins with the frame's share of the layer's map taken off.
"""

import triton
import triton.language as tl

from .conv2d_alias_l1_moduli import modulus
from .conv2d_alias_l1_spectra import distance, product, quadrants, store_bins, table_product, tile_of

__all__ = ["less_frame", "line_products", "line_spectra", "output_bins"]


@triton.jit
def line_spectra(
    x, out, samples, table, image_stride, channel_stride, row_stride, column_stride, images, channels,
    height, width, rows, columns, kernel_h, kernel_w, frequencies_h, frequencies_w, taps, WIDE: tl.constexpr,
    C: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Spectra of the rows and columns of x that the frame meets, tap by tap: out [slot][image][re, im][tap][channel].

    samples [rows + columns]: where they lie. table: [2][kernel_w * frequencies_w][width] transforms rows, then
    [2][kernel_h * frequencies_h][height] columns. Slots: a row's frequencies, row by row, then the columns'.
    """
    blocks = tl.cdiv(tl.maximum(kernel_h * frequencies_h, kernel_w * frequencies_w), F)
    blocks_c = tl.cdiv(channels, C)
    pid = tl.program_id(0)
    block = pid % blocks
    pid = pid // blocks
    line = pid % (rows + columns)
    pid = pid // (rows + columns)
    c = pid % blocks_c * C + tl.arange(0, C)
    image = (pid // blocks_c).to(tl.int64)

    is_row = line < rows
    sample = tl.load(samples + line).to(tl.int64)
    base = x + image * image_stride + sample * tl.where(is_row, row_stride, column_stride)
    step = tl.where(is_row, column_stride, row_stride)
    length = tl.where(is_row, width, height)
    frequencies = tl.where(is_row, frequencies_w, frequencies_h)
    count = frequencies * tl.where(is_row, kernel_w, kernel_h)
    table += tl.where(is_row, 0, 2 * kernel_w * frequencies_w * width)
    first = tl.where(is_row, line * frequencies_w, rows * frequencies_w + (line - rows) * frequencies_h)

    r = block * F + tl.arange(0, F)
    inner = tl.arange(0, BLOCK)
    re = tl.zeros((F, C), tl.float32)
    im = tl.zeros((F, C), tl.float32)
    for start in range(0, length, BLOCK):
        n = start + inner
        maps = tl.load(
            base + (distance(n, step, WIDE)[:, None] + distance(c, channel_stride, WIDE)[None, :]),
            mask=(n < length)[:, None] & (c < channels)[None, :],
            other=0.0,
        )
        cell = r[:, None] * length + n[None, :]
        known = (r < count)[:, None] & (n < length)[None, :]
        cosine = tl.load(table + cell, mask=known, other=0.0)
        sine = tl.load(table + count * length + cell, mask=known, other=0.0)
        re = table_product(cosine, maps, re, PRECISION, INTERPRETED)
        im = table_product(sine, maps, im, PRECISION, INTERPRETED)
    out += image * 2 * taps * channels
    slot = (first + r % frequencies) * images * 2 * taps
    at = out + ((slot + r // frequencies) * channels)[:, None] + c[None, :]
    known = (r < count)[:, None] & (c < channels)[None, :]
    kind = out.dtype.element_ty
    tl.store(at, re.to(kind), mask=known)
    tl.store(at + taps * channels, im.to(kind), mask=known)


@triton.jit
def line_products(
    x, weight, out, sources, images, channels, outputs, inputs, group_outputs, row_slots, frequencies_h,
    frequencies_w, kernel_h, kernel_w, taps, BI: tl.constexpr, BO: tl.constexpr, K: tl.constexpr, GROUPED: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Spectra of the frame's lines: out [line's slot][image][re, im][output channel].

    x: what ``line_spectra`` left. weight: [kernel_h][kernel_w][inputs][outputs], then [kernel_w][kernel_h][inputs]
    [outputs]; inputs = channels / groups. sources [lines][taps]: which line of x a tap meets, or -1.
    """
    tiles_i = tl.cdiv(images, BI)
    tiles_o = tl.cdiv(group_outputs, BO)
    pid = tl.program_id(0)
    i = pid % tiles_i * BI + tl.arange(0, BI)
    pid = pid // tiles_i
    tile = pid % (outputs // group_outputs * tiles_o)
    slot = pid // (outputs // group_outputs * tiles_o)
    group = tile // tiles_o
    within = tile % tiles_o * BO + tl.arange(0, BO)
    o = group * group_outputs + within

    is_row = slot < row_slots
    frequencies = tl.where(is_row, frequencies_w, frequencies_h)
    beyond = tl.where(is_row, 0, row_slots)
    line = tl.where(is_row, 0, row_slots // frequencies_w) + (slot - beyond) // frequencies
    f = (slot - beyond) % frequencies
    own_taps = tl.where(is_row, kernel_h, kernel_w)
    length = tl.where(is_row, kernel_w, kernel_h) * inputs
    panels = weight + tl.cast(tl.where(is_row, 0, kernel_h * kernel_w), tl.int64) * inputs * outputs

    w_cell = tl.arange(0, K)[:, None] * outputs + o[None, :]
    re = tl.zeros((BI, BO), tl.float32)
    im = tl.zeros((BI, BO), tl.float32)
    for tap in range(own_taps):
        source = tl.load(sources + line * taps + tap)
        if source >= 0:
            lines = x + (source + f).to(tl.int64) * images * 2 * taps * channels
            panel = panels + tl.cast(tap, tl.int64) * length * outputs
            for start in range(0, length, K):
                k = start + tl.arange(0, K)
                at = k // inputs * channels + group * inputs + k % inputs if GROUPED else k
                cell = i[:, None] * 2 * taps * channels + at[None, :]
                known = (i < images)[:, None] & (k < length)[None, :]
                x_re = tl.load(lines + cell, mask=known, other=0.0)
                x_im = tl.load(lines + taps * channels + cell, mask=known, other=0.0)
                w = tl.load(
                    panel + tl.cast(start, tl.int64) * outputs + w_cell,
                    mask=(k < length)[:, None] & (within < group_outputs)[None, :],
                    other=0.0,
                )
                re = product(x_re, w, re, PRECISION, INTERPRETED)
                im = product(x_im, w, im, PRECISION, INTERPRETED)
    at = out + ((slot * images + i)[:, None] * 2 * outputs + o[None, :])
    known = (i < images)[:, None] & (within < group_outputs)[None, :]
    kind = out.dtype.element_ty
    tl.store(at, re.to(kind), mask=known)
    tl.store(at + outputs, im.to(kind), mask=known)


@triton.jit
def less_frame(
    plus_re, plus_im, minus_re, minus_im, lines, frame_h, frame_w, image, images, outputs, kept_h, kept_w, lines_h,
    lines_w, f_of, g, c, kept,
):  # fmt: skip
    """Tiles of the output's bins without the frame's share, from what ``line_products`` left."""
    step = images * 2 * outputs
    lines += image * 2 * outputs
    for line in range(lines_h):
        cell = line * kept_h + f_of
        c_re = tl.load(frame_h + cell, mask=f_of < kept_h, other=0.0)[:, None]
        c_im = tl.load(frame_h + lines_h * kept_h + cell, mask=f_of < kept_h, other=0.0)[:, None]
        slot = lines + (((line * kept_w + g) * step)[None, :] + c[:, None])
        r_re = tl.load(slot, mask=kept, other=0.0).to(tl.float32)
        r_im = tl.load(slot + outputs, mask=kept, other=0.0).to(tl.float32)
        plus_re -= c_re * r_re - c_im * r_im
        plus_im -= c_re * r_im + c_im * r_re
        minus_re -= c_re * r_re + c_im * r_im
        minus_im -= c_re * r_im - c_im * r_re
    lines += lines_h * kept_w * step
    for line in range(lines_w):
        cell = line * kept_w + g
        c_re = tl.load(frame_w + cell, mask=g < kept_w, other=0.0)[None, :]
        c_im = tl.load(frame_w + lines_w * kept_w + cell, mask=g < kept_w, other=0.0)[None, :]
        slot = lines + ((line * kept_h + f_of) * step + c)[:, None]
        there = ((c < outputs) & (f_of < kept_h))[:, None]
        r_re = tl.load(slot, mask=there, other=0.0).to(tl.float32)
        r_im = tl.load(slot + outputs, mask=there, other=0.0).to(tl.float32)
        plus_re -= c_re * r_re - c_im * r_im
        plus_im -= c_re * r_im + c_im * r_re
        minus_re -= c_re * r_re + c_im * r_im
        minus_im -= c_im * r_re - c_re * r_im
    return plus_re, plus_im, minus_re, minus_im


@triton.jit
def output_bins(
    y, bias, lines, out, partial, dft_h, dft_w, frame_h, frame_w, image_stride, channel_stride, row_stride,
    column_stride, images, outputs, N, M, kept_h, kept_w, lines_h, lines_w, BIAS: tl.constexpr, LAST: tl.constexpr,
    WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Bins of the strided output without its bias: kept ones less the frame to out [bin][image][re, im][output],
    the sum over the Nyquist ones to partial [block][image][output].
    """
    frequencies_h, frequencies_w = N // 2 + 1, M // 2 + 1
    image, channel, block, f, g, f_of, c = tile_of(tl.program_id(0), outputs, frequencies_h, frequencies_w, C, F, G)
    plus_re, plus_im, minus_re, minus_im = quadrants(
        y + image * image_stride, channel_stride, row_stride, column_stride, 0, N, 0, M, channel, outputs, dft_h,
        dft_w, frequencies_h, frequencies_w, N, M, f, g, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    own = (c < outputs)[:, None]
    known = own & (f_of < frequencies_h)[:, None] & (g < frequencies_w)[None, :]
    kept = known & (f_of < kept_h)[:, None] & (g < kept_w)[None, :]
    if BIAS:
        b = tl.load(bias + c, mask=c < outputs, other=0.0).to(tl.float32)
        b = tl.where((f_of == 0)[:, None] & (g == 0)[None, :], b[:, None], 0.0)
        plus_re -= b
        minus_re -= b

    # Every sign of f counts half where both name one bin, and DC and Nyquist rows are their own conjugates.
    weight_h = tl.where((f_of == 0) | (2 * f_of == N), 0.5, 1.0)
    weight_w = tl.where((g == 0) | (2 * g == M), 1.0, 2.0)
    size = modulus(plus_re, plus_im) + modulus(minus_re, minus_im)
    size = tl.where(known & (kept == 0), size * weight_h[:, None] * weight_w[None, :], 0.0)
    total = tl.sum(tl.reshape(tl.sum(size, 1), (F, C)), 0)
    channel_of = channel + tl.arange(0, C)
    tl.store(partial + (block * images + image) * outputs + channel_of, total, mask=channel_of < outputs)

    plus_re, plus_im, minus_re, minus_im = less_frame(
        plus_re, plus_im, minus_re, minus_im, lines, frame_h, frame_w, image, images, outputs, kept_h, kept_w,
        lines_h, lines_w, f_of, g, c, kept,
    )  # fmt: skip
    store_bins(
        out, image, images, outputs, c, f_of, g, 2 * kept_h - 1, 2 * kept_w - 1, kept, plus_re, plus_im, minus_re,
        minus_im,
    )  # fmt: skip
