"""Gradients of ``conv2d_alias_l1`` on the CPU: kernels before and after PyTorch's own backward of the strided layer.

The strided output turns into the gradient with respect to it; PyTorch's backward takes that to x and weight; what
the low band has to say comes off both where they lie. Nothing else is of the size of x.
"""

import torch
import torch.nn.functional as F

from .. import designs
from . import _adjoints
from ._library import accumulation_dtype, outside_autocast, plane

__all__ = ["conv2d_alias_l1_backward"]

KERNELS = torch.ops.alias_ops


def _spectral(grad, x, weight, tables_h, tables_w, *geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 7."""
    tables = tables_h, tables_w
    output = F.conv2d(x, weight, None, *geometry)
    KERNELS._conv2d_alias_l1_output_gradient(grad, x, weight, output, *tables, *geometry)
    dx, dweight = _adjoints.convolution_backward(output, x, weight, *geometry)
    dweight = dweight.contiguous()
    KERNELS._conv2d_alias_l1_low_gradient(output, x, weight, dx, dweight, *tables, *geometry)
    return dx, dweight


def _pointwise(grad, x, weight, dft_h, dft_w, stride, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """Identity 4 of a 1x1 layer: a stride-1 layer on the residual of x, which is of the strided size."""
    factors = designs.residual_factors(*plane(x), stride)
    inputs = KERNELS._separable2d(x, *factors, False)
    residual = F.conv2d(inputs, weight, groups=groups)
    KERNELS._residual_l1_gradient(grad, residual, dft_h, dft_w)
    d_inputs, dweight = _adjoints.convolution_backward(residual, inputs, weight, (1, 1), (0, 0), (1, 1), groups)
    return KERNELS._separable2d(d_inputs, *factors, True), dweight


@outside_autocast
def conv2d_alias_l1_backward(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    if torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad or weight.requires_grad):
        # create_graph: the kernels write in place and have no gradients of their own.
        return _adjoints.conv2d_alias_l1_backward(
            grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
        )
    if grad.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(weight)
    wide = accumulation_dtype(x.dtype)
    operands = grad.to(wide), x.to(wide), weight.to(wide)
    if plane(weight) == (1, 1) and tuple(padding) == (0, 0):
        dx, dweight = _pointwise(*operands, tables_h[4], tables_w[4], tuple(stride), groups)
    else:
        dx, dweight = _spectral(*operands, tables_h, tables_w, stride, padding, dilation, groups)
    return dx.to(x.dtype), dweight.to(weight.dtype)
