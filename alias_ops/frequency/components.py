"""An image in two parts: by the distance of its frequencies to DC, or by its singular values."""

from numbers import Real
from typing import NamedTuple

import numpy as np
import torch

from .._checks import FLOATING, check_maps, check_positive
from ..ops._library import accumulation_dtype, like_input, outside_autocast

__all__ = ["Components", "Radius", "check_radius", "distances", "high_pass", "low_pass", "split", "svd_split"]

Radius = float | torch.Tensor
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


class Components(NamedTuple):
    """Two parts of x, in its shape and dtype.

    Attributes:
        low: the low frequencies, or what the largest singular values make.
        high: the rest, ``x - low``.
    """

    low: torch.Tensor
    high: torch.Tensor


def distances(height: int, width: int) -> torch.Tensor:
    """The distinct distances to DC of the bins of a height x width spectrum.

    A bin of the signed frequencies (k, l) has the distance ``sqrt(k^2 + l^2)``. Every low-pass that there is at this
    size is one of ``low_pass(x, r)`` with r among these, or x itself.

    Args:
        height, width: of the maps, positive ints.

    Returns:
        float64 [K] on the CPU, ascending, from 0 to that of the farthest bin.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Wang et al., CVPR 2020, section 3.
    """
    check_positive("height", height)
    check_positive("width", width)
    squares = np.add.outer(np.arange(height // 2 + 1) ** 2, np.arange(width // 2 + 1) ** 2)
    return torch.from_numpy(np.sqrt(np.unique(squares).astype(np.float64)))


def check_radius(radius: object, name: str = "radius") -> None:
    """Raise TypeError or ValueError unless ``radius`` is a number from 0 on; infinity is one."""
    if not isinstance(radius, Real) or isinstance(radius, bool):
        raise TypeError(f"{name} must be a non-negative number, got {radius!r}")
    if not float(radius) >= 0:
        raise ValueError(f"{name} must be a non-negative number, got {radius!r}")


def _check_radii(radius: torch.Tensor, x: torch.Tensor) -> None:
    came = f"{str(radius.dtype).removeprefix('torch.')} {list(radius.shape)}"
    expected = "radius must be a number, or a tensor of one [] or one per sample [N]"
    if radius.dtype not in (*FLOATING, *INTEGERS):
        raise TypeError(f"{expected}, got {came}")
    if radius.dim() > 1 or (radius.dim() == 1 and (x.dim() < 3 or len(radius) != len(x))):
        raise ValueError(f"{expected}, got {came} for an x {list(x.shape)}")


def _bins(x: torch.Tensor) -> torch.Tensor:
    """Distance to DC of every bin of the half spectrum of x [..., H, W]: [H, W // 2 + 1]."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device)
    rows, columns = torch.minimum(rows, height - rows), torch.arange(width // 2 + 1, device=x.device)
    # Squares are exact, so that equal distances are equal numbers.
    return (rows[:, None] ** 2 + columns**2).to(torch.float32 if x.device.type == "mps" else torch.float64).sqrt()


def _kept(x: torch.Tensor, radius: Radius) -> torch.Tensor:
    """Which bins of the half spectrum stay: bool [H, W // 2 + 1], or [N, ..., H, W // 2 + 1] by sample."""
    bins = _bins(x)
    if isinstance(radius, torch.Tensor):
        radius = radius.to(x.device).reshape(radius.shape + (1,) * (x.dim() - 1) * radius.dim())
        # In the radius's own precision, or a distance rounded up would exceed the same one in float64.
        bins = bins.to(radius.dtype) if radius.is_floating_point() else bins
    return bins < radius


def spectrum(x: torch.Tensor) -> torch.Tensor:
    """Half spectrum of real maps [..., H, W], in float32 at least."""
    return torch.fft.rfft2(x.to(accumulation_dtype(x.dtype)), norm="forward")


def low_of_spectrum(x: torch.Tensor, bins: torch.Tensor, radius: Radius) -> torch.Tensor:
    """The low frequencies of x, whose half spectrum ``bins`` is known. Not rounded for the sum with the rest."""
    kept = _kept(x, radius)
    # The mask is the same at (k, l) and (-k, -l): the inverse is real, and half of the spectrum has all of it.
    rows = torch.fft.ifft(bins * kept, dim=-2, norm="forward")
    low = torch.fft.irfft(rows, n=x.shape[-1], norm="forward")
    everything = kept.all(-1, keepdim=True).all(-2, keepdim=True)
    return like_input(torch.where(everything, x.to(low.dtype), low), x)


def parts(x: torch.Tensor, low: torch.Tensor) -> Components:
    """x in two, which make x again as exactly as two numbers of its dtype can; see :func:`split`.

    Works in place on low, which becomes ``x - high`` in value; derivatives are those of low and x - low. Where
    abs(low) <= abs(x) the difference is exact, by Dekker's Fast2Sum of x and -low.
    """
    high = x - low
    moved = (x.detach() - high.detach()).sub_(low.detach())
    # high may overflow in float16 where low does not.
    return Components(low.add_(moved.nan_to_num_(0.0, 0.0, 0.0)), high)


@outside_autocast
def _split(x: torch.Tensor, radius: Radius) -> Components:
    if x.numel() == 0:
        return Components(x.clone(), x.clone())
    return parts(x, low_of_spectrum(x, spectrum(x), radius))


def split(x: torch.Tensor, radius: Radius) -> Components:
    """x in its low and its high frequencies: LFC and HFC.

        low, high = alias_ops.frequency.split(images, 12)

    1. Transform each H x W map to its spectrum.
    2. Keep the bins whose Euclidean distance to DC is below the radius, in bins; signed frequencies, so of an even H
       the Nyquist bin is at H / 2. Zero the others.
    3. Transform back: this is ``low``, ``high`` is ``x - low``. Nothing imaginary is left, at any size: bins k and -k
       are equally far from DC.

    ``low + high`` equals x exactly wherever ``abs(low) <= abs(x)``, and wherever low is between x / 2 and 2 x. For
    that, low is moved by the rounding of high, at most a unit in the last place of the larger of the two. Where low
    is larger than x (the ringing in a dark region), the sum differs from x by at most half a unit in the last place
    of low: the small bits of x have no place in two larger numbers of the same dtype. ``torch.compile`` may keep more
    digits of half types between steps, and the sum is then exact to its rounding alone.

    Args:
        x: floating [..., H, W], real, any leading dimensions (empty ones included), any strides. bfloat16 and float16
            are computed in float32.
        radius: a non-negative number, a tensor of one, or [N] for x [N, ..., H, W]: one per sample. 0 keeps nothing,
            and beyond the largest of :func:`distances` low is x itself. Distances are rounded to the dtype of a
            floating tensor before they are compared; its values are not checked, and NaN keeps nothing.

    Returns:
        Components(low, high), in x's shape and dtype, channels_last if x is.

    Gradients: of any order with respect to x, forward mode and torch.func included; the radius has none.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Wang et al., CVPR 2020, section 3. The published code measures distances from (H / 2, H / 2), which at
    even sizes is DC and at odd ones is not.
    """
    check_maps(x)
    if isinstance(radius, torch.Tensor):
        _check_radii(radius, x)
    else:
        check_radius(radius)
    return _split(x, radius)


def low_pass(x: torch.Tensor, radius: Radius) -> torch.Tensor:
    """The low-frequency component of x, LFC(x, radius): ``split(x, radius).low``.

    Args:
        x, radius: as for :func:`split`.

    Returns:
        In x's shape and dtype. It may leave the range of x: edges ring.

    Gradients: of any order with respect to x.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Wang et al., CVPR 2020, section 3.
    """
    return split(x, radius).low


def high_pass(x: torch.Tensor, radius: Radius) -> torch.Tensor:
    """The high-frequency component of x, HFC(x, radius): ``split(x, radius).high``.

    Args:
        x, radius: as for :func:`split`.

    Returns:
        In x's shape and dtype; its mean over a map is 0 for any radius above 0.

    Gradients: of any order with respect to x.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Wang et al., CVPR 2020, section 3.
    """
    return split(x, radius).high


@outside_autocast
def _svd_split(x: torch.Tensor, k: int) -> Components:
    if x.numel() == 0 or k >= min(x.shape[-2:]):
        return Components(x.clone(), torch.zeros_like(x))
    u, s, vh = torch.linalg.svd(x.to(accumulation_dtype(x.dtype)), full_matrices=False)
    return parts(x, like_input((u[..., :k] * s[..., None, :k]) @ vh[..., :k, :], x))


def svd_split(x: torch.Tensor, k: int) -> Components:
    """x in its k largest singular values and the rest: the control that frequencies are compared with.

    1. Singular value decomposition of each H x W map.
    2. ``low`` is the product with the k largest singular values alone, the nearest matrix of rank k;
       ``high`` is ``x - low``.

    Args:
        x: floating [..., H, W], as for :func:`split`, and with the same promise on ``low + high``.
        k: a non-negative int. From min(H, W) on low is x itself.

    Returns:
        Components(low, high), in x's shape and dtype, channels_last if x is.

    Gradients: first order, as those of torch.linalg.svd, where the singular values of a map differ; not finite where
    two are equal, as the zeros of a flat map.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        torch.linalg.LinAlgError: x is not finite.

    Source: Wang et al., CVPR 2020, section 3.
    """
    check_maps(x)
    if not isinstance(k, int) or isinstance(k, bool):
        raise TypeError(f"k must be a non-negative int, got {k!r}")
    if k < 0:
        raise ValueError(f"k must be a non-negative int, got {k}")
    return _svd_split(x, k)
