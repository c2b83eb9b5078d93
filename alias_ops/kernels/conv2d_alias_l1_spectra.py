"""Spectra of maps and of single lines, laid out bin by bin with the channels contiguous: [bin][image][re, im][channel].

A transform is two products with small DFT tables. Bins are listed as they are in ``conv2d_alias_l1_tables``:
g = 0 with f = 0..N/2, then every g with all N of f, then an even M's Nyquist g with f = 0..N/2.
"""

import triton
import triton.language as tl

__all__ = [
    "bin_places",
    "channel_tile",
    "distance",
    "input_bins",
    "product",
    "quadrants",
    "residual_bins",
    "spectra_of_tile",
    "store_bins",
    "table_product",
    "tile_of",
]


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """``total + a @ b`` in float32. The interpreter knows no bfloat16 product; float32 holds the same numbers."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def table_product(table, x, total, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr):
    """``total + table @ x`` with a float32 table. For x of 16 bits the table is two numbers of its type: x enters
    as it is, and the table keeps twice the digits, without which a large mean would leak into every bin.
    """
    if x.dtype == tl.float32:
        total = product(table, x, total, PRECISION, INTERPRETED)
    else:
        high = table.to(x.dtype)
        low = (table - high.to(tl.float32)).to(x.dtype)
        total = product(high, x, total, PRECISION, INTERPRETED)
        total = product(low, x, total, PRECISION, INTERPRETED)
    return total


@triton.jit
def distance(index, stride, WIDE: tl.constexpr):
    """index * stride in 64 bits where one image of the tensor is too large for 32."""
    if WIDE:
        index = index.to(tl.int64)
    return index * stride


@triton.jit
def bin_places(f, g, N, M):
    """Places of the bins (f, g) and (-f, g) in the list, and whether the second is another one than the first."""
    edge = (g == 0) | (2 * g == M)
    start = tl.where(g == 0, 0, N // 2 + 1 + (g - 1) * N)
    return start + f, start + N - f, (f > 0) & (2 * f < N) & (edge == 0)


@triton.jit
def by_channel(maps, LAST: tl.constexpr, C: tl.constexpr, F: tl.constexpr, W: tl.constexpr):
    """[F, C * W], or [F, W * C] where channels come LAST -> [F * C, W]."""
    if LAST:
        maps = tl.permute(tl.reshape(maps, (F, W, C)), (0, 2, 1))
    return tl.reshape(maps, (F * C, W))


@triton.jit
def quadrants(
    x, channel_stride, row_stride, column_stride, first_row, last_row, first_column, last_column, channel, channels,
    table_h, table_w, frequencies_h, frequencies_w, samples_h, samples_w, f, g, LAST: tl.constexpr,
    WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Spectra of C maps at (f, g) and (-f, g): four tiles [F * C, G], re and im of either.

    table_h [2][frequencies_h][samples_h] and table_w alike; samples outside first..last are zeros of padding,
    which x does not have. LAST says that channels are neighbours in memory, and are loaded along them.
    """
    h_of, w_of, across = tl.arange(0, H), tl.arange(0, W), tl.arange(0, C * W)
    if LAST:
        c, w = channel + across % C, across // C
    else:
        c, w = channel + across // W, across % W
    offset = distance(c, channel_stride, WIDE)
    rr = tl.zeros((F * C, G), tl.float32)
    ri = tl.zeros((F * C, G), tl.float32)
    ir = tl.zeros((F * C, G), tl.float32)
    ii = tl.zeros((F * C, G), tl.float32)
    for column in range(0, last_column, W):
        kept = (c < channels) & (column + w >= first_column) & (column + w < last_column)
        along = offset + distance(column + w, column_stride, WIDE)
        re = tl.zeros((F, C * W), tl.float32)
        im = tl.zeros((F, C * W), tl.float32)
        for row in range(0, last_row, H):
            h = row + h_of
            inside = (h >= first_row) & (h < last_row)
            maps = tl.load(
                x + (along[None, :] + distance(h, row_stride, WIDE)[:, None]),
                mask=inside[:, None] & kept[None, :],
                other=0.0,
            )
            cell = f[:, None] * samples_h + h[None, :]
            known = (f < frequencies_h)[:, None] & (h < samples_h)[None, :]
            cosine = tl.load(table_h + cell, mask=known, other=0.0)
            sine = tl.load(table_h + frequencies_h * samples_h + cell, mask=known, other=0.0)
            re = table_product(cosine, maps, re, PRECISION, INTERPRETED)
            im = table_product(sine, maps, im, PRECISION, INTERPRETED)
        cell = g[None, :] * samples_w + (column + w_of)[:, None]
        known = (g < frequencies_w)[None, :] & (column + w_of < samples_w)[:, None]
        cosine = tl.load(table_w + cell, mask=known, other=0.0)
        sine = tl.load(table_w + frequencies_w * samples_w + cell, mask=known, other=0.0)
        re = by_channel(re, LAST, C, F, W)
        rr = product(re, cosine, rr, PRECISION, INTERPRETED)
        ri = product(re, sine, ri, PRECISION, INTERPRETED)
        im = by_channel(im, LAST, C, F, W)
        ir = product(im, cosine, ir, PRECISION, INTERPRETED)
        ii = product(im, sine, ii, PRECISION, INTERPRETED)
    return rr - ii, ri + ir, rr + ii, ri - ir


