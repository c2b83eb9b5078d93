"""``alias_l1``: stride-1 maps in, the L1 norm of what their subsampling folds out, one value per map."""

import torch

from .. import _backend, designs
from . import _adjoints, _fft, _triton
from ._library import LIBRARY, accumulation_dtype, beside, differentiating, outside_autocast, plane
from ._spectra import alias_spectrum, l1_norm

__all__ = ["alias_l1", "torch_form"]


@outside_autocast
def torch_form(x, tables_h, tables_w, stride) -> torch.Tensor:
    """Pure-PyTorch form of the op, differentiable by PyTorch itself, on any device."""
    wide = accumulation_dtype(x.dtype)
    maps = x.to(wide)
    tables_h, tables_w = ([t.to(maps) for t in tables] for tables in (tables_h, tables_w))
    spectrum = alias_spectrum(maps, tables_h, tables_w, stride)
    return l1_norm(spectrum, (tables_h[1].shape[-1], tables_w[1].shape[-1]))


def _fake(x, tables_h, tables_w, stride) -> torch.Tensor:
    return x.new_empty(x.shape[:-2], dtype=accumulation_dtype(x.dtype))


def _fake_backward(grad, x, tables_h, tables_w, stride) -> torch.Tensor:
    return torch.empty_like(x)


def _setup_context(ctx, inputs, output) -> None:
    x, ctx.tables_h, ctx.tables_w, ctx.stride = inputs
    ctx.save_for_backward(x)


def _backward(ctx, grad):
    (x,) = ctx.saved_tensors
    # A kernel has no gradient of its own, and autograd would take that for zero: who wants a graph gets PyTorch's form.
    graph = torch.is_grad_enabled() and (grad.requires_grad or x.requires_grad)
    backward = _adjoints.alias_l1_backward if graph else torch.ops.alias_ops.alias_l1_backward
    dx = backward(grad, x, ctx.tables_h, ctx.tables_w, ctx.stride)
    # PyTorch wants None for a list of tensors spelt out, one each.
    return dx, [None] * len(ctx.tables_h), [None] * len(ctx.tables_w), None


def _vmap(info, in_dims, x, tables_h, tables_w, stride):
    return torch.ops.alias_ops.alias_l1(x.movedim(in_dims[0], 0), tables_h, tables_w, stride), 0


LIBRARY.impl("alias_l1", torch_form, "CompositeExplicitAutograd")
LIBRARY.impl("alias_l1_backward", _adjoints.alias_l1_backward, "CompositeExplicitAutograd")
_triton.register("alias_l1", torch_form, _fake, "alias_l1")
_triton.register("alias_l1_backward", _adjoints.alias_l1_backward, _fake_backward, "alias_l1", position=1)
torch.library.register_fake("alias_ops::alias_l1", _fake, lib=LIBRARY)
torch.library.register_fake("alias_ops::alias_l1_backward", _fake_backward, lib=LIBRARY)
torch.library.register_autograd("alias_ops::alias_l1", _backward, setup_context=_setup_context, lib=LIBRARY)
torch.library.register_vmap("alias_ops::alias_l1", _vmap, lib=LIBRARY)


def alias_l1(x: torch.Tensor, stride: tuple[int, int]) -> torch.Tensor:
    """Per map, ``sum |F_s - F_low|`` of stride-1 maps x [..., H, W] (identity 3 of the design).

    Args:
        x: floating [..., H, W], any strides.
        stride: of the layer along (height, width).

    Returns:
        [...] in float32 for half-precision x, otherwise in x's dtype.

    Gradients: first order with respect to x; ``|0|`` has gradient 0.
    """
    height, width = plane(x)
    if max(height, width) > _fft.DENSE_MAPS_LIMIT:
        return _fft.alias_l1(x, stride)
    place = designs.factor_dtype(x), x.device
    tables = designs.alias_tables(height, stride[0], *place), designs.alias_tables(width, stride[1], *place)
    tables = beside(x, tables)
    if _backend.serving(x) == "reference" or differentiating():
        return torch_form(x, *tables, stride)
    return torch.ops.alias_ops.alias_l1(x, *tables, stride)
