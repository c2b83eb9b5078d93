"""Low- and high-frequency components of images, and what Wang et al. (CVPR 2020) do with them: defences, an attack."""

from .attack import HighFrequencyResult, high_frequency_attack
from .components import Components, distances, high_pass, low_pass, split, svd_split
from .defences import LowPass2d
from .smoothing import SmoothedLayer, SmoothingReport, smooth_kernels_

__all__ = [
    "Components",
    "HighFrequencyResult",
    "LowPass2d",
    "SmoothedLayer",
    "SmoothingReport",
    "distances",
    "high_frequency_attack",
    "high_pass",
    "low_pass",
    "smooth_kernels_",
    "split",
    "svd_split",
]
