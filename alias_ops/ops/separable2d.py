"""``separable2d``: ``y = sum_t left[t] x right[t]^T``, the one linear operator of the package."""

import torch
from torch.compiler import is_compiling
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode

from .. import _backend
from .._checks import check_factors
from . import _triton
from ._library import (
    LIBRARY,
    accumulation_dtype,
    channels_last,
    forward_mode,
    like_input,
    outside_autocast,
    transforming,
)

__all__ = ["apply", "products", "separable2d", "torch_form"]

_KERNEL = torch.ops.alias_ops._separable2d.default
_is_tracing = torch._C._is_tracing


@outside_autocast
def torch_form(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Pure-PyTorch form of the op, differentiable by PyTorch itself, on any device."""
    wide = accumulation_dtype(x.dtype)
    maps, left, right = x.to(wide), left.to(wide), right.to(wide)
    y = left[0] @ (maps @ right[0].mT)
    for term in range(1, left.shape[0]):
        y = y + left[term] @ (maps @ right[term].mT)
    return like_input(y, x)


@outside_autocast
def products(x: torch.Tensor, terms: tuple[tuple[torch.Tensor, torch.Tensor], ...]) -> torch.Tensor:
    """:func:`torch_form` of factors that lie ready, for a graph with nothing but the products in it.

    Args:
        x: floating [..., H, W].
        terms: pairs of [M, H] and [W, N], in the dtype that x is accumulated in.
    """
    left, right = terms[0]
    maps = x if x.dtype is left.dtype else x.to(left.dtype)  # a trace records casts to the same
    y = left @ (maps @ right)
    for left, right in terms[1:]:
        y = y + left @ (maps @ right)
    return like_input(y, x)


def _fake(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    shape = (*x.shape[:-2], left.shape[-2], right.shape[-2])
    form = torch.channels_last if channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=form)


class _Eager(torch.autograd.Function):
    """The op's autograd for plain tensors in eager mode: half the call overhead of a registered formula."""

    @staticmethod
    def forward(ctx, x, left, right, adjoint):
        ctx.arguments = left, right, not adjoint  # constants: nothing for save_for_backward to guard
        return _KERNEL(x, left, right, adjoint)

    @staticmethod
    def backward(ctx, grad):
        return apply(grad, *ctx.arguments), None, None, None


class _Transformed(torch.autograd.Function):
    """The op's derivatives for torch.func and for forward mode, which are the op again."""

    @staticmethod
    def forward(x, left, right, adjoint):
        return _KERNEL(x, left, right, adjoint)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, *ctx.arguments = inputs

    @staticmethod
    def backward(ctx, grad):
        left, right, adjoint = ctx.arguments
        return apply(grad, left, right, not adjoint), None, None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return apply(tangent, *ctx.arguments)

    @staticmethod
    def vmap(info, in_dims, x, left, right, adjoint):
        _constant(in_dims)
        return apply(x.movedim(in_dims[0], 0), left, right, adjoint), 0


def _constant(in_dims) -> None:
    if in_dims[1] is not None or in_dims[2] is not None:
        raise NotImplementedError("separable2d: vmap over the factors is not supported, map over x alone")


def _setup_context(ctx, inputs, output) -> None:
    _, left, right = inputs
    ctx.save_for_backward(left, right)


def _backward(ctx, grad):
    left, right = ctx.saved_tensors
    # The adjoint is the same op with transposed factors, so gradients of any order come for free.
    return apply(grad, left.mT, right.mT), None, None


def _vmap(info, in_dims, x, left, right):
    _constant(in_dims)
    return torch.ops.alias_ops.separable2d(x.movedim(in_dims[0], 0), left, right), 0


def _either(form):
    """``form`` with the factors transposed where the adjoint is asked for."""
    return lambda x, left, right, adjoint: form(x, left.mT, right.mT) if adjoint else form(x, left, right)


def _exported(form):
    """``form`` in the graph of an exporter that knows no ops but PyTorch's, and the op itself in any other."""

    def rule(mode, func, types, args=(), kwargs=None):
        if torch.onnx.is_in_onnx_export():
            with mode:
                return form(*args)
        return mode.__torch_dispatch__(func, types, args, kwargs)

    return rule


LIBRARY.impl("separable2d", torch_form, "CompositeExplicitAutograd")
LIBRARY.impl("_separable2d", _either(torch_form), "CompositeExplicitAutograd")
_triton.register("separable2d", torch_form, _fake, "separable2d")
_triton.register("_separable2d", _either(torch_form), _either(_fake), "separable2d")
torch.library.register_fake("alias_ops::separable2d", _fake, lib=LIBRARY)
torch.library.register_fake("alias_ops::_separable2d", _either(_fake), lib=LIBRARY)
torch.library.register_autograd("alias_ops::separable2d", _backward, setup_context=_setup_context, lib=LIBRARY)
torch.library.register_vmap("alias_ops::separable2d", _vmap, lib=LIBRARY)
# Not PyTorch's table of decompositions: where the environment names a CI, inductor refuses an op that stands there.
for _name, _form in ("separable2d", torch_form), ("_separable2d", _either(torch_form)):
    torch.library.register_torch_dispatch(f"alias_ops::{_name}", ProxyTorchDispatchMode, _exported(_form), lib=LIBRARY)


def apply(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor, adjoint: bool = False) -> torch.Tensor:
    """:func:`separable2d`, or its adjoint, for arguments that are right already."""
    reference = _backend.serving(x) == "reference"
    special = transforming() or forward_mode()
    if reference or is_compiling() or _is_tracing():  # a graph sees the registered op
        form = torch_form if reference or special else torch.ops.alias_ops.separable2d
        return form(x, left.mT, right.mT) if adjoint else form(x, left, right)
    if special:
        return _Transformed.apply(x, left, right, adjoint)
    if x.requires_grad and torch.is_grad_enabled():
        return _Eager.apply(x, left, right, adjoint)
    return _KERNEL(x, left, right, adjoint)


def separable2d(x: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Apply ``y = sum_t left[t] x right[t]^T`` to every map of x (identity (*) of the design).

    Args:
        x: floating [..., H, W], any strides; maps of at least 1x1, batch dimensions may be empty.
        left: floating [T, M, H], T of 1 or 2; a constant.
        right: floating [T, N, W]; a constant.

    Returns:
        [..., M, N] in x's dtype, channels_last if x is. Accumulated in float32 at least.

    Gradients: of any order with respect to x; none with respect to the factors.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
    """
    check_factors(x, left, right)
    return apply(x, left, right)
