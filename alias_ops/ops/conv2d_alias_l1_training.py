"""``conv2d_alias_l1`` on the CPU where gradients will be wanted.

The gradient of every norm with respect to the strided output is at hand while its spectrum is: kept for the backward,
one map of the strided size each, it saves that the strided convolution, the spectra of x and the products.
"""

import torch

from .. import _backend
from ._library import LIBRARY, accumulation_dtype, plane, transforming
from ._taps import low_band_is_cheaper
from .conv2d_alias_l1_backward import through_output_backward, training_backward

__all__ = ["measure", "serves"]


def serves(x: torch.Tensor, weight: torch.Tensor, padding: tuple[int, int]) -> bool:
    """Whether gradients will be wanted, and identity 7 is what the CPU takes them by.

    Not in half precision: the strided output is rounded there, and D / |D| of a small bin is not to be had from it.
    The backward convolves once more, in float32.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or weight.requires_grad):
        return False
    if accumulation_dtype(x.dtype) != x.dtype:
        return False
    if _backend.serving(x) != "cpu" or transforming():
        return False
    return plane(weight) != (1, 1) or tuple(padding) != (0, 0)


def measure(x, weight, bias, output, *geometry) -> torch.Tensor:
    """Arguments and result as of the op ``conv2d_alias_l1``, but that an output with a graph gets its gradient."""
    return torch.ops.alias_ops._conv2d_alias_l1_training(x, weight, bias, output, *geometry)[0]


def _fake(x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups):
    wide = accumulation_dtype(x.dtype)
    size = x.shape[0], weight.shape[0], tables_h[4].shape[-1], tables_w[4].shape[-1]
    return x.new_empty(size[:2], dtype=wide), x.new_empty(size, dtype=wide)


def _fake_backward(grad, d_output, x, weight, *geometry):
    return torch.empty_like(x), torch.empty_like(weight)


def _fake_through_output_backward(grad, d_output, x, weight, *geometry):
    return torch.empty_like(x), weight.new_empty(weight.shape), torch.empty_like(d_output)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, _, _, *ctx.geometry = inputs
    _, d_output = output
    ctx.mark_non_differentiable(d_output)
    ctx.save_for_backward(x, weight, d_output)


def _backward(ctx, grad, _):
    x, weight, d_output = ctx.saved_tensors
    operands = grad, d_output, x, weight, *ctx.geometry
    dbias = through = None
    if ctx.needs_input_grad[3] and low_band_is_cheaper(x, weight, ctx.geometry[-1], plane(d_output)):
        dx, dweight, through = torch.ops.alias_ops._conv2d_alias_l1_through_output_backward(*operands)
        if ctx.needs_input_grad[2]:
            # The measure does not change with the bias: what reaches it through the output is taken off here.
            dbias = -through.sum((0, 2, 3))
    else:
        dx, dweight = torch.ops.alias_ops._conv2d_alias_l1_training_backward(*operands)
    # PyTorch wants None for a list of tensors spelt out, one each.
    tables_h, tables_w = ([None] * len(tables) for tables in ctx.geometry[:2])
    return dx, dweight, dbias, through, tables_h, tables_w, None, None, None, None


if _backend.extension is not None:
    LIBRARY.impl("_conv2d_alias_l1_training_backward", training_backward, "CPU")
    LIBRARY.impl("_conv2d_alias_l1_through_output_backward", through_output_backward, "CPU")
torch.library.register_fake("alias_ops::_conv2d_alias_l1_training", _fake, lib=LIBRARY)
torch.library.register_fake("alias_ops::_conv2d_alias_l1_training_backward", _fake_backward, lib=LIBRARY)
torch.library.register_fake(
    "alias_ops::_conv2d_alias_l1_through_output_backward", _fake_through_output_backward, lib=LIBRARY
)
torch.library.register_autograd(
    "alias_ops::_conv2d_alias_l1_training", _backward, setup_context=_setup_context, lib=LIBRARY
)
