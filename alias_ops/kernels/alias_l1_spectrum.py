"""The kernel of the aliasing measure: a map's residual to its spectrum on chip, then its norm or its sign.

With a, b the two rows of a frequency f and c, s the two columns of g (see alias_l1_tables), the bins (f, g) and
(-f, g) of a real map are (ac - bs) + i (as + bc) and (ac + bs) + i (as - bc), and count twice each: so do their
mirror images. Where f or g is 0, its two rows or columns are those of two frequencies without a sine, and the four
numbers make two bins with one of them; where both are, four real bins that count once.
"""

import triton
import triton.language as tl

from ._arithmetic import inverse_scale, scale_of
from ._maps import first_sample
from ._tiles import accumulate

__all__ = ["spectrum"]


@triton.jit
def _quads(total, BF: tl.constexpr, CB: tl.constexpr, BG: tl.constexpr):
    """[2 BF, CB 2 BG] -> ac, as, bc, bs, each [BF, CB, BG]."""
    pairs = tl.permute(tl.reshape(total, [BF, 2, CB, BG, 2]), (0, 2, 3, 1, 4))
    cosine, sine = tl.split(pairs)
    ac, bc = tl.split(cosine)
    a_s, bs = tl.split(sine)
    return ac, a_s, bc, bs


@triton.jit
def _bins(ac, a_s, bc, bs, f_0, g_0):
    """Real and imaginary parts of the two bins that four numbers make."""
    both = f_0 & g_0
    re = tl.where(f_0 | g_0, ac, ac - bs)
    im = tl.where(f_0, tl.where(g_0, 0.0, a_s), tl.where(g_0, bc, a_s + bc))
    re_2 = tl.where(f_0, tl.where(g_0, bs, bc), tl.where(g_0, a_s, ac + bs))
    im_2 = tl.where(f_0 | g_0, tl.where(both, 0.0, bs), a_s - bc)
    return re, im, re_2, im_2


@triton.jit
def _inverse_or_zero(magnitude):
    """1 / |D|, 0 at D = 0; NaN stays."""
    vanishes = magnitude == 0.0
    return tl.where(vanishes, 0.0, 1.0 / tl.where(vanishes, 1.0, magnitude))


@triton.jit
def _sign(value):
    """value / |value|, 0 at 0; NaN stays."""
    return value * _inverse_or_zero(tl.abs(value))


