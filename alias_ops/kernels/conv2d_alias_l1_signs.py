"""Gradients of sums of moduli, bin by bin: what a bin gets is its weight times D / |D|, 0 where D is 0.

They are written as pairs, [bin][image][re, im][output][2], kept bins first, the output's Nyquist bins after them. The
row "re" holds (re, im) of an output channel, the row "im" holds (im, -re): adjoint products with x and weight over the
rows of a bin are then plain products of real matrices.
"""

import triton
import triton.language as tl

from .conv2d_alias_l1_frame import less_frame
from .conv2d_alias_l1_moduli import direction, half_plane_weight
from .conv2d_alias_l1_products import bin_products, less_products
from .conv2d_alias_l1_spectra import bin_places, channel_tile, spectra_of_tile, store_bins

__all__ = ["map_signs", "nyquist_place", "output_signs", "sign_bins"]


@triton.jit
def nyquist_place(f, g, N, M):
    """Place of a Nyquist bin of N x M among them: f = N / 2 with every g, then g = M / 2 with every other f."""
    return tl.where(2 * f == N, g, tl.where(N % 2 == 0, M // 2 + 1, 0) + f)


@triton.jit
def map_signs(
    maps, grad, out, dft_h, dft_w, image_stride, channel_stride, row_stride, column_stride, images, channels, N, M,
    LAST: tl.constexpr, WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr,
    W: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Of every bin of maps [image][channel][N][M]: rows "re" alone to out [bin][image][channel][2]; grad
    [image][channel].
    """
    image, _, _, f_of, g, c, known, plus_re, plus_im, minus_re, minus_im = spectra_of_tile(
        maps, image_stride, channel_stride, row_stride, column_stride, channels, N, M, dft_h, dft_w, N // 2 + 1,
        M // 2 + 1, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    factor = tl.load(grad + image * channels + c, mask=c < channels, other=0.0)[:, None]
    factor *= half_plane_weight(f_of[:, None], g[None, :], N, M)
    plus_re, plus_im = direction(plus_re, plus_im, factor)
    minus_re, minus_im = direction(minus_re, minus_im, factor)
    plus, minus, other = bin_places(f_of[:, None], g[None, :], N, M)
    out += image * 2 * channels
    step = images * 2 * channels
    tl.store(out + (plus * step + 2 * c[:, None]), plus_re, mask=known)
    tl.store(out + (plus * step + 2 * c[:, None] + 1), plus_im, mask=known)
    tl.store(out + (minus * step + 2 * c[:, None]), minus_re, mask=known & other)
    tl.store(out + (minus * step + 2 * c[:, None] + 1), minus_im, mask=known & other)


@triton.jit
def output_signs(
    y, grad, lines, out, nyquist, dft_h, dft_w, frame_h, frame_w, image_stride, channel_stride, row_stride,
    column_stride, images, outputs, N, M, kept_h, kept_w, lines_h, lines_w, LAST: tl.constexpr, WIDE: tl.constexpr,
    C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Bins of the strided output: kept ones less the frame to out [bin][image][re, im][output], as ``output_bins``
    does; of the Nyquist ones rows "re" of the gradient to nyquist [bin][image][re, im][output][2]; grad
    [image][output].
    """
    image, _, _, f_of, g, c, known, plus_re, plus_im, minus_re, minus_im = spectra_of_tile(
        y, image_stride, channel_stride, row_stride, column_stride, outputs, N, M, dft_h, dft_w, N // 2 + 1,
        M // 2 + 1, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    kept = known & (f_of < kept_h)[:, None] & (g < kept_w)[None, :]

    factor = tl.load(grad + image * outputs + c, mask=c < outputs, other=0.0)[:, None]
    factor *= half_plane_weight(f_of[:, None], g[None, :], N, M)
    re, im = direction(plus_re, plus_im, factor)
    at = nyquist_place(f_of[:, None], g[None, :], N, M) * (images * 4 * outputs) + 2 * c[:, None]
    nyquist += image * 4 * outputs
    tl.store(nyquist + at, re, mask=known & (kept == 0))
    tl.store(nyquist + at + 1, im, mask=known & (kept == 0))

    plus_re, plus_im, minus_re, minus_im = less_frame(
        plus_re, plus_im, minus_re, minus_im, lines, frame_h, frame_w, image, images, outputs, kept_h, kept_w,
        lines_h, lines_w, f_of, g, c, kept,
    )  # fmt: skip
    store_bins(
        out, image, images, outputs, c, f_of, g, 2 * kept_h - 1, 2 * kept_w - 1, kept, plus_re, plus_im, minus_re,
        minus_im,
    )  # fmt: skip


@triton.jit
def sign_bins(
    x, weight, y, weights, grad, out, images, channels, outputs, inputs, group_outputs, BI: tl.constexpr,
    BO: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Of every kept bin, D = y - x w: pairs to out. Operands as of ``measure_bins``; grad [image][output]."""
    i, group, first, last, b = channel_tile(tl.program_id(0), images, outputs, group_outputs, BI, BO)
    bin_of = tl.cast(b, tl.int64)
    o = first + tl.arange(0, BO)
    pairs = first * 2 + tl.arange(0, BO * 2)  # columns of the weight: an output channel's re beside its im

    real, imaginary = bin_products(
        x + bin_of * images * 2 * channels, weight + bin_of * inputs * outputs * 2,
        (i * 2 * channels + group * inputs)[:, None], (tl.arange(0, K) * outputs * 2)[:, None] + pairs[None, :],
        (i < images)[:, None], (pairs < last * 2)[None, :], channels, inputs, outputs * 2, BI, BO * 2, K, PRECISION,
        INTERPRETED,
    )  # fmt: skip
    known = (i < images)[:, None] & (o < last)[None, :]
    y_cell = (i * 2 * outputs)[:, None] + o[None, :]
    re, im = less_products(y + bin_of * images * 2 * outputs, y_cell, known, outputs, real, imaginary, BI, BO)
    factor = tl.load(grad + (i * outputs)[:, None] + o[None, :], mask=known, other=0.0) * tl.load(weights + b)
    re, im = direction(re, im, factor)

    at = out + bin_of * images * 4 * outputs + (i * 4 * outputs)[:, None] + 2 * o[None, :]
    at = at[:, :, None] + tl.arange(0, 2)[None, None, :]
    pair = tl.join(re, im)
    known_pair = tl.broadcast_to(known[:, :, None], pair.shape)
    tl.store(at, pair, mask=known_pair)
    tl.store(at + 2 * outputs, tl.join(im, -re), mask=known_pair)
