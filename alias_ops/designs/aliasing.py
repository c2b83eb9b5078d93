"""Factors of the aliasing measure: subsampling, low pass, residual, and small DFTs, per axis."""

import numpy as np
import torch

from ._cache import cached, constant
from ._roots import roots
from .spectrum import output_size

__all__ = [
    "AliasTables",
    "alias_tables",
    "dft_rows",
    "half_band",
    "low_band_rows",
    "low_pass",
    "residual_factors",
    "subsample",
]

# What the kernel of alias_l1 needs of one axis: low_band_rows, dft_rows.
AliasTables = list[torch.Tensor]


def half_band(size: int, stride: int) -> int:
    """h: the measure keeps the signed frequencies -h..h of an axis (2 h < number of outputs)."""
    return (output_size(size, stride) - 1) // 2


def _split(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([values.real, values.imag]))


def replica_sum(f: np.ndarray, first: int, length: int) -> np.ndarray:
    """Summed phases ``exp(-2j pi f n / L)`` of the samples first..L-1, which are replicas of the last one.

    Where one output is left, f is 0 alone and L as large as any stride: count, do not list.
    """
    if len(f) == 1:
        return np.array([length - first], dtype=complex)
    return roots(-np.outer(np.arange(first, length), f), length).sum(0)


@cached
def low_band_rows(size: int, stride: int) -> torch.Tensor:
    """Forward DFT of a replicated map at the kept frequencies 0..h.

    Returns:
        float64 [2, h+1, size]: real and imaginary part of ``exp(-2j pi f n / L) / L``,
        L = ceil(size / stride) * stride, the replicas' columns folded onto the last sample.
    """
    length = output_size(size, stride) * stride
    f = np.arange(half_band(size, stride) + 1)
    rows = roots(-np.outer(f, np.arange(size)), length)
    rows[:, -1] += replica_sum(f, size, length)
    return _split(rows / length)


@cached
def dft_rows(length: int) -> torch.Tensor:
    """Forward DFT of a real axis, non-negative frequencies: float64 [2, length // 2 + 1, length]."""
    f = np.arange(length // 2 + 1)
    return _split(roots(-np.outer(f, np.arange(length)), length) / length)


@cached
def subsample(size: int, stride: int) -> torch.Tensor:
    """S of identity 3: float64 [ceil(size / stride), size], row i selects sample i * stride."""
    kept = output_size(size, stride)
    s = torch.zeros(kept, size, dtype=torch.float64)
    s[torch.arange(kept), torch.arange(kept) * stride] = 1.0
    return s


@cached
def low_pass(size: int, stride: int) -> torch.Tensor:
    """P of identity 3: float64 [ceil(size / stride), size].

    The kept frequencies -h..h of the replicated axis, sampled on the strided grid; the Nyquist bin
    of an even number of outputs is zero, so P is real.
    """
    kept = output_size(size, stride)
    length = kept * stride
    f = np.arange(-half_band(size, stride), half_band(size, stride) + 1)
    rows = roots(-np.outer(f, np.arange(size)), length)
    rows[:, -1] += replica_sum(f, size, length)
    return torch.from_numpy((roots(np.outer(np.arange(kept), f), kept) @ rows).real / length)


@cached
def residual_factors(height: int, width: int, stride: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """left, right of the residual ``r = g[::s, ::s] - P g P^T`` as one ``separable2d``.

    Returns:
        left = [S, -P] float64 [2, N, height] and right = [S, P] float64 [2, M, width]
        (identity 3 of the design).
    """
    left = torch.stack([subsample(height, stride[0]), -low_pass(height, stride[0])])
    right = torch.stack([subsample(width, stride[1]), low_pass(width, stride[1])])
    return left, right


@constant
def alias_tables(
    size: int, stride: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> AliasTables:
    """Tables of one axis for the op ``alias_l1``: [low_band_rows, dft_rows]."""
    tables = [low_band_rows(size, stride), dft_rows(output_size(size, stride))]
    return [table.to(device, dtype) for table in tables]
