"""The frame of identity 7: spectra of single rows and columns of x, their products with the weight, and the
strided output's bins with the frame's share of the layer's map taken off.
"""

import triton
import triton.language as tl

from .conv2d_alias_l1_moduli import half_plane_weight, modulus
from .conv2d_alias_l1_spectra import (
    bin_places,
    channel_tile,
    distance,
    product,
    spectra_of_tile,
    store_bins,
    table_product,
)

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
    i, group, first, last, slot = channel_tile(tl.program_id(0), images, outputs, group_outputs, BI, BO)
    o = first + tl.arange(0, BO)

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
                    mask=(k < length)[:, None] & (o < last)[None, :],
                    other=0.0,
                )
                re = product(x_re, w, re, PRECISION, INTERPRETED)
                im = product(x_im, w, im, PRECISION, INTERPRETED)
    at = out + ((slot * images + i)[:, None] * 2 * outputs + o[None, :])
    known = (i < images)[:, None] & (o < last)[None, :]
    kind = out.dtype.element_ty
    tl.store(at, re.to(kind), mask=known)
    tl.store(at + outputs, im.to(kind), mask=known)


@triton.jit
def less_lines(
    plus_re, plus_im, minus_re, minus_im, lines, frame, count, along, own, across, other, c, step, outputs, there,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The share of one axis' lines: coefficients frame [re, im][count][own] at frequencies ``along``, spectra lines
    [count][other][image][re, im][output] at frequencies ``across``.
    """
    for line in range(count):
        cell = line * own + along
        c_re = tl.load(frame + cell, mask=along < own, other=0.0)
        c_im = tl.load(frame + count * own + cell, mask=along < own, other=0.0)
        slot = lines + ((line * other + across) * step + c)
        r_re = tl.load(slot, mask=there, other=0.0).to(tl.float32)
        r_im = tl.load(slot + outputs, mask=there, other=0.0).to(tl.float32)
        plus_re -= c_re * r_re - c_im * r_im
        plus_im -= c_re * r_im + c_im * r_re
        # A row's coefficient at -f is the conjugate one, and so is a column's spectrum.
        minus_re -= c_re * r_re + c_im * r_im
        turned = c_re * r_im - c_im * r_re
        minus_im -= turned if ROWS else -turned
    return plus_re, plus_im, minus_re, minus_im


@triton.jit
def less_frame(
    plus_re, plus_im, minus_re, minus_im, lines, frame_h, frame_w, image, images, outputs, kept_h, kept_w, lines_h,
    lines_w, f_of, g, c, kept,
):  # fmt: skip
    """Tiles of the output's bins without the frame's share, from what ``line_products`` left."""
    step = images * 2 * outputs
    lines += image * 2 * outputs
    f, g, c = f_of[:, None], g[None, :], c[:, None]
    plus_re, plus_im, minus_re, minus_im = less_lines(
        plus_re, plus_im, minus_re, minus_im, lines, frame_h, lines_h, f, kept_h, g, kept_w, c, step, outputs, kept,
        True,
    )  # fmt: skip
    return less_lines(
        plus_re, plus_im, minus_re, minus_im, lines + lines_h * kept_w * step, frame_w, lines_w, g, kept_w, f, kept_h,
        c, step, outputs, (c < outputs) & (f < kept_h), False,
    )  # fmt: skip


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
    image, channel, block, f_of, g, c, known, plus_re, plus_im, minus_re, minus_im = spectra_of_tile(
        y, image_stride, channel_stride, row_stride, column_stride, outputs, N, M, dft_h, dft_w, N // 2 + 1,
        M // 2 + 1, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    kept = known & (f_of < kept_h)[:, None] & (g < kept_w)[None, :]
    if BIAS:
        b = tl.load(bias + c, mask=c < outputs, other=0.0).to(tl.float32)
        b = tl.where((f_of == 0)[:, None] & (g == 0)[None, :], b[:, None], 0.0)
        plus_re -= b
        minus_re -= b

    _, _, other = bin_places(f_of[:, None], g[None, :], N, M)
    size = modulus(plus_re, plus_im) + tl.where(other, modulus(minus_re, minus_im), 0.0)
    size = tl.where(known & (kept == 0), size * half_plane_weight(f_of[:, None], g[None, :], N, M), 0.0)
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
