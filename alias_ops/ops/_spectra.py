"""Half-plane spectra of real maps by small dense products, their adjoints, and their weighted L1 norm.

Bins come first and maps last: a bin's values are then a matrix, [images, channels], for a convolution's sum.
Conjugates are written out (``conj_physical``): where an op runs inside a compiled graph, PyTorch takes the
lazy ones for what they conjugate.
"""

import torch
import torch.nn.functional as F

__all__ = [
    "alias_spectrum",
    "bin_weights",
    "both_signs",
    "both_signs_adjoint",
    "dense",
    "dense_adjoint",
    "half_plane",
    "half_plane_adjoint",
    "l1_norm",
    "parts",
    "subtract_low",
]


def dense(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Real [..., S] times the rows of table [2, f, S] (real and imaginary part): complex [f, ...]."""
    return torch.complex(x @ table[0].mT, x @ table[1].mT).movedim(-1, 0)


def dense_adjoint(spectrum: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Adjoint of :func:`dense` as a real-linear map: complex [f, ...] -> real [..., S]."""
    both = torch.cat([spectrum.real, spectrum.imag]).flatten(1)
    return (both.mT @ table.flatten(0, 1)).view(*spectrum.shape[1:], table.shape[-1])


def parts(z: torch.Tensor) -> torch.Tensor:
    """Complex [...] -> real [2, ...]."""
    return torch.stack([z.real, z.imag])


def both_signs(along: torch.Tensor) -> torch.Tensor:
    """Spectra [f, 2, ...] of the two :func:`parts` of something complex -> its spectrum [2, f, ...] at +f and -f."""
    (a, b), (c, d) = ((z.real, z.imag) for z in along.unbind(1))
    return torch.complex(torch.stack([a - d, a + d]), torch.stack([b + c, c - b]))


def both_signs_adjoint(spectrum: torch.Tensor) -> torch.Tensor:
    """Complex [2, f, ...] -> [f, 2, ...]."""
    plus, minus = spectrum[0], spectrum[1].conj_physical()
    return torch.stack([plus + minus, (plus - minus) * -1j], 1)


def half_plane(maps: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Spectrum of real maps [..., H, W] at the frequencies (+f, g) and (-f, g), f and g >= 0.

    Args:
        rows, cols: tables [2, f, H] and [2, g, W] as of :func:`dense`.

    Returns:
        complex [2, f, g, ...]: index 0 of the first dimension is +f, 1 is -f.
    """
    return both_signs(dense(parts(dense(maps, cols)), rows))


def half_plane_adjoint(spectrum: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Adjoint of :func:`half_plane`: complex [2, f, g, ...] -> real [..., H, W]."""
    along = dense_adjoint(both_signs_adjoint(spectrum), rows)
    return dense_adjoint(torch.complex(along[0], along[1]), cols)


def subtract_low(spectrum: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """spectrum - low, where low [2, h+1, h'+1, ...] covers the kept bins of spectrum alone."""
    gap = [spectrum.shape[d] - low.shape[d] for d in (2, 1)]
    return spectrum - F.pad(low, (*(0, 0) * (low.dim() - 3), 0, gap[0], 0, gap[1]))


def alias_spectrum(maps: torch.Tensor, tables_h, tables_w, stride: tuple[int, int]) -> torch.Tensor:
    """D of stride-1 maps: the spectrum of their samples on the strided grid less their own low band."""
    (low_h, dft_h), (low_w, dft_w) = tables_h, tables_w
    strided = half_plane(maps[..., :: stride[0], :: stride[1]], dft_h, dft_w)
    return subtract_low(strided, half_plane(maps, low_h, low_w))


def _multiplicity(bins: int, outputs: int, like: torch.Tensor) -> torch.Tensor:
    """How many bins of a full spectrum a non-negative frequency stands for: 1 for DC and Nyquist, else 2."""
    count = like.new_full((bins,), 2.0)
    count[0] = 1.0
    if outputs % 2 == 0:
        count[-1] = 1.0
    return count


def bin_weights(spectrum: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """How often each bin of a half plane [2, N // 2 + 1, M // 2 + 1, ...] counts in the sum over the full plane.

    The bins (f, g) and (-f, -g) of a real map are conjugate, so (+-f, g >= 0) says it all; a bin
    that both signs name counts half each time.
    """
    like = spectrum.real
    rows, cols = (_multiplicity(spectrum.shape[d + 1], outputs[d], like) for d in (0, 1))
    return torch.outer(rows, cols).reshape(*spectrum.shape[1:3], *(1,) * (spectrum.dim() - 3)) / 2


def l1_norm(spectrum: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """Sum of |D| over the full plane of N x M bins, from its half plane. |0| has gradient 0."""
    return (spectrum.abs() * bin_weights(spectrum, outputs)).sum((0, 1, 2))
