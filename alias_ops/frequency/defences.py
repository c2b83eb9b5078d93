"""A network that sees the low frequencies of its images alone."""

import torch
from torch import nn

from .components import check_radius, low_pass

__all__ = ["LowPass2d"]


class LowPass2d(nn.Module):
    """The low frequencies of every map, as a layer: a defence, put in front of a network (D1).

        defended = nn.Sequential(LowPass2d(12), model)

    It has no parameters and no buffers. A checkpoint of ``defended`` has the model's names behind ``1.``, so load the
    model's own before.

    Args:
        radius: non-negative number, in bins of the spectrum: see :func:`alias_ops.frequency.low_pass`.

    Shape: [..., H, W] -> [..., H, W].

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Wang et al., CVPR 2020.
    """

    def __init__(self, radius: float) -> None:
        super().__init__()
        check_radius(radius)
        self.radius = radius

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return low_pass(x, self.radius)

    def extra_repr(self) -> str:
        return f"radius={self.radius}"