@triton.jit(do_not_specialize=["maps"])
def spectrum(
    x, grad, out, dft_h, low_h, dft_w, low_w, maps, channels, x_image, x_channel, x_row, x_column,
    height, width, out_height, out_width, step_h, step_w, rows, columns,
    dft_h_pitch, dft_h_low, low_h_pitch, low_h_low, dft_w_pitch, dft_w_low, low_w_pitch, low_w_low,
    factor_left, factor_right,
    BACKWARD: tl.constexpr, PRODUCTS: tl.constexpr, WIDE: tl.constexpr, ALIGN_X: tl.constexpr,
    WHOLE: tl.constexpr, WHOLE_OUT: tl.constexpr,
    HB: tl.constexpr, WB: tl.constexpr, HO: tl.constexpr, WO: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Programs: blocks of CB maps, tiles of BN columns and of BM rows of the packed spectrum [rows, columns].

    Forward: out [maps, tiles] gets sum |D| over a tile's bins. BACKWARD: out [maps, rows, columns] gets the packed
    spectrum's gradient, grad [maps] times that of sum |D|. HB x WB and HO x WO are the blocks of the map and of the
    strided one; HB and HO are the same where CB is not 1.
    """
    width = width * ALIGN_X
    block = tl.program_id(0).to(tl.int64) * CB
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    m = tl.program_id(2) * BM + tl.arange(0, BM)
    index = block
    if CB > 1:
        index = block + tl.arange(0, HB * CB) % CB
    x_map = first_sample(x, index, channels, x_image, x_channel, ALIGN_X)
    factor = factor_right * factor_left
    total, unused = tl.zeros([BM, CB * BN], tl.float32), tl.zeros([CB], tl.float32)
    total, unused = accumulate(
        total, unused, x_map, index < maps, x_row * step_h, x_column * step_w, out_height, out_width, m, n,
        dft_h, dft_h_pitch, dft_h_low, dft_w, dft_w_pitch, dft_w_low, x, x, factor,
        1, False, PRODUCTS, WIDE, ALIGN_X, WHOLE_OUT, HO, WO, BM, BN, CB,
    )  # fmt: skip
    total, unused = accumulate(
        total, unused, x_map, index < maps, x_row, x_column, height, width, m, n,
        low_h, low_h_pitch, low_h_low, low_w, low_w_pitch, low_w_low, x, x, factor,
        1, False, PRODUCTS, WIDE, ALIGN_X, WHOLE, HB, WB, BM, BN, CB,
    )  # fmt: skip
    BF: tl.constexpr = BM // 2
    BG: tl.constexpr = BN // 2
    f_0 = (tl.program_id(2) * BF + tl.arange(0, BF) == 0)[:, None, None]
    g_0 = (tl.program_id(1) * BG + tl.arange(0, BG) == 0)[None, None, :]
    both = f_0 & g_0
    ac, a_s, bc, bs = _quads(total, BF, CB, BG)
    # Squares neither overflow nor vanish beside the map's largest number.
    largest = tl.maximum(tl.maximum(tl.abs(ac), tl.abs(a_s)), tl.maximum(tl.abs(bc), tl.abs(bs)))
    scale = scale_of(tl.max(tl.max(largest, axis=2), axis=0), 0)
    unit = scale[None, :, None]
    ac, a_s, bc, bs = ac * unit, a_s * unit, bc * unit, bs * unit
    re, im, re_2, im_2 = _bins(ac, a_s, bc, bs, f_0, g_0)
    first, second = tl.sqrt(re * re + im * im), tl.sqrt(re_2 * re_2 + im_2 * im_2)
    map_index = block + tl.arange(0, CB)
    if BACKWARD:
        first, second = _inverse_or_zero(first), _inverse_or_zero(second)
        re, im, re_2, im_2 = re * first, im * first, re_2 * second, im_2 * second
        per_map = tl.load(grad + map_index, mask=map_index < maps, other=0.0).to(tl.float32)[None, :, None]
        weight = tl.where(both, per_map, 2 * per_map)
        d_ac = tl.where(f_0 | g_0, re, re + re_2)
        d_as = tl.where(f_0, tl.where(g_0, _sign(a_s), im), tl.where(g_0, re_2, im + im_2))
        d_bc = tl.where(f_0, tl.where(g_0, _sign(bc), re_2), tl.where(g_0, im, im - im_2))
        d_bs = tl.where(f_0 | g_0, tl.where(both, re_2, im_2), re_2 - re)
        pairs = tl.join(tl.join(d_ac * weight, d_bc * weight), tl.join(d_as * weight, d_bs * weight))
        packed = tl.reshape(tl.permute(pairs, (0, 3, 1, 2, 4)), [BM, CB * BN])
        j = tl.arange(0, CB * BN)
        columns_of, map_of = tl.program_id(1) * BN + j % BN, block + j // BN
        place = (map_of * rows * columns + columns_of)[None, :] + (m * columns)[:, None]
        mask = (m < rows)[:, None] & ((columns_of < columns) & (map_of < maps))[None, :]
        tl.store(out + place, packed, mask=mask)
    else:
        corner = tl.where(both, tl.abs(re) + tl.abs(re_2) + tl.abs(a_s) + tl.abs(bc), 2 * (first + second))
        sums = tl.sum(tl.sum(corner, axis=2), axis=0) * inverse_scale(scale)
        tiles = tl.num_programs(1) * tl.num_programs(2)
        tile = tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)
        tl.store(out + map_index * tiles + tile, sums, mask=map_index < maps)
