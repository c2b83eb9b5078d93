"""Half-plane spectra of real maps by small dense products, and their weighted L1 norm."""

import torch
import torch.nn.functional as F

__all__ = ["bin_weights", "half_plane", "half_plane_adjoint", "l1_norm", "subtract_low"]


def half_plane(maps: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Spectrum of real maps [..., H, W] at the frequencies (+f, g) and (-f, g), f and g >= 0.

    Args:
        rows: [2, f, H], real and imaginary part of the DFT rows along the height.
        cols: [2, g, W], the same along the width.

    Returns:
        complex [..., 2, f, g]: index 0 of the third dimension from the end is +f, 1 is -f.
    """
    along = torch.complex(maps @ cols[0].mT, maps @ cols[1].mT)
    both = torch.stack([torch.complex(rows[0], rows[1]), torch.complex(rows[0], -rows[1])])
    return both @ along.unsqueeze(-3)


def half_plane_adjoint(spectrum: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    """Adjoint of :func:`half_plane` as a real-linear map: complex [..., 2, f, g] -> real [..., H, W]."""
    plus, minus = spectrum.unbind(-3)
    # Re(conj(row) s) over +f and conj(f) for -f: the sum meets the cosine rows, the difference the sine rows.
    cosine, sine = rows[0].mT.to(spectrum.dtype), rows[1].mT.to(spectrum.dtype)
    along = cosine @ (plus + minus) - 1j * (sine @ (plus - minus))
    return along.real @ cols[0] + along.imag @ cols[1]


def subtract_low(spectrum: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """spectrum - low, where low [..., 2, h+1, h'+1] covers the kept bins of spectrum alone."""
    gap = [spectrum.shape[d] - low.shape[d] for d in (-1, -2)]
    return spectrum - F.pad(low, (0, gap[0], 0, gap[1]))


def _multiplicity(bins: int, outputs: int, like: torch.Tensor) -> torch.Tensor:
    """How many bins of a full spectrum a non-negative frequency stands for: 1 for DC and Nyquist, else 2."""
    count = like.new_full((bins,), 2.0)
    count[0] = 1.0
    if outputs % 2 == 0:
        count[-1] = 1.0
    return count


def bin_weights(spectrum: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """How often each bin of a half plane [..., 2, N // 2 + 1, M // 2 + 1] counts in the sum over the full plane.

    The bins (f, g) and (-f, -g) of a real map are conjugate, so (+-f, g >= 0) says it all; a bin
    that both signs name counts half each time.
    """
    like = spectrum.real
    rows, cols = (_multiplicity(spectrum.shape[d - 2], outputs[d], like) for d in (0, 1))
    return torch.outer(rows, cols) / 2


def l1_norm(spectrum: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """Sum of |D| over the full plane of N x M bins, from its half plane. |0| has gradient 0."""
    return (spectrum.abs() * bin_weights(spectrum, outputs)).sum((-3, -2, -1))
