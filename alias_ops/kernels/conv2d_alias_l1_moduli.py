"""Moduli and directions of complex numbers over the whole range of float32, and how often a bin counts.

Squares reach twice as far as the numbers do: below 1e-19 they vanish, above 1e19 they overflow. So both parts are first
multiplied by one of four powers of two, which the upper bits of the larger part's exponent name, and moduli by its
inverse afterwards. That is exact; inf and NaN stay what they are.
"""

import triton
import triton.language as tl

__all__ = ["direction", "half_plane_weight", "modulus"]


@triton.jit
def _scaled(re, im):
    """re and im times a power of two that brings the larger to 2**-32 ... 2**32, and the inverse of that power.

    What is subnormal comes to 2**-54 at least.
    """
    quarter = tl.maximum(tl.abs(re), tl.abs(im)).to(tl.int32, bitcast=True) & 0x60000000
    scale = (0x6F000000 - quarter).to(tl.float32, bitcast=True)
    return re * scale, im * scale, (0x10000000 + quarter).to(tl.float32, bitcast=True)


@triton.jit
def modulus(re, im):
    """|re + i im|, float32."""
    re, im, inverse = _scaled(re, im)
    return tl.sqrt(re * re + im * im) * inverse


@triton.jit
def direction(re, im, factor):
    """``factor`` times D / |D|, 0 where D is 0."""
    re, im, _ = _scaled(re, im)
    size = tl.sqrt(re * re + im * im)
    factor = factor / tl.where(size == 0, 1.0, size)
    return re * factor, im * factor


@triton.jit
def half_plane_weight(f, g, N, M):
    """1 for bins of the list that are their own conjugates, 2 for those that stand for another one."""
    return tl.where(((f == 0) | (2 * f == N)) & ((g == 0) | (2 * g == M)), 1.0, 2.0)
