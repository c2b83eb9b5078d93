"""A pooling's spectrum along one axis: which bins it keeps, how it weighs them, where it puts them."""

from dataclasses import dataclass

import numpy as np

from ._roots import roots

__all__ = ["POOLS", "VARIANTS", "AxisSpectrum", "axis_spectrum", "output_size"]

POOLS = ("flc", "asap")
VARIANTS = {
    "flc": ("centered", "upstream"),
    "asap": ("centered", "upstream", "upstream_pad1", "upstream_padlarge"),
}


@dataclass(frozen=True)
class AxisSpectrum:
    """One axis of a pooling, as the papers write it.

    ``x`` is zero-padded by ``pad`` samples (before, after), transformed, ``window[i] * X[source[i]]``
    goes to bin ``target[i]`` of a transform of ``length`` bins, and the inverse is cropped to
    ``crop`` (start, stop). Both transforms use ``norm="forward"``.
    """

    size: int
    pad: tuple[int, int]
    source: np.ndarray
    window: np.ndarray
    target: np.ndarray
    length: int
    crop: tuple[int, int]

    @property
    def padded(self) -> int:
        return self.size + sum(self.pad)

    def matrix(self) -> np.ndarray:
        """The complex factor ``A``, complex128 [crop length, size], of ``y = Re(A x B^T)``."""
        m = np.arange(*self.crop)
        h = np.arange(self.size) + self.pad[0]
        inverse = roots(np.outer(m, self.target), self.length)
        forward = roots(-np.outer(self.source, h), self.padded) / self.padded
        return (inverse * self.window) @ forward


def output_size(size: int, stride: int) -> int:
    """Number of samples that a layer of ``stride`` keeps of ``size``."""
    return -(-size // stride)


def _centered(pool: str, size: int, stride: int) -> AxisSpectrum:
    kept = output_size(size, stride)
    k = np.arange(kept) - kept // 2
    window = np.ones(kept)
    if pool == "asap":
        window = np.sqrt(0.54 + 0.46 * np.cos(2 * np.pi * k / size))
    return AxisSpectrum(size, (0, 0), k % size, window, k % kept, kept, (0, kept))


def _upstream_crop(size: int) -> tuple[int, int]:
    # The published slice, with its float arithmetic: int(size / 4 * 3), not 3 * size // 4.
    return int(size / 4), int(size / 4 * 3)


def _upstream(pool: str, variant: str, size: int) -> AxisSpectrum:
    pad = (0, 0)
    if variant == "upstream_pad1":
        pad = (0, 1)
    elif variant == "upstream_padlarge":
        pad = (int(size / 2 - 1), int(size / 2))
    padded = size + sum(pad)
    start, stop = _upstream_crop(padded)
    kept = stop - start
    shifted = np.arange(start, stop)
    window = np.ones(kept)
    if pool == "asap":
        window = np.sqrt(np.hamming(padded))[start:stop]
    # The published modules undo the shift as if DC sat at kept // 2; for padded = 2 mod 4 it does not.
    target = (np.arange(kept) - kept // 2) % kept  # of nothing kept there is nothing to divide
    crop = _upstream_crop(kept) if variant == "upstream_padlarge" else (0, kept)
    return AxisSpectrum(size, pad, (shifted - padded // 2) % padded, window, target, kept, crop)


def axis_spectrum(pool: str, size: int, stride: int = 2, variant: str = "centered") -> AxisSpectrum:
    """The spectrum of ``pool`` along an axis of ``size`` samples.

    Args:
        pool: "flc" or "asap".
        size: samples along the axis, at least 1.
        stride: downsampling factor, at least 1; the upstream variants know 2 alone.
        variant: one of ``VARIANTS[pool]``.

    Raises:
        ValueError: unknown pool or variant, a stride the variant does not have, or a size from
            which the variant keeps nothing.

    Equations: Grabinski et al., arXiv 2307.09804, section 3 (FLC, ASAP); the upstream variants
    repeat the published modules bin by bin.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {POOLS}, got {pool!r}")
    if variant not in VARIANTS[pool]:
        raise ValueError(f"variant of {pool} must be one of {VARIANTS[pool]}, got {variant!r}")
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    if variant == "centered":
        return _centered(pool, size, stride)
    if stride != 2:
        raise ValueError(f"stride must be 2 for variant {variant!r}, got {stride}")
    spectrum = _upstream(pool, variant, size)
    if spectrum.crop[1] - spectrum.crop[0] < 1:
        raise ValueError(f"variant {variant!r} keeps nothing of {size} samples; use at least {_smallest(variant)}")
    return spectrum


def _smallest(variant: str) -> int:
    size = 1
    while True:
        spectrum = _upstream("asap", variant, size)
        if spectrum.crop[1] > spectrum.crop[0]:
            return size
        size += 1
