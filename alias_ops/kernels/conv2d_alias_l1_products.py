"""The products over input channels, bin by bin, whose moduli are summed up where they arise."""

import triton
import triton.language as tl

from .conv2d_alias_l1_moduli import modulus
from .conv2d_alias_l1_spectra import channel_tile, product

__all__ = ["bin_products", "less_products", "measure_bins", "weight_bins"]


@triton.jit
def weight_bins(
    weight, out, phases, output_stride, input_stride, row_stride, column_stride, inputs, outputs, kernel_w, taps,
    bins, BINS: tl.constexpr, CELLS: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Spectrum of the weight: out [bin][input][output][re, im], phases [2][bins][taps]."""
    blocks = tl.cdiv(inputs * outputs, CELLS)
    pid = tl.program_id(0)
    b = pid // blocks * BINS + tl.arange(0, BINS)
    cell = pid % blocks * CELLS + tl.arange(0, CELLS)
    base = weight + cell % outputs * output_stride + cell // outputs * input_stride
    real = cell < inputs * outputs
    re = tl.zeros((BINS, CELLS), tl.float32)
    im = tl.zeros((BINS, CELLS), tl.float32)
    for start in range(0, taps, TAPS):
        tap = start + tl.arange(0, TAPS)
        at = tap // kernel_w * row_stride + tap % kernel_w * column_stride
        w = tl.load(base[None, :] + at[:, None], mask=(tap < taps)[:, None] & real[None, :], other=0.0).to(tl.float32)
        place = b[:, None] * taps + tap[None, :]
        known = (b < bins)[:, None] & (tap < taps)[None, :]
        cosine = tl.load(phases + place, mask=known, other=0.0)
        sine = tl.load(phases + bins * taps + place, mask=known, other=0.0)
        re = tl.dot(cosine, w, re, input_precision="tf32x3")
        im = tl.dot(sine, w, im, input_precision="tf32x3")
    pair = tl.join(re, im).to(out.dtype.element_ty)
    pair_at = b.to(tl.int64)[:, None] * inputs * outputs + cell[None, :]
    at = pair_at[:, :, None] * 2 + tl.arange(0, 2)[None, None, :]
    known = (b < bins)[:, None] & real[None, :]
    tl.store(out + at, pair, mask=tl.broadcast_to(known[:, :, None], pair.shape))


@triton.jit
def bin_products(
    x_bin, w_bin, x_cell, w_cell, real_i, real_p, channels, inputs, row, BI: tl.constexpr, P: tl.constexpr,
    K: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Real and imaginary parts of x, [BI, inputs] each, times the weight of a bin, [inputs, P], K inputs at a time.

    x_cell [BI, 1], w_cell [K, P]: places of the first inputs, of what is real_i and real_p; row: the weight's pitch.
    """
    k = tl.arange(0, K)
    real = tl.zeros((BI, P), tl.float32)
    imaginary = tl.zeros((BI, P), tl.float32)
    for start in range(0, inputs, K):
        known = real_i & (start + k < inputs)[None, :]
        x_re = tl.load(x_bin + start + (x_cell + k[None, :]), mask=known, other=0.0)
        x_im = tl.load(x_bin + channels + start + (x_cell + k[None, :]), mask=known, other=0.0)
        w = tl.load(
            w_bin + tl.cast(start, tl.int64) * row + w_cell,
            mask=(start + k < inputs)[:, None] & real_p,
            other=0.0,
        )
        real = product(x_re, w, real, PRECISION, INTERPRETED)
        imaginary = product(x_im, w, imaginary, PRECISION, INTERPRETED)
    return real, imaginary


@triton.jit
def less_products(y_bin, y_cell, known, outputs, real, imaginary, BI: tl.constexpr, BO: tl.constexpr):
    """Real and imaginary part of D = y - x w in a bin, from what ``bin_products`` makes of pairs."""
    re_re, re_im = tl.split(tl.reshape(real, (BI, BO, 2)))
    im_re, im_im = tl.split(tl.reshape(imaginary, (BI, BO, 2)))
    re = tl.load(y_bin + y_cell, mask=known, other=0.0).to(tl.float32) - (re_re - im_im)
    im = tl.load(y_bin + outputs + y_cell, mask=known, other=0.0).to(tl.float32) - (re_im + im_re)
    return re, im


@triton.jit
def measure_bins(
    x, weight, y, weights, partial, images, channels, outputs, inputs, group_outputs, bins, bins_each,
    POINTWISE: tl.constexpr, WHOLE: tl.constexpr, BI: tl.constexpr, BO: tl.constexpr, K: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Sum over bins of |y - x w|, each times its weight: partial [part][image][output channel].

    x [bin][image][re, im][channel]; y the same of the output's channels. weight [bin][input][output][re, im], or for
    POINTWISE layers, which have no y, [input][output]: one real matrix for all bins. A program walks ``bins_each``
    bins for a tile of images and output channels of one group. WHOLE: K covers the inputs.
    """
    W: tl.constexpr = 1 if POINTWISE else 2
    i, group, first, last, part = channel_tile(tl.program_id(0), images, outputs, group_outputs, BI, BO)
    o = first + tl.arange(0, BO)
    pairs = first * W + tl.arange(0, BO * W)  # columns of the weight: an output channel's re beside its im

    x_cell = (i * 2 * channels + group * inputs)[:, None]
    y_cell = (i * 2 * outputs)[:, None] + o[None, :]
    real_i, real_o, real_p = (i < images)[:, None], (o < last)[None, :], (pairs < last * W)[None, :]
    k = tl.arange(0, K)
    w_cell = (k * outputs * W)[:, None] + pairs[None, :]
    # Where one load of the weight serves all bins, it comes before the walk.
    fixed = tl.load(weight + w_cell, mask=(k < inputs)[:, None] & real_p, other=0.0)
    total = tl.zeros((BI, BO), tl.float32)
    begin = part * bins_each
    for b in range(begin, tl.minimum(begin + bins_each, bins)):
        bin_of = tl.cast(b, tl.int64)
        x_bin = x + bin_of * images * 2 * channels
        w_bin = weight
        if not POINTWISE:
            w_bin += bin_of * inputs * outputs * 2
        if WHOLE:
            real = tl.zeros((BI, BO * W), tl.float32)
            imaginary = tl.zeros((BI, BO * W), tl.float32)
            known = real_i & (k < inputs)[None, :]
            x_re = tl.load(x_bin + (x_cell + k[None, :]), mask=known, other=0.0)
            x_im = tl.load(x_bin + channels + (x_cell + k[None, :]), mask=known, other=0.0)
            w = fixed if POINTWISE else tl.load(w_bin + w_cell, mask=(k < inputs)[:, None] & real_p, other=0.0)
            real = product(x_re, w, real, PRECISION, INTERPRETED)
            imaginary = product(x_im, w, imaginary, PRECISION, INTERPRETED)
        else:
            real, imaginary = bin_products(
                x_bin, w_bin, x_cell, w_cell, real_i, real_p, channels, inputs, outputs * W, BI, BO * W, K, PRECISION,
                INTERPRETED,
            )  # fmt: skip
        if POINTWISE:
            d_re, d_im = real, imaginary
        else:
            d_re, d_im = less_products(
                y + bin_of * images * 2 * outputs, y_cell, real_i & real_o, outputs, real, imaginary, BI, BO
            )
        total += tl.load(weights + b) * modulus(d_re, d_im)
    tl.store(partial + ((part * images + i)[:, None] * outputs + o[None, :]), total, mask=real_i & real_o)
