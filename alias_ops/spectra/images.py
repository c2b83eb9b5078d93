"""Spectra of a batch of images: two-dimensional, and over rings of the same frequency."""

import math
from typing import NamedTuple

import torch

from .._checks import check_maps
from ..ops._library import accumulation_dtype

__all__ = ["RadialProfile", "check_floor", "check_images", "log_magnitude", "magnitude", "radial_profile", "spectrum"]

FLOOR = 1e-8


def check_images(x: torch.Tensor, name: str = "x") -> None:
    """Raise TypeError or ValueError unless x is floating [..., C, H, W], not empty."""
    check_maps(x, name)
    if x.dim() < 3 or x.numel() == 0:
        raise ValueError(f"{name} must be images [..., C, H, W], at least one, got {list(x.shape)}")


def check_floor(floor: float) -> None:
    """Raise ValueError unless floor is a positive number."""
    if not (isinstance(floor, (int, float)) and math.isfinite(floor) and floor > 0):
        raise ValueError(f"floor must be a positive number, got {floor!r}")


def magnitude(x: torch.Tensor) -> torch.Tensor:
    """``|fft2(x)|`` with ``norm="forward"``, zero frequency at [H // 2, W // 2]; [..., H, W] in float32 or float64."""
    wide = x.detach().to(accumulation_dtype(x.dtype))
    if not wide.numel():  # MKL's FFT of no image fails
        return wide
    transformed = torch.fft.fft2(wide, norm="forward")
    return torch.fft.fftshift(transformed.abs(), dim=(-2, -1))


def log_magnitude(x: torch.Tensor, floor: float) -> torch.Tensor:
    """log10 of :func:`magnitude`, of ``floor`` where it is less."""
    return magnitude(x).clamp_min(floor).log10()


def spectrum(x: torch.Tensor, *, floor: float = FLOOR) -> torch.Tensor:
    """Mean log-magnitude spectrum of a batch of images, channel by channel.

    1. Transforms each map: ``fft2(x, norm="forward")``, so that a constant image of 1 has a 1 at zero frequency,
       and, of one image, ``10 ** (2 * spectrum(x))`` sums up to the mean of its squares (Parseval).
    2. Takes log10 of the magnitudes: one unit is a factor of ten (20 dB). Magnitudes below ``floor`` count as
       ``floor``, since the logarithm of 0 is none; the default is about what rounding leaves in float32 of
       images in 0..1. Not log(1 + magnitude), which is no logarithm where magnitudes are far below 1, as those
       of a perturbation are.
    3. Means the logarithms over all images, and puts zero frequency into the middle.

    Args:
        x: floating [..., C, H, W], at least one image; half types are transformed in float32.
        floor: the least magnitude that is told apart from 0, in the units of x.

    Returns:
        [C, H, W], float64 for float64 and float32 for other dtypes, without graph: log10 of the magnitude in the
        units of x. Zero frequency is at [H // 2, W // 2]; index k - H // 2 is in waves an image height, divided by H
        in cycles a sample.

    Raises:
        TypeError: x is no floating tensor.
        ValueError: x has fewer than three dimensions or no image, or floor is not positive.

    Source: the centred log spectra of Wang et al., CVPR 2020, and Grabinski et al., ECCV 2022; the choice of the
    logarithm is this package's own.
    """
    check_images(x)
    check_floor(floor)
    return log_magnitude(x, floor).reshape(-1, *x.shape[-3:]).mean(0)


class RadialProfile(NamedTuple):
    """Spectrum over the distance from zero frequency.

    Args:
        frequency: [R], cycles a sample, the first one 0. 0.5 is the highest frequency of a row or a column;
            what is beyond lies in the corners, up to 0.71.
        level: [C, R], mean over each ring and all images: of log10 of the magnitude, or of the magnitude.
    """

    frequency: torch.Tensor
    level: torch.Tensor


def _rings(height: int, width: int, device: torch.device) -> torch.Tensor:
    """Number of the ring of each bin of a centred spectrum, int64 [height, width]."""
    longer = max(height, width)
    rows, cols = (
        torch.fft.fftshift(torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)) * longer / size
        for size in (height, width)
    )
    return (torch.hypot(rows[:, None], cols) + 0.5).floor().long().to(device)


def radial_profile(x: torch.Tensor, *, log: bool = True, floor: float = FLOOR) -> RadialProfile:
    """Spectrum of a batch of images over the distance from zero frequency.

    1. Takes the magnitudes as :func:`spectrum` does.
    2. Assigns each bin (k, l) to the ring of the integer nearest to ``L * sqrt((k / H)^2 + (l / W)^2)`` with
       L = max(H, W): the distance in waves an image side, if the image is square.
    3. Means over the bins of a ring and over all images.

    Args:
        x: floating [..., C, H, W], at least one image.
        log: mean of log10 of the magnitudes; False for the mean of the magnitudes themselves.
        floor: as for :func:`spectrum`; of no effect without ``log``.

    Returns:
        ``(frequency, level)``, see :class:`RadialProfile`, in the dtype of :func:`spectrum`.

    Raises:
        TypeError, ValueError: as :func:`spectrum`.

    Source: azimuthal mean, as of Grabinski et al., arXiv 2307.09804; rings and axes are this package's own.
    """
    check_images(x)
    check_floor(floor)
    height, width = x.shape[-2:]
    levels = log_magnitude(x, floor) if log else magnitude(x)
    mean = levels.reshape(-1, *x.shape[-3:]).mean(0).flatten(1)
    rings = _rings(height, width, x.device).flatten()
    count = torch.bincount(rings)
    sums = mean.new_zeros(len(mean), len(count)).index_add_(1, rings, mean)
    frequency = torch.arange(len(count), device=x.device, dtype=mean.dtype) / max(height, width)
    return RadialProfile(frequency, sums / count)
