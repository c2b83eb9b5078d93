"""Factors of the aliasing measure of a convolution: identity 4 (shifted) and identity 7 (spectral), per axis."""

import numpy as np
import torch

from ._cache import cached, constant
from ._roots import roots
from .aliasing import _split, dft_rows, half_band, low_pass, replica_sum, subsample
from .spectrum import output_size

__all__ = [
    "ConvTables",
    "conv_tables",
    "correlation_size",
    "frame_lines",
    "frame_sources",
    "input_rows",
    "shifted_by_taps",
    "tap_factors",
    "tap_phases",
]

# What the kernel of conv2d_alias_l1 needs of one axis: input_rows, tap_phases, frame weights,
# frame sources, dft_rows, P of a single tap.
ConvTables = list[torch.Tensor]


def correlation_size(size: int, kernel: int, padding: int, dilation: int) -> int:
    """L1: outputs of the convolution run with stride 1."""
    return size + 2 * padding - dilation * (kernel - 1)


def _length(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    stride_1 = correlation_size(size, kernel, padding, dilation)
    return stride_1, output_size(stride_1, stride) * stride


def shifted_by_taps(whole: torch.Tensor, size: int, kernel: int, padding: int, dilation: int) -> torch.Tensor:
    """``whole`` [..., L1] of the stride-1 outputs, as of the input: [kernel, ..., size], shifted by each tap."""
    stride_1 = whole.shape[-1]
    shifted = whole.new_zeros(kernel, *whole.shape[:-1], size)
    for tap in range(kernel):
        offset = tap * dilation - padding
        first, last = max(0, -offset), min(stride_1, size - offset)
        if first < last:
            shifted[tap, ..., first + offset : last + offset] = whole[..., first:last]
    return shifted


@cached
def tap_factors(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 4: S and P with their columns shifted by each tap.

    Returns:
        (S, P), each float64 [kernel, N, size], with padding, dilation and replication folded in:
        the residual of the layer is ``sum_taps w_tap (S_dy x S_dx^T - P_dy x P_dx^T)``.
    """
    stride_1, _ = _length(size, kernel, stride, padding, dilation)
    geometry = (size, kernel, padding, dilation)
    return (
        shifted_by_taps(subsample(stride_1, stride), *geometry),
        shifted_by_taps(low_pass(stride_1, stride), *geometry),
    )


@cached
def input_rows(size: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """Identity 7: ``exp(-2j pi f j / L) / L`` for the kept f = 0..h and the input samples j.

    Returns:
        float64 [2, h+1, size], real and imaginary part.
    """
    stride_1, length = _length(size, kernel, stride, padding, dilation)
    f = np.arange(half_band(stride_1, stride) + 1)
    return _split(roots(-np.outer(f, np.arange(size)), length) / length)


@cached
def tap_phases(size: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """Identity 7: ``exp(+2j pi f (t d - p) / L)`` for f = 0..h and the taps t.

    Returns:
        float64 [2, h+1, kernel], real and imaginary part.
    """
    stride_1, length = _length(size, kernel, stride, padding, dilation)
    f = np.arange(half_band(stride_1, stride) + 1)
    return _split(roots(np.outer(f, np.arange(kernel) * dilation - padding), length))


@cached
def frame_lines(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 7: the lines of the full correlation by which it differs from what the layer keeps.

    Returns:
        weights: float64 [2, lines, h+1], c_a(f): minus the phase of a line outside the layer's
        outputs, or the summed phases of the replicas of its last line.
        sources: int64 [lines, kernel], the input sample that each tap meets on the line, -1 for none.
    """
    stride_1, length = _length(size, kernel, stride, padding, dilation)
    f = np.arange(half_band(stride_1, stride) + 1)
    reach = dilation * (kernel - 1)
    outside = [*range(-(reach - padding), 0), *range(stride_1, size + padding)]
    lines = [(n, -roots(-f * n, length) / length) for n in outside]
    if length > stride_1:
        replicas = replica_sum(f, stride_1, length) / length
        lines.append((stride_1 - 1, replicas))
    taps = np.arange(kernel) * dilation - padding
    kept = []
    for n, weight in lines:
        source = n + taps
        source[(source < 0) | (source >= size)] = -1
        if (source >= 0).any():
            kept.append((weight, source))
    weights = np.stack([w for w, _ in kept]) if kept else np.zeros((0, len(f)), complex)
    sources = np.stack([s for _, s in kept]) if kept else np.zeros((0, kernel), np.int64)
    return _split(weights), torch.from_numpy(sources)


@constant
def frame_sources(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[tuple[int, ...], ...]:
    """The sources of :func:`frame_lines` as numbers, for code that indexes by them."""
    return tuple(map(tuple, frame_lines(size, kernel, stride, padding, dilation)[1].tolist()))


@constant
def conv_tables(
    size: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> ConvTables:
    """Tables of one axis for the op ``conv2d_alias_l1``.

    Returns:
        [input_rows, tap_phases, frame weights, frame sources, dft_rows, P]; the sources are int64
        whatever ``dtype``, and stay on the CPU, where they are looked at. P (identity 4) serves
        kernels of one tap and is empty for others.
    """
    geometry = (size, kernel, stride, padding, dilation)
    outputs = output_size(correlation_size(size, kernel, padding, dilation), stride)
    weights, sources = frame_lines(*geometry)
    low = tap_factors(*geometry)[1][0] if kernel == 1 else torch.zeros(0, size, dtype=torch.float64)
    tables = [input_rows(*geometry), tap_phases(*geometry), weights, sources, dft_rows(outputs), low]
    return [table if table is sources else table.to(device, dtype) for table in tables]