@triton.jit
def tile_of(pid, channels, frequencies_h, frequencies_w, C: tl.constexpr, F: tl.constexpr, G: tl.constexpr):
    """Where a program works: image, first channel, and its f, g and channel of every element of a tile [F * C, G]."""
    blocks_g = tl.cdiv(frequencies_w, G)
    blocks_f = tl.cdiv(frequencies_h, F)
    blocks_c = tl.cdiv(channels, C)
    block = pid % (blocks_f * blocks_g)
    pid = pid // (blocks_f * blocks_g)
    rows = tl.arange(0, F * C)
    f = block // blocks_g * F
    g = block % blocks_g * G + tl.arange(0, G)
    channel = pid % blocks_c * C
    return (pid // blocks_c).to(tl.int64), channel, block, f + tl.arange(0, F), g, f + rows // C, channel + rows % C


@triton.jit
def channel_tile(pid, images, outputs, group_outputs, BI: tl.constexpr, BO: tl.constexpr):
    """Where a program of products over channels works: its images [BI], its group, its first output channel and the
    first one beyond the group, and the place of the tile's matrix (a slot, a bin, or a part of a walk).
    """
    tiles_i, tiles_o = tl.cdiv(images, BI), tl.cdiv(group_outputs, BO)
    i = pid % tiles_i * BI + tl.arange(0, BI)
    pid = pid // tiles_i
    tile = pid % (outputs // group_outputs * tiles_o)
    group = tile // tiles_o
    first = group * group_outputs + tile % tiles_o * BO
    return i, group, first, (group + 1) * group_outputs, pid // (outputs // group_outputs * tiles_o)


@triton.jit
def spectra_of_tile(
    x, image_stride, channel_stride, row_stride, column_stride, channels, height, width, table_h, table_w,
    frequencies_h, frequencies_w, LAST: tl.constexpr, WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
    G: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """What a program of ``tile_of`` holds of maps [image][channel][height][width]: image, first channel, block of bins;
    f, g and channel of every element, which of them there are; the four tiles of ``quadrants``.
    """
    image, channel, block, f, g, f_of, c = tile_of(tl.program_id(0), channels, frequencies_h, frequencies_w, C, F, G)
    plus_re, plus_im, minus_re, minus_im = quadrants(
        x + image * image_stride, channel_stride, row_stride, column_stride, 0, height, 0, width, channel, channels,
        table_h, table_w, frequencies_h, frequencies_w, height, width, f, g, LAST, WIDE, C, F, G, H, W, PRECISION,
        INTERPRETED,
    )  # fmt: skip
    known = ((f_of < frequencies_h) & (c < channels))[:, None] & (g < frequencies_w)[None, :]
    return image, channel, block, f_of, g, c, known, plus_re, plus_im, minus_re, minus_im


@triton.jit
def store_bins(out, image, images, channels, c, f, g, N, M, known, plus_re, plus_im, minus_re, minus_im):
    """(f, g) and (-f, g) into out [bin][image][re, im][channel]."""
    plus, minus, other = bin_places(f[:, None], g[None, :], N, M)
    step = images * 2 * channels
    out += image * 2 * channels
    kind = out.dtype.element_ty
    tl.store(out + (plus * step + c[:, None]), plus_re.to(kind), mask=known)
    tl.store(out + (plus * step + c[:, None] + channels), plus_im.to(kind), mask=known)
    tl.store(out + (minus * step + c[:, None]), minus_re.to(kind), mask=known & other)
    tl.store(out + (minus * step + c[:, None] + channels), minus_im.to(kind), mask=known & other)


@triton.jit
def input_bins(
    x, out, table_h, table_w, image_stride, channel_stride, row_stride, column_stride, images, channels, height,
    width, frequencies_h, frequencies_w, LAST: tl.constexpr, WIDE: tl.constexpr, C: tl.constexpr, F: tl.constexpr,
    G: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The kept bins of x, of L samples although x has H: out [bin][image][re, im][channel]."""
    image, _, _, f_of, g, c, known, plus_re, plus_im, minus_re, minus_im = spectra_of_tile(
        x, image_stride, channel_stride, row_stride, column_stride, channels, height, width, table_h, table_w,
        frequencies_h, frequencies_w, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    N, M = 2 * frequencies_h - 1, 2 * frequencies_w - 1
    store_bins(out, image, images, channels, c, f_of, g, N, M, known, plus_re, plus_im, minus_re, minus_im)


@triton.jit
def residual_bins(
    x, out, dft_h, dft_w, low_h, low_w, image_stride, channel_stride, row_stride, column_stride, images, channels,
    height, width, step_h, step_w, padding_h, padding_w, N, M, kept_h, kept_w, LAST: tl.constexpr, WIDE: tl.constexpr,
    C: tl.constexpr, F: tl.constexpr, G: tl.constexpr, H: tl.constexpr, W: tl.constexpr, PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """What a 1 x 1 layer with weight one folds out of every channel: the bins of x on the strided grid less those
    kept of x, in the half plane of N x M bins.
    """
    frequencies_h, frequencies_w = N // 2 + 1, M // 2 + 1
    image, channel, _, f, g, f_of, c = tile_of(tl.program_id(0), channels, frequencies_h, frequencies_w, C, F, G)
    base = x + image * image_stride
    # Sample n of the grid is x[n * step - padding]: the first and the last n that meet x.
    first_h, first_w = tl.cdiv(padding_h, step_h), tl.cdiv(padding_w, step_w)
    last_h = tl.minimum(N, tl.cdiv(height + padding_h, step_h))
    last_w = tl.minimum(M, tl.cdiv(width + padding_w, step_w))
    plus_re, plus_im, minus_re, minus_im = quadrants(
        base - distance(padding_h, row_stride, WIDE) - distance(padding_w, column_stride, WIDE), channel_stride,
        row_stride * step_h, column_stride * step_w, first_h, last_h, first_w, last_w, channel, channels, dft_h,
        dft_w, frequencies_h, frequencies_w, N, M, f, g, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    low_plus_re, low_plus_im, low_minus_re, low_minus_im = quadrants(
        base, channel_stride, row_stride, column_stride, 0, height, 0, width, channel, channels, low_h, low_w, kept_h,
        kept_w, height, width, f, g, LAST, WIDE, C, F, G, H, W, PRECISION, INTERPRETED,
    )  # fmt: skip
    known = ((f_of < frequencies_h) & (c < channels))[:, None] & (g < frequencies_w)[None, :]
    store_bins(
        out, image, images, channels, c, f_of, g, N, M, known, plus_re - low_plus_re, plus_im - low_plus_im,
        minus_re - low_minus_re, minus_im - low_minus_im,
    )  # fmt: skip
