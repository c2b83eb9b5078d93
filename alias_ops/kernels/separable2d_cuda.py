"""``separable2d`` by the CUDA C++ kernels: what they are made for, and the tables that they read.

Square maps of the sides in SIDES and results of half of them, or the other way round; contiguous; one term, or a second
one of rank 1. Half-band axes are taken at half of the products. Everything else is for the Triton kernels.
"""

from typing import NamedTuple

import numpy as np
import torch

from ._precision import tf32_allowed
from ._tables import remembered
from .separable2d_plan import outer_vectors

__all__ = ["DENSE", "HALF_IN", "HALF_OUT", "PRECISIONS", "SIDES", "factors_of", "separable2d"]

# The larger side of a map or of its result.
SIDES = (8, 14, 16, 28, 32, 56, 64, 112)

# As csrc/cuda/separable2d_plan.h numbers them.
DENSE, HALF_IN, HALF_OUT = 0, 1, 2

# As csrc/cuda/ops.h numbers them; 1 is float32 where TF32 is allowed.
PRECISIONS = {torch.float32: 0, torch.bfloat16: 2, torch.float16: 3}


class Prepared(NamedTuple):
    """Of a pair of factors: the form of the kernel, and its tables on the device as bytes."""

    form: int
    tables: torch.Tensor


def _copied(a: np.ndarray, noise: float) -> float | None:
    """What the even samples of a half-band axis [M, 2 M] are multiplied by; None if it is not one."""
    if a.shape[1] != 2 * a.shape[0]:
        return None
    even = a[:, ::2]
    scale = float(even[0, 0])
    return scale if (np.abs(even - scale * np.eye(len(even))) <= noise * abs(scale)).all() else None


def factors_of(left: np.ndarray, right: np.ndarray, adjoint: bool, rounding: float) -> tuple[int, np.ndarray] | None:
    """The form of a pair of float64 factors [T, M, H] and [T, N, W], and the numbers that tables are made of.

    Args:
        adjoint: whether the adjoint is asked for.
        rounding: eps of the dtype in which the factors were given; structure is looked for to within that.

    Returns:
        None if no kernel is made for them. The form, then flat: left and right as [out, in], the constants of the even
        samples of left and of right (0 if dense), whether there is a second term, its in_h, in_w, out_h, out_w.
    """
    if adjoint:
        left, right = left.swapaxes(1, 2), right.swapaxes(1, 2)
    (out, size), sides = left.shape[1:], (left.shape[1:], right.shape[1:])
    if sides[0] != sides[1] or max(out, size) not in SIDES or max(out, size) != 2 * min(out, size):
        return None
    vectors = [np.zeros(n) for n in (size, size, out, out)]
    if len(left) == 2:
        found = outer_vectors(left, right, max(4 * rounding, 1e-13))
        if found is None:
            return None
        vectors = found
    if not all(np.isfinite(v).all() for v in (left, right)):
        return None
    form, copied = DENSE, [0.0, 0.0]
    flat = size < out
    axes = [_copied(f[0].T if flat else f[0], max(2 * rounding, 1e-14)) for f in (left, right)]
    halved = all(c is not None for c in axes) and (flat or not vectors[1][::2].any())
    if halved:
        form, copied = HALF_OUT if flat else HALF_IN, [float(c or 0.0) for c in axes]
    parts = [left[0].ravel(), right[0].ravel(), [*copied, float(len(left) == 2)], *vectors]
    return form, np.concatenate(parts)


def _prepared(
    left: np.ndarray, right: np.ndarray, adjoint: bool, rounding: float, precision: int, device: torch.device
) -> Prepared | None:
    found = factors_of(left, right, adjoint, rounding)
    if found is None:
        return None
    form, factors = found
    out, size = left.shape[1:] if not adjoint else left.shape[:0:-1]
    tables = torch.ops.alias_ops._cuda_separable2d_tables(torch.from_numpy(factors), size, out, form, precision)
    return Prepared(form, tables.to(device))


def _packed(t: torch.Tensor) -> bool:
    return t.is_contiguous() and t.data_ptr() % 16 == 0


def separable2d(
    x: torch.Tensor, left: torch.Tensor, right: torch.Tensor, adjoint: bool = False, *, out: torch.Tensor
) -> bool:
    """Write ``sum_t left[t] x right[t]^T``, or the adjoint's, to ``out`` if there is a kernel for the call.

    Args:
        x: [..., H, W].
        left, right: [T, M, H] and [T, N, W]; [T, H, M] and [T, W, N] with ``adjoint``.
        out: [..., M, N] in x's dtype.

    Returns:
        False if there is none; ``out`` is as it was.
    """
    height, width = x.shape[-2:]
    if x.dtype not in PRECISIONS or height != width or not (_packed(x) and _packed(out)):
        return False
    if max(height, out.shape[-1]) not in SIDES:
        return False
    if out.numel() == 0:
        return True
    precision = PRECISIONS[x.dtype]
    rounding = min(torch.finfo(left.dtype).eps, torch.finfo(torch.float32).eps)
    prepared = remembered(_prepared, (left, right), adjoint, rounding, precision, x.device)
    if prepared is None:
        return False
    tf32 = precision == 0 and tf32_allowed("cuda")
    return torch.ops.alias_ops._cuda_separable2d(x, prepared.tables, prepared.form, tf32, out)
