"""Identity 7's lines, per axis: the spectra of single rows and columns of x by which a layer's map differs from
the full correlation.
"""

import torch

from ._cache import cached
from .aliasing import low_band_rows
from .conv2d import correlation_size, frame_sources, input_rows, shifted_by_taps, tap_phases

__all__ = ["cropped_rows", "edge_samples", "full_rows"]


@cached
def cropped_rows(size: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """Kept spectrum of what a layer keeps of a correlation along an axis, tap by tap.

    Returns:
        float64 [2, kernel, h+1, size], real and imaginary part: summed over the taps with their weights it
        is the spectrum of ``g[0..L1)`` with its last sample replicated up to L, from the input samples.
    """
    stride_1 = correlation_size(size, kernel, padding, dilation)
    shifted = shifted_by_taps(low_band_rows(stride_1, stride), size, kernel, padding, dilation)
    return shifted.transpose(0, 1).contiguous()


@cached
def full_rows(size: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """The same of the full correlation, nothing cropped: float64 [2, kernel, h+1, size]."""
    phases, rows = (
        torch.complex(*table(size, kernel, stride, padding, dilation)) for table in (tap_phases, input_rows)
    )
    product = phases.mT[..., None] * rows
    return torch.stack([product.real, product.imag])


def edge_samples(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, ...]:
    """The input samples that the frame's lines meet, each once."""
    sources = frame_sources(size, kernel, stride, padding, dilation)
    return tuple(sorted({source for line in sources for source in line if source >= 0}))
