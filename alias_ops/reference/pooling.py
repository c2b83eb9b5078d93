"""FLC and ASAP pooling as the papers write them: transform, window, crop, invert, real part."""

import torch

from ..designs import axis_spectrum

__all__ = ["asap_pool2d", "flc_pool2d"]


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
