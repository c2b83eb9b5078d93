"""Tables of the aliasing measure: real transforms packed so that every row of a table is used.

A real axis of N samples has the frequencies 0 ... N / 2. Row 2 f of a table is the cosine row of frequency f, row
2 f + 1 its sine row. Frequency 0 has no sine; in its place stands the cosine row of N / 2, which has none either.
"""

from typing import NamedTuple

import numpy as np
import torch

from .. import designs
from ._tables import UNIT_ROWS, exponent_for_left, exponent_for_right, table

__all__ = ["AliasTables", "adjoint_factors", "alias_tables", "rows_of"]


class AliasTables(NamedTuple):
    """The spectrum of a residual, ``left[0] x[::s, ::s] right[0]^T + left[1] x right[1]^T``, scaled by ``factors``."""

    left: tuple[torch.Tensor, torch.Tensor]
    right: tuple[torch.Tensor, torch.Tensor]
    factors: tuple[float, float]


def rows_of(size: int, stride: int) -> int:
    """Rows of an axis' tables: two for each of the frequencies below N / 2."""
    return 2 * (designs.half_band(size, stride) + 1)


def _packed(rows: np.ndarray, outputs: int) -> np.ndarray:
    """[2, frequencies, length] -> [2 * ceil(outputs / 2), length]."""
    below = (outputs + 1) // 2
    packed = rows[:, :below].swapaxes(0, 1).reshape(2 * below, -1).copy()
    packed[1] = rows[0, outputs // 2] if outputs % 2 == 0 and rows.shape[1] > below else 0.0
    return packed


def _axis(size: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The strided axis' transform, and that of the kept band of the whole one: its N / 2 row is zero."""
    outputs = designs.output_size(size, stride)
    both = designs.dft_rows(outputs).numpy(), designs.low_band_rows(size, stride).numpy()
    return _packed(both[0], outputs), _packed(both[1], outputs)


def alias_tables(height: int, width: int, stride: tuple[int, int], device: torch.device) -> AliasTables:
    """The tables of a size."""
    (dft_h, low_h), (dft_w, low_w) = _axis(height, stride[0]), _axis(width, stride[1])
    to_left = min(exponent_for_left(t[None]) for t in (dft_h, low_h))
    to_right = min(exponent_for_right(t[None]) for t in (dft_w, low_w))

    left = (
        table(dft_h[None], to_left, device, UNIT_ROWS).values,
        table(-low_h[None], to_left, device, UNIT_ROWS).values,
    )
    right = table(dft_w[None], to_right, device).values, table(low_w[None], to_right, device).values
    return AliasTables(left, right, (2.0**-to_left, 2.0**-to_right))


def adjoint_factors(height: int, width: int, stride: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """left [2, height, rows], right [2, width, rows]: the adjoint as a separable2d of packed spectra."""
    factors = []
    for size, step, sign in ((height, stride[0], -1.0), (width, stride[1], 1.0)):
        dft, low = _axis(size, step)
        strided = np.zeros((dft.shape[0], size))
        strided[:, ::step] = dft
        factors.append(np.stack([strided.T, sign * low.T]))
    return factors[0], factors[1]
