"""Roots of unity from exact integer phases, so that factors are right to the last bits at any size."""

import numpy as np

__all__ = ["roots"]


def roots(numerator, length: int) -> np.ndarray:
    """``exp(2j*pi*numerator/length)`` in complex128.

    The phase is reduced as an integer before it becomes a float: ``cos`` of a large angle would
    lose the digits that a 1000-point transform needs.
    """
    phase = np.mod(np.asarray(numerator, dtype=np.int64), length)
    return np.exp(2j * np.pi * phase / length)
