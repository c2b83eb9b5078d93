"""``conv2d_alias_l1``: the aliasing of a strided convolution, with no stride-1 map ever in memory."""

import torch
import torch.nn.functional as F

from .. import _backend, designs
from . import _adjoints, _fft, _triton, conv2d_alias_l1_training
from ._library import LIBRARY, accumulation_dtype, beside, differentiating, outside_autocast, plane
from ._spectra import half_plane, l1_norm, subtract_low
from ._spectral_conv2d import LowSpectrum, dense_axes, fft_axis
from ._taps import by_taps, tables_with_taps
from .conv2d_alias_l1_backward import conv2d_alias_l1_backward

__all__ = ["conv2d_alias_l1", "torch_form"]


def _strided_output(x, weight, bias, output, stride, padding, dilation, groups) -> torch.Tensor:
    """What the layer returns, without its bias: a constant aliases nothing, but it would sit in the DC bin.

    A given output is a constant, so where gradients are wanted it cannot stand in for the convolution.
    """
    differentiated = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    if output is None or differentiated:
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)
    output = output.to(x.dtype)
    return output if bias is None else output - bias.to(x.dtype)[:, None, None]


def _of_no_images(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[0, Cout], with gradients: complex matrix products and FFTs take no empty batch."""
    return x.flatten(1).sum(1)[:, None] * weight.flatten(1).sum(1)


@outside_autocast
def torch_form(x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups) -> torch.Tensor:
    """Pure-PyTorch form of the op (identity 7), differentiable by PyTorch itself, on any device."""
    wide = accumulation_dtype(x.dtype)
    x, weight = x.to(wide), weight.to(wide)
    if x.shape[0] == 0:
        return _of_no_images(x, weight)
    strided = _strided_output(x, weight, bias, output, stride, padding, dilation, groups)
    dft_h, dft_w = tables_h[4].to(x), tables_w[4].to(x)
    axes = dense_axes(x, weight, tables_h, tables_w, stride, padding, dilation)
    spectrum = half_plane(strided, dft_h, dft_w)
    low = LowSpectrum(weight, axes, groups)
    difference = subtract_low(spectrum, low.forward(low.inputs(x)))
    return l1_norm(difference, (dft_h.shape[-1], dft_w.shape[-1]))


@outside_autocast
def _fft_form(x, weight, bias, output, stride, padding, dilation, groups) -> torch.Tensor:
    """The same for maps so large that dense transforms lose to ``torch.fft``."""
    wide = accumulation_dtype(x.dtype)
    x, weight = x.to(wide), weight.to(wide)
    if x.shape[0] == 0:
        return _of_no_images(x, weight)
    strided = _strided_output(x, weight, bias, output, stride, padding, dilation, groups)
    axes = [fft_axis(x, x.shape[d - 2], weight.shape[d - 2], stride[d], padding[d], dilation[d]) for d in (0, 1)]
    low = LowSpectrum(weight, (axes[0], axes[1]), groups)
    difference = subtract_low(_fft.half_plane(strided), low.forward(low.inputs(x)))
    return l1_norm(difference, (strided.shape[-2], strided.shape[-1]))


def _fake(x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups) -> torch.Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=accumulation_dtype(x.dtype))


def _fake_backward(grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups):
    return torch.empty_like(x), torch.empty_like(weight)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, _, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx, grad):
    x, weight = ctx.saved_tensors
    dx, dweight = torch.ops.alias_ops.conv2d_alias_l1_backward(grad, x, weight, *ctx.geometry)
    # PyTorch wants None for a list of tensors spelt out, one each.
    tables_h, tables_w = ([None] * len(tables) for tables in ctx.geometry[:2])
    return dx, dweight, None, None, tables_h, tables_w, None, None, None, None


def _vmap(info, in_dims, x, weight, bias, output, *geometry):
    tensors, dims = (x, weight, bias, output), in_dims[:4]
    if dims[1] is None and dims[2] is None and (output is None or (dims[3] is None) == (dims[0] is None)):
        # One layer for many batches: a larger batch.
        x = x.movedim(dims[0], 0)
        output = None if output is None else output.movedim(dims[3], 0).flatten(0, 1)
        maps = torch.ops.alias_ops.conv2d_alias_l1(x.flatten(0, 1), weight, bias, output, *geometry)
        return maps.unflatten(0, x.shape[:2]), 0
    each = [
        torch.ops.alias_ops.conv2d_alias_l1(
            *(t if dim is None else t.select(dim, i) for t, dim in zip(tensors, dims)), *geometry
        )
        for i in range(info.batch_size)
    ]
    return torch.stack(each), 0


LIBRARY.impl("conv2d_alias_l1", torch_form, "CompositeExplicitAutograd")
LIBRARY.impl("conv2d_alias_l1_backward", _adjoints.conv2d_alias_l1_backward, "CompositeExplicitAutograd")
if _backend.extension is not None:
    LIBRARY.impl("conv2d_alias_l1_backward", conv2d_alias_l1_backward, "CPU")
_triton.register("conv2d_alias_l1", torch_form, _fake, "conv2d_alias_l1")
_triton.register(
    "conv2d_alias_l1_backward",
    _adjoints.conv2d_alias_l1_backward,
    _fake_backward,
    "conv2d_alias_l1_backward",
    position=1,
)
torch.library.register_fake("alias_ops::conv2d_alias_l1", _fake, lib=LIBRARY)
torch.library.register_fake("alias_ops::conv2d_alias_l1_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("alias_ops::conv2d_alias_l1", _backward, setup_context=_setup_context, lib=LIBRARY)
torch.library.register_vmap("alias_ops::conv2d_alias_l1", _vmap, lib=LIBRARY)


def conv2d_alias_l1(x, weight, bias, output, stride, padding, dilation, groups) -> torch.Tensor:
    """Per image and output channel, the L1 norm of what a strided convolution folds (identities 4 and 7).

    Args:
        x: floating [B, Cin, H, W].
        weight: [Cout, Cin / groups, kH, kW] in x's dtype.
        bias: [Cout] or None; looked at only to take it off ``output``.
        output: the layer's strided output [B, Cout, N, M], bias included, or None.
        stride, padding, dilation: pairs (height, width).
        groups: as in ``torch.nn.functional.conv2d``.

    Returns:
        [B, Cout] in float32 for half-precision x, otherwise in x's dtype.

    Gradients: first order with respect to x and weight, the whole derivative also where ``output``
    is given; none with respect to output and bias. Where output has a graph, a part may go to it instead.
    """
    size, kernel = plane(x), plane(weight)
    if max(size) > _fft.DENSE_MEASURE_LIMIT:
        return _fft_form(x, weight, bias, output, stride, padding, dilation, groups)
    served = _backend.serving(x)
    if served == "cpu" and by_taps(weight, groups):
        tables = tables_with_taps(x, weight, stride, padding, dilation)
    else:
        place = designs.factor_dtype(x), x.device
        tables = [designs.conv_tables(size[d], kernel[d], stride[d], padding[d], dilation[d], *place) for d in (0, 1)]
    geometry = (*beside(x, tables), stride, padding, dilation, groups)
    if served == "reference" or differentiating():
        return torch_form(x, weight, bias, output, *geometry)
    if conv2d_alias_l1_training.serves(x, weight, padding):
        return conv2d_alias_l1_training.measure(x, weight, bias, output, *geometry)
    return torch.ops.alias_ops.conv2d_alias_l1(x, weight, bias, output, *geometry)
