"""Identity 4 in one pass, for small maps: the residual of a layer on the strided grid, its DFT, moduli and their sum.

Nothing but one number per map is written: ``r = sum_taps w_tap (S_dy x S_dx^T - P_dy x P_dx^T)`` stays on chip.
"""

import triton
import triton.language as tl

from .conv2d_alias_l1_moduli import modulus
from .conv2d_alias_l1_spectra import distance, product, table_product

__all__ = ["residual_measure"]


@triton.jit
def residual_measure(
    x, weight, low_h, low_w, dft, weights, out, image_stride, channel_stride, row_stride, column_stride, images,
    outputs, inputs, group_outputs, height, width, kernel_h, kernel_w, step_h, step_w, padding_h, padding_w,
    dilation_h, dilation_w, N, M, bins, WIDE: tl.constexpr, NP: tl.constexpr, MP: tl.constexpr, BI: tl.constexpr,
    C: tl.constexpr, BO: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BINS: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """out [image][output channel], float32.

    weight [kernel_h][kernel_w][input][output] of one type with the products: x's, or float32. low_h [kernel_h][N]
    [height] and low_w alike: P of every tap. dft [2][bins][NP * MP], bins a multiple of BINS: the DFT of a
    whole map of N x M in a grid of NP x MP. W covers a row of x, NP x MP powers of two.
    """
    tiles_o = tl.cdiv(group_outputs, BO)
    pid = tl.program_id(0)
    tile = pid % (outputs // group_outputs * tiles_o)
    image = pid // (outputs // group_outputs * tiles_o) * BI
    group = tile // tiles_o
    within = tile % tiles_o * BO + tl.arange(0, BO)
    o = group * group_outputs + within

    n_of = tl.arange(0, NP)
    m_of = tl.arange(0, MP)
    h_of = tl.arange(0, H)
    w_of = tl.arange(0, W)
    # Maps as they enter the first product: [h, (image, channel, w)].
    across = tl.arange(0, BI * C * W)
    w, c_across, i = across % W, across // W % C, image + across // (C * W)
    x += tl.cast(image, tl.int64) * image_stride
    across_at = distance(i - image, image_stride, WIDE) + distance(w, column_stride, WIDE)
    across_in = (w < width) & (i < images)
    # The strided grid: [(n, image, m), channel].
    grid = tl.arange(0, NP * BI * MP)
    n, m, grid_i = grid // (BI * MP), grid % MP, image + grid // MP % BI
    grid_in = (n < N) & (m < M) & (grid_i < images)
    c_grid = tl.arange(0, C)

    residual = tl.zeros((NP * BI * MP, BO), tl.float32)
    for first in range(0, inputs, C):
        channel = group * inputs + first
        maps_at = across_at + distance(channel + c_across, channel_stride, WIDE)
        maps_in = across_in & (first + c_across < inputs)
        grid_c = (first + c_grid < inputs)[None, :]
        for tap_h in range(kernel_h):
            low = tl.zeros((NP, BI * C * W), tl.float32)
            for start in range(0, height, H):
                h = start + h_of
                maps = tl.load(
                    x + (maps_at[None, :] + distance(h, row_stride, WIDE)[:, None]),
                    mask=(h < height)[:, None] & maps_in[None, :],
                    other=0.0,
                )
                table = tl.load(
                    low_h + (tap_h * N + n_of)[:, None] * height + h[None, :],
                    mask=(n_of < N)[:, None] & (h < height)[None, :],
                    other=0.0,
                )
                low = table_product(table, maps, low, PRECISION, INTERPRETED)
            rows = tl.reshape(low, (NP * BI * C, W))
            h_grid = n * step_h + tap_h * dilation_h - padding_h
            for tap_w in range(kernel_w):
                table = tl.load(
                    low_w + (tap_w * M + m_of)[None, :] * width + w_of[:, None],
                    mask=(m_of < M)[None, :] & (w_of < width)[:, None],
                    other=0.0,
                )
                smooth = tl.zeros((NP * BI * C, MP), tl.float32)
                smooth = product(rows, table, smooth, PRECISION, INTERPRETED)
                smooth = tl.permute(tl.reshape(smooth, (NP, BI, C, MP)), (0, 1, 3, 2))
                w_grid = m * step_w + tap_w * dilation_w - padding_w
                inside = grid_in & (h_grid >= 0) & (h_grid < height) & (w_grid >= 0) & (w_grid < width)
                at = distance(grid_i - image, image_stride, WIDE)
                at += distance(h_grid, row_stride, WIDE) + distance(w_grid, column_stride, WIDE)
                sharp = tl.load(
                    x + (at[:, None] + distance(channel + c_grid, channel_stride, WIDE)[None, :]),
                    mask=inside[:, None] & grid_c,
                    other=0.0,
                )
                panel = weight + tl.cast((tap_h * kernel_w + tap_w) * inputs + first, tl.int64) * outputs
                taps = tl.load(
                    panel + (c_grid[:, None] * outputs + o[None, :]),
                    mask=(first + c_grid < inputs)[:, None] & (within < group_outputs)[None, :],
                    other=0.0,
                )
                difference = sharp.to(tl.float32) - tl.reshape(smooth, (NP * BI * MP, C))
                residual = product(difference.to(taps.dtype), taps, residual, PRECISION, INTERPRETED)

    maps = tl.reshape(tl.permute(tl.reshape(residual, (NP, BI, MP, BO)), (0, 2, 1, 3)), (NP * MP, BI * BO))
    place = tl.arange(0, NP * MP)[None, :]
    total = tl.zeros((BI * BO,), tl.float32)
    for start in range(0, bins, BINS):
        b = start + tl.arange(0, BINS)
        cell = b[:, None] * (NP * MP) + place
        re = tl.zeros((BINS, BI * BO), tl.float32)
        im = tl.zeros((BINS, BI * BO), tl.float32)
        re = product(tl.load(dft + cell), maps, re, PRECISION, INTERPRETED)
        im = product(tl.load(dft + bins * (NP * MP) + cell), maps, im, PRECISION, INTERPRETED)
        total += tl.sum(modulus(re, im) * tl.load(weights + b)[:, None], 0)
    column = tl.arange(0, BI * BO)
    i, within = image + column // BO, tile % tiles_o * BO + column % BO
    tl.store(
        out + i.to(tl.int64) * outputs + group * group_outputs + within,
        total,
        mask=(i < images) & (within < group_outputs),
    )
