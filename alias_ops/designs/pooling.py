"""Pooling spectra turned into the two factor matrices per term of ``separable2d``."""

from typing import Any

import numpy as np
import torch

from ._cache import constant
from .spectrum import axis_spectrum

__all__ = ["factor_dtype", "pooling_factors", "pooling_terms"]


def factor_dtype(x: torch.Tensor) -> torch.dtype:
    """float64 for the CPU kernels, which round once while packing; elsewhere what x is accumulated in."""
    return torch.float64 if x.is_cpu or x.dtype is torch.float64 else torch.float32


def _parts(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Real and imaginary part, elements that are rounding noise made exactly 0.

    Zeros carry structure: half-band columns, an imaginary part that vanishes. The kernels look for it.
    """
    noise = 64 * np.finfo(np.float64).eps * np.abs(matrix).max()
    return tuple(np.where(np.abs(part) <= noise, 0.0, part) for part in (matrix.real, matrix.imag))  # type: ignore[return-value]


@constant
def pooling_factors(
    pool: str,
    height: int,
    width: int,
    stride: tuple[int, int] = (2, 2),
    variant: str = "centered",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of ``y = sum_t left[t] x right[t]^T`` for a pooling of ``height`` x ``width`` maps.

    Args:
        pool: "flc" or "asap".
        height, width: size of a map.
        stride: downsampling factor along (height, width).
        variant: see ``VARIANTS``.
        dtype, device: of the factors; they are computed in float64 on the CPU and then cast.

    Returns:
        left [T, M, height] and right [T, N, width], with T = 1 where one of the imaginary parts
        vanishes and T = 2 otherwise. The tensors are cached: treat them as read-only.

    Equation: ``Re(A x B^T) = Re(A) x Re(B)^T - Im(A) x Im(B)^T``, A and B from
    :func:`axis_spectrum`.
    """
    a_real, a_imag = _parts(axis_spectrum(pool, height, stride[0], variant).matrix())
    b_real, b_imag = _parts(axis_spectrum(pool, width, stride[1], variant).matrix())
    left, right = [a_real], [b_real]
    if a_imag.any() and b_imag.any():
        left.append(a_imag)
        right.append(-b_imag)
    return tuple(torch.from_numpy(np.stack(f)).to(device=device, dtype=dtype) for f in (left, right))  # type: ignore[return-value]


@constant
def pooling_terms(*args: Any) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """:func:`pooling_factors` term by term, to multiply from the left and from the right: [M, height] and [width, N].

    Tensors of their own: a graph that holds them need not take them out of anything.
    """
    left, right = pooling_factors(*args)
    return tuple((a.clone(), b.mT.contiguous()) for a, b in zip(left, right, strict=True))
