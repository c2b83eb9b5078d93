"""float32-grade products on float16 matrix units: operands as sums of two float16 numbers under a common scale.

A float32 number has 24 significant bits, a pair of float16 numbers 22, and of the four products of two pairs the
smallest is below what the other three round off: three products, summed in float32, are as good as TF32's three and
cost half of them, for float16 runs at twice TF32's rate. One product alone rounds its operands to 11 bits exactly as
TF32 does; half-precision inputs (8 or 11 bits) it takes whole. What float16 lacks is range. So every map is first
multiplied by the power of two that brings its largest sample to a fixed size, and divided by it at the end; both are
exact.
"""

import triton
import triton.language as tl

__all__ = ["INPUT_BITS", "inverse_scale", "pieces", "product", "scale_of"]

# Samples are scaled to at most 2**INPUT_BITS; tables to row sums of at most 2**8 (see _tables), so that no product
# of the two exceeds float16's 65504, with a factor of four to spare for sums and differences of samples.
INPUT_BITS = 5


@triton.jit
def scale_of(largest, BITS: tl.constexpr):
    """The power of two that brings ``largest`` to 2**(BITS - 1) ... 2**BITS; 1 for inf and NaN."""
    exponent = (largest.to(tl.int32, bitcast=True) >> 23) & 255
    # Its inverse must be a normal number too. Maps of subnormal numbers stay smaller than they might be.
    biased = tl.where(exponent == 255, 127, tl.minimum(253 - exponent + BITS, 253))
    return (biased << 23).to(tl.float32, bitcast=True)


@triton.jit
def inverse_scale(scale):
    """1 / scale, for a power of two, exactly."""
    return ((254 << 23) - scale.to(tl.int32, bitcast=True)).to(tl.float32, bitcast=True)


@triton.jit
def pieces(values, PRODUCTS: tl.constexpr):
    """The float16 number nearest to each value, and the one nearest to what is left (itself again if unused)."""
    high = values.to(tl.float16)
    if PRODUCTS == 3:
        return high, (values - high.to(tl.float32)).to(tl.float16)
    return high, high


@triton.jit
def product(a, a_low, b, b_low, total, PRODUCTS: tl.constexpr):
    """total + a b, small contributions first."""
    if PRODUCTS == 3:
        total = tl.dot(a_low, b, total)
        total = tl.dot(a, b_low, total)
    return tl.dot(a, b, total)
