"""FLC and ASAP pooling as the papers write them: transform, window, crop, invert, real part."""

import torch

from ..designs import axis_spectrum

__all__ = ["asap_pool2d", "flc_pool2d", "flc_pool2d_fft2", "flc_pool2d_rfft", "flc_pool2d_rfft2"]


def _pair(stride) -> tuple[int, int]:
    return (stride, stride) if isinstance(stride, int) else (stride[0], stride[1])


def _pool(pool: str, x: torch.Tensor, stride, variant: str) -> torch.Tensor:
    for dim, step in zip((-2, -1), _pair(stride), strict=True):
        axis = axis_spectrum(pool, x.shape[dim], step, variant)
        x = x.movedim(dim, -1)
        x = torch.fft.fft(torch.nn.functional.pad(x, axis.pad), norm="forward")
        window = torch.as_tensor(axis.window, device=x.device).to(x.real.dtype)
        kept = x[..., torch.as_tensor(axis.source, device=x.device)] * window
        spectrum = x.new_zeros((*x.shape[:-1], axis.length))
        spectrum = spectrum.index_copy(-1, torch.as_tensor(axis.target, device=x.device), kept)
        x = torch.fft.ifft(spectrum, norm="forward")[..., slice(*axis.crop)].movedim(-1, dim)
    return x.real


def flc_pool2d(x: torch.Tensor, stride=2, *, variant: str = "centered") -> torch.Tensor:
    """FLC pooling with ``torch.fft``: the low frequencies of x [..., H, W], at their own sampling rate.

    Grabinski et al., ECCV 2022, equation 2. Slow and obvious; differentiable; float32 or float64.
    """
    return _pool("flc", x, stride, variant)


def asap_pool2d(x: torch.Tensor, stride=2, *, variant: str = "centered") -> torch.Tensor:
    """ASAP pooling with ``torch.fft``: FLC under the square root of a Hamming window.

    Grabinski et al., arXiv 2307.09804, section 3.2. Slow and obvious; differentiable; float32 or float64.
    """
    return _pool("asap", x, stride, variant)


def flc_pool2d_fft2(x: torch.Tensor) -> torch.Tensor:
    """The calls of the published FLC module (s = 2) on x [..., H, W]: ``variant="upstream"``, as people run it.

    For benchmarks: shift the whole complex spectrum, crop it, shift back, invert. As there, the shifts go over
    batch and channels too, which cancels and costs.
    """
    height, width = x.shape[-2:]
    shifted = torch.fft.fftshift(torch.fft.fft2(x, norm="forward"))
    low = shifted[..., int(height / 4) : int(height / 4 * 3), int(width / 4) : int(width / 4 * 3)]
    return torch.fft.ifft2(torch.fft.ifftshift(low), norm="forward").real


def _invert_low_band(spectrum: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """FLC's output from a half spectrum [..., height, at least the kept columns] of [..., height, width] maps.

    Of an even size's unpaired Nyquist row the real part of the result keeps the mean with its mirror image.
    """
    rows, columns = -(-height // 2), -(-width // 2)
    half, kept = rows // 2, spectrum[..., : columns // 2 + 1]
    parts = [kept[..., : rows - half, :], kept[..., height - half :, :]]
    if rows % 2 == 0 and half > 0:
        mirror, bottom = kept[..., half : half + 1, :], parts.pop()
        nyquist = (bottom[..., :1, :] + mirror) / 2
        if columns % 2 == 0:
            nyquist = torch.cat([nyquist[..., :-1], mirror[..., -1:]], -1)
        parts += [nyquist, bottom[..., 1:, :]]
    return torch.fft.irfft2(torch.cat(parts, -2), s=(rows, columns), norm="forward")


def flc_pool2d_rfft2(x: torch.Tensor) -> torch.Tensor:
    """FLC pooling (s = 2, centered) by the real 2-D transform of x [..., H, W].

    For benchmarks: half of the spectrum is never computed.
    """
    return _invert_low_band(torch.fft.rfft2(x, norm="forward"), *x.shape[-2:])


def flc_pool2d_rfft(x: torch.Tensor) -> torch.Tensor:
    """As :func:`flc_pool2d_rfft2`, the columns cropped before the second axis is transformed.

    For benchmarks: less arithmetic and one copy more, faster at small and odd sizes.
    """
    height, width = x.shape[-2:]
    columns = torch.fft.rfft(x, norm="forward")[..., : -(-width // 2) // 2 + 1]
    return _invert_low_band(torch.fft.fft(columns, dim=-2, norm="forward"), height, width)
