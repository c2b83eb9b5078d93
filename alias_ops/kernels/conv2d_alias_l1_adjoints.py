"""Adjoints of what conv2d_alias_l1 does to maps, lines and weights: the way back from gradients of bins."""

import triton
import triton.language as tl

from .conv2d_alias_l1_signs import nyquist_place
from .conv2d_alias_l1_spectra import bin_places, distance, product

__all__ = ["frame_adjoint", "lines_adjoint", "maps_adjoint", "weight_adjoint"]


@triton.jit
def by_map(rows, LAST: tl.constexpr, C: tl.constexpr, F: tl.constexpr, W: tl.constexpr):
    """[F * C, W] -> [F, C * W], or [F, W * C] where channels come LAST."""
    if LAST:
        rows = tl.permute(tl.reshape(rows, (F, C, W)), (0, 2, 1))
    return tl.reshape(rows, (F, C * W))


@triton.jit
def maps_adjoint(
    bins, whole, out, table_h, table_w, whole_image, whole_channel, whole_row, whole_column, image_stride,
    channel_stride, row_stride, column_stride, images, channels, height, width, frequencies_h, frequencies_w, kept_h,
    kept_w, list_h, list_w, kept_bins, N, M, step, image_step, imaginary, PAIRS: tl.constexpr, LESS: tl.constexpr,
    LAST: tl.constexpr, WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Adjoint of ``quadrants``: from bins to maps out [image][channel][height][width], or LESS, whole - that.

    bins: bin b of an image lies at b * step + image * image_step, channel c of it at c with its imaginary part
    ``imaginary`` further on, or as PAIRS. Of frequencies_h x frequencies_w, those below kept_h and kept_w are
    listed as bins of list_h x list_w, ``kept_bins`` of them, the Nyquist bins of N x M after them. table_h
    [2][frequencies_h][height] and table_w alike.
    """
    blocks_w, blocks_h, blocks_c = tl.cdiv(width, W), tl.cdiv(height, H), tl.cdiv(channels, C)
    pid = tl.program_id(0)
    block = pid % (blocks_h * blocks_w)
    pid = pid // (blocks_h * blocks_w)
    channel = pid % blocks_c * C
    image = (pid // blocks_c).to(tl.int64)
    h = block // blocks_w * H + tl.arange(0, H)
    column = block % blocks_w * W
    columns = column + tl.arange(0, W)
    bins += image * image_step
    rows = tl.arange(0, F * C)
    c = channel + rows % C
    place_c = 2 * c if PAIRS else c

    total = tl.zeros((H, C * W), tl.float32)
    for first_f in range(0, frequencies_h, F):
        f = (first_f + rows // C)[:, None]
        re = tl.zeros((F * C, W), tl.float32)
        im = tl.zeros((F * C, W), tl.float32)
        for first_g in range(0, frequencies_w, G):
            g = first_g + tl.arange(0, G)
            known = (f < frequencies_h) & (c < channels)[:, None] & (g < frequencies_w)[None, :]
            plus, minus, other = bin_places(f, g[None, :], list_h, list_w)
            kept = (f < kept_h) & (g < kept_w)[None, :]
            plus = tl.where(kept, plus, kept_bins + nyquist_place(f, g[None, :], N, M))
            at = bins + (plus * step + place_c[:, None])
            plus_re = tl.load(at, mask=known, other=0.0)
            plus_im = tl.load(at + imaginary, mask=known, other=0.0)
            at = bins + (minus * step + place_c[:, None])
            minus_re = tl.load(at, mask=known & kept & other, other=0.0)
            minus_im = tl.load(at + imaginary, mask=known & kept & other, other=0.0)
            cell = g[:, None] * width + columns[None, :]
            there = (g < frequencies_w)[:, None] & (columns < width)[None, :]
            cosine = tl.load(table_w + cell, mask=there, other=0.0)
            sine = tl.load(table_w + frequencies_w * width + cell, mask=there, other=0.0)
            re = product(plus_re + minus_re, cosine, re, PRECISION, INTERPRETED)
            re = product(plus_im + minus_im, sine, re, PRECISION, INTERPRETED)
            im = product(plus_im - minus_im, cosine, im, PRECISION, INTERPRETED)
            im = product(minus_re - plus_re, sine, im, PRECISION, INTERPRETED)
        along = first_f + tl.arange(0, F)
        cell = along[None, :] * height + h[:, None]
        there = (along < frequencies_h)[None, :] & (h < height)[:, None]
        cosine = tl.load(table_h + cell, mask=there, other=0.0)
        sine = tl.load(table_h + frequencies_h * height + cell, mask=there, other=0.0)
        total = product(cosine, by_map(re, LAST, C, F, W), total, PRECISION, INTERPRETED)
        total = product(sine, by_map(im, LAST, C, F, W), total, PRECISION, INTERPRETED)

    across = tl.arange(0, C * W)
    if LAST:
        c, w = channel + across % C, column + across // C
    else:
        c, w = channel + across // W, column + across % W
    inside = (h < height)[:, None] & ((c < channels) & (w < width))[None, :]
    if LESS:
        at = distance(c, whole_channel, WIDE) + distance(w, whole_column, WIDE)
        at = distance(h, whole_row, WIDE)[:, None] + at[None, :]
        total = tl.load(whole + image * whole_image + at, mask=inside, other=0.0) - total
    at = distance(c, channel_stride, WIDE) + distance(w, column_stride, WIDE)
    at = distance(h, row_stride, WIDE)[:, None] + at[None, :]
    tl.store(out + image * image_stride + at, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def frame_adjoint(
    signs, out, frame_h, frame_w, images, outputs, kept_h, kept_w, lines_h, lines_w, LINES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adjoint of ``less_frame``, without its minus: from pairs of kept bins to out [slot][image][re, im][output].

    A program sums over the bins that have one frequency along the lines, for LINES lines and BLOCK channels.
    """
    blocks = tl.cdiv(images * outputs, BLOCK)
    pid = tl.program_id(0)
    place = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    pid = pid // blocks
    own = pid % (kept_h + kept_w)
    lines = pid // (kept_h + kept_w) * LINES + tl.arange(0, LINES)
    is_row = own < kept_w
    own = tl.where(is_row, own, own - kept_w)
    count = tl.where(is_row, kept_h, kept_w)
    there = lines < tl.where(is_row, lines_h, lines_w)
    real = place < images * outputs
    image, o = place // outputs, place % outputs
    step = images * 4 * outputs
    signs += image * 4 * outputs + 2 * o
    # Of a column, the bin of -f is met by the line's conjugate.
    turn = tl.where(is_row, 1.0, -1.0)

    re = tl.zeros((LINES, BLOCK), tl.float32)
    im = tl.zeros((LINES, BLOCK), tl.float32)
    for n in range(count):
        f, g = tl.where(is_row, n, own), tl.where(is_row, own, n)
        plus, minus, other = bin_places(f, g, 2 * kept_h - 1, 2 * kept_w - 1)
        plus_re = tl.load(signs + plus * step, mask=real, other=0.0)
        plus_im = tl.load(signs + plus * step + 1, mask=real, other=0.0)
        minus_re = tl.load(signs + minus * step, mask=real & other, other=0.0)
        minus_im = tl.load(signs + minus * step + 1, mask=real & other, other=0.0) * turn
        cell = lines * count + n
        c_re = tl.load(frame_h + cell, mask=there & is_row, other=0.0)
        c_re += tl.load(frame_w + cell, mask=there & (is_row == 0), other=0.0)
        c_im = tl.load(frame_h + lines_h * kept_h + cell, mask=there & is_row, other=0.0)
        c_im += tl.load(frame_w + lines_w * kept_w + cell, mask=there & (is_row == 0), other=0.0)
        c_re, c_im = c_re[:, None], c_im[:, None]
        re += c_re * (plus_re + minus_re)[None, :] + c_im * (plus_im - minus_im)[None, :]
        im += c_re * (plus_im + minus_im)[None, :] - c_im * (plus_re - minus_re)[None, :]
    slot = tl.where(is_row, lines * kept_w, lines_h * kept_w + lines * kept_h) + own
    at = out + ((slot * images * 2 * outputs)[:, None] + (image * 2 * outputs + o)[None, :])
    known = there[:, None] & real[None, :]
    tl.store(at, re, mask=known)
    tl.store(at + outputs, im, mask=known)


@triton.jit
def lines_adjoint(
    lines, out, samples, table, image_stride, channel_stride, line_stride, sample_stride, images, channels, count,
    length, taps, frequencies, WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Adjoint of ``line_spectra`` for the rows or for the columns of x: taken off out, where they lie.

    lines [line][frequency][image][re, im][tap][channel]; samples [count]; table [2][taps * frequencies][length].
    """
    blocks, blocks_c = tl.cdiv(length, BLOCK), tl.cdiv(channels, C)
    pid = tl.program_id(0)
    n = pid % blocks * BLOCK + tl.arange(0, BLOCK)
    pid = pid // blocks
    line = pid % count
    pid = pid // count
    c = pid % blocks_c * C + tl.arange(0, C)
    image = (pid // blocks_c).to(tl.int64)
    lines += image * 2 * taps * channels
    total = tl.zeros((BLOCK, C), tl.float32)
    for start in range(0, taps * frequencies, F):
        r = start + tl.arange(0, F)
        known = r < taps * frequencies
        slot = (line * frequencies + r % frequencies) * images * 2 * taps
        at = lines + (((slot + r // frequencies) * channels)[:, None] + c[None, :])
        mask = known[:, None] & (c < channels)[None, :]
        re = tl.load(at, mask=mask, other=0.0)
        im = tl.load(at + taps * channels, mask=mask, other=0.0)
        cell = r[None, :] * length + n[:, None]
        mask = known[None, :] & (n < length)[:, None]
        cosine = tl.load(table + cell, mask=mask, other=0.0)
        sine = tl.load(table + taps * frequencies * length + cell, mask=mask, other=0.0)
        total = product(cosine, re, total, PRECISION, INTERPRETED)
        total = product(sine, im, total, PRECISION, INTERPRETED)
    sample = tl.load(samples + line).to(tl.int64)
    at = distance(n, sample_stride, WIDE)[:, None] + distance(c, channel_stride, WIDE)[None, :]
    at += out + (image * image_stride + sample * line_stride)
    known = (n < length)[:, None] & (c < channels)[None, :]
    tl.store(at, tl.load(at, mask=known, other=0.0) - total, mask=known)


@triton.jit
def weight_adjoint(
    bins, whole, out, phases, output_stride, input_stride, row_stride, column_stride, inputs, outputs, group_outputs,
    kernel_w, taps, count, BINS: tl.constexpr, CELLS: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Adjoint of ``weight_bins``: out = whole - that. bins [count][group][input][output of the group][2]; whole
    [output][input][tap], phases [2][count][taps].
    """
    blocks = tl.cdiv(inputs * outputs, CELLS)
    pid = tl.program_id(0)
    tap = pid // blocks * TAPS + tl.arange(0, TAPS)
    cell = pid % blocks * CELLS + tl.arange(0, CELLS)
    real = cell < inputs * outputs
    within = cell % group_outputs
    i = cell // group_outputs % inputs
    o = cell // (group_outputs * inputs) * group_outputs + within
    total = tl.zeros((TAPS, CELLS), tl.float32)
    for start in range(0, count, BINS):
        b = start + tl.arange(0, BINS)
        pair_at = b.to(tl.int64)[:, None] * inputs * outputs + cell[None, :]
        at = pair_at[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
        known = (b < count)[:, None] & real[None, :]
        known = tl.broadcast_to(known[:, :, None], (BINS, CELLS, 2))
        re, im = tl.split(tl.load(bins + at, mask=known, other=0.0))
        place = b[None, :] * taps + tap[:, None]
        known = (b < count)[None, :] & (tap < taps)[:, None]
        cosine = tl.load(phases + place, mask=known, other=0.0)
        sine = tl.load(phases + count * taps + place, mask=known, other=0.0)
        total = tl.dot(cosine, re, total, input_precision="tf32x3")
        total = tl.dot(sine, im, total, input_precision="tf32x3")
    known = (tap < taps)[:, None] & real[None, :]
    at = (o * inputs + i).to(tl.int64)[None, :] * taps + tap[:, None]
    total = tl.load(whole + at, mask=known, other=0.0) - total
    at = out + (o.to(tl.int64) * output_stride + i.to(tl.int64) * input_stride)[None, :]
    at += (tap // kernel_w * row_stride + tap % kernel_w * column_stride)[:, None]
    tl.store(at, total.to(out.dtype.element_ty), mask=known)
