"""Gradients of ``conv2d_alias_l1`` on the CPU.

Measuring leaves the gradient of every norm with respect to the strided output. One kernel takes that to x and weight
by identity 4. Where that does not serve (``_taps.py``), PyTorch's own backward of the strided layer does,
and by identity 7 what the low band has to say comes off both where they lie. Nothing else is of the size of x.
"""

import torch
import torch.nn.functional as F

from .. import designs
from . import _adjoints
from ._library import accumulation_dtype, outside_autocast, plane
from ._taps import has_taps

__all__ = ["conv2d_alias_l1_backward", "through_output_backward", "training_backward"]

KERNELS = torch.ops.alias_ops


def _spectral(grad, x, weight, tables_h, tables_w, *geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 7 forward, as the norms were taken."""
    _, d_output = KERNELS._conv2d_alias_l1_training(x, weight, None, None, tables_h, tables_w, *geometry)
    return _from_output(grad, d_output, x, weight, tables_h, tables_w, *geometry)


def _from_output(
    grad, d_output, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    geometry = stride, padding, dilation, groups
    if has_taps(tables_h):
        return KERNELS._conv2d_alias_l1_tap_gradient(grad, d_output, x, weight, tables_h, tables_w, *geometry)
    d_output = d_output * grad[:, :, None, None]
    dx, dweight = _adjoints.convolution_backward(d_output, x, weight, *geometry)
    dweight = dweight.contiguous()
    KERNELS._conv2d_alias_l1_low_gradient(d_output, x, weight, dx, dweight, tables_h, tables_w, *geometry)
    return dx, dweight


def _pointwise(grad, x, weight, dft_h, dft_w, stride, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 4 of a 1x1 layer: a stride-1 layer on the residual of x, which is of the strided size."""
    factors = designs.residual_factors(*plane(x), stride)
    inputs = KERNELS._separable2d(x, *factors, False)
    residual = F.conv2d(inputs, weight, groups=groups)
    KERNELS._residual_l1_gradient(grad, residual, dft_h, dft_w)
    d_inputs, dweight = _adjoints.convolution_backward(residual, inputs, weight, (1, 1), (0, 0), (1, 1), groups)
    return KERNELS._separable2d(d_inputs, *factors, True), dweight


def _differentiated(*tensors: torch.Tensor) -> bool:
    """create_graph: the kernels write in place and have no gradients of their own."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _wide(grad, x, weight) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    wide = accumulation_dtype(x.dtype)
    return grad.to(wide), x.to(wide), weight.to(wide)


@outside_autocast
def conv2d_alias_l1_backward(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    if _differentiated(grad, x, weight):
        return _adjoints.conv2d_alias_l1_backward(
            grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
        )
    if grad.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(weight)
    operands = _wide(grad, x, weight)
    if plane(weight) == (1, 1) and tuple(padding) == (0, 0):
        dx, dweight = _pointwise(*operands, tables_h[4], tables_w[4], tuple(stride), groups)
    else:
        dx, dweight = _spectral(*operands, tables_h, tables_w, stride, padding, dilation, groups)
    return dx.to(x.dtype), dweight.to(weight.dtype)


@outside_autocast
def training_backward(
    grad, d_output, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, given what ``_conv2d_alias_l1_training`` returned beside the norms."""
    geometry = tables_h, tables_w, stride, padding, dilation, groups
    if _differentiated(grad, x, weight):
        return _adjoints.conv2d_alias_l1_backward(grad, x, weight, *geometry)
    if grad.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(weight)
    wide_grad, wide_x, wide_weight = _wide(grad, x, weight)
    dx, dweight = _from_output(wide_grad, d_output, wide_x, wide_weight, *geometry)
    return dx.to(x.dtype), dweight.to(weight.dtype)


@outside_autocast
def through_output_backward(
    grad, d_output, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients with respect to x, weight and the strided output, each by itself: the first two of the low band alone.

    All that a layer's own backward does anyway, once for the task's loss and for the measure, is left to it.
    """
    geometry = tables_h, tables_w, stride, padding, dilation, groups
    if _differentiated(grad, x, weight):
        dx, dweight, d_output = _adjoints.conv2d_alias_l1_parts(grad, x, weight, *geometry)
        return -dx, -dweight, d_output
    d_output = d_output * grad[:, :, None, None]
    return *KERNELS._conv2d_alias_l1_low_part(d_output, x, weight, *geometry), d_output
