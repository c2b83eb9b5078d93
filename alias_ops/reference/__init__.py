"""The papers' equations with ``torch.fft``: slow, obvious, float64-capable, differentiable.

Imported by tests and benchmarks only; nothing in the package depends on it.
"""

from .aliasing import aliasing, conv2d_aliasing
from .pooling import asap_pool2d, flc_pool2d, flc_pool2d_fft2, flc_pool2d_rfft, flc_pool2d_rfft2

__all__ = [
    "aliasing",
    "asap_pool2d",
    "conv2d_aliasing",
    "flc_pool2d",
    "flc_pool2d_fft2",
    "flc_pool2d_rfft",
    "flc_pool2d_rfft2",
]
