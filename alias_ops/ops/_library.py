"""The ops' schemas, in one place; kernels register against them from csrc and from the files beside this."""

import operator
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from .._compile import constant_result

__all__ = [
    "LIBRARY",
    "accumulation_dtype",
    "autocasting",
    "beside",
    "channels_last",
    "differentiating",
    "exporting_to_onnx",
    "forward_mode",
    "like_input",
    "outside_autocast",
    "plane",
    "transforming",
]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_is_tracing = torch._C._is_tracing

LIBRARY = torch.library.Library("alias_ops", "DEF")

_CONVOLUTION = (
    "Tensor[] tables_h, Tensor[] tables_w, SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
)
for schema in (
    "separable2d(Tensor x, Tensor left, Tensor right) -> Tensor",
    "_separable2d(Tensor x, Tensor left, Tensor right, bool adjoint) -> Tensor",
    "alias_l1(Tensor x, Tensor[] tables_h, Tensor[] tables_w, SymInt[2] stride) -> Tensor",
    "alias_l1_backward(Tensor grad, Tensor x, Tensor[] tables_h, Tensor[] tables_w, SymInt[2] stride) -> Tensor",
    f"conv2d_alias_l1(Tensor x, Tensor weight, Tensor? bias, Tensor? output, {_CONVOLUTION}) -> Tensor",
    f"conv2d_alias_l1_backward(Tensor grad, Tensor x, Tensor weight, {_CONVOLUTION}) -> (Tensor, Tensor)",
    # On the CPU, where gradients will be wanted: with them, those of every norm with respect to the strided output.
    f"_conv2d_alias_l1_training(Tensor x, Tensor weight, Tensor? bias, Tensor? output, {_CONVOLUTION}) "
    "-> (Tensor, Tensor)",
    f"_conv2d_alias_l1_training_backward(Tensor grad, Tensor d_output, Tensor x, Tensor weight, {_CONVOLUTION}) "
    "-> (Tensor, Tensor)",
    f"_conv2d_alias_l1_through_output_backward(Tensor grad, Tensor d_output, Tensor x, Tensor weight, {_CONVOLUTION}) "
    "-> (Tensor, Tensor, Tensor)",
    # Parts of the CPU's gradients. What they write is PyTorch's own or a residual.
    "_conv2d_alias_l1_low_gradient(Tensor output_gradient, Tensor x, Tensor weight, Tensor(a!) dx, Tensor(b!) dweight, "
    f"{_CONVOLUTION}) -> ()",
    f"_conv2d_alias_l1_low_part(Tensor output_gradient, Tensor x, Tensor weight, {_CONVOLUTION}) -> (Tensor, Tensor)",
    "_conv2d_alias_l1_tap_gradient(Tensor grad, Tensor output_gradient, Tensor x, Tensor weight, "
    f"{_CONVOLUTION}) -> (Tensor, Tensor)",
    "_residual_l1_gradient(Tensor grad, Tensor(a!) residual, Tensor dft_h, Tensor dft_w) -> ()",
):
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the half types, the type itself otherwise: sums are never taken in 16 bits."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def beside(x: torch.Tensor, tables: T) -> T:
    """Tables, in tuples or lists, as fake tensors where x is one: its mode takes no others, but while it exports."""
    if type(x) is torch.Tensor or is_compiling():
        return tables
    from torch._subclasses import FakeTensor
    from torch.utils._pytree import tree_map

    if not isinstance(x, FakeTensor) or x.fake_mode.allow_non_fake_inputs:
        return tables
    return tree_map(x.fake_mode.from_tensor, tables)


def plane(x: torch.Tensor) -> tuple[int, int]:
    """Height and width as plain ints: a design is of one size, and so is a graph compiled around it."""
    shape = x.shape
    return operator.index(shape[-2]), operator.index(shape[-1])


def forward_mode() -> bool:
    """Whether forward-mode derivatives are being taken: the PyTorch forms have them, the kernels do not."""
    return forward_ad._current_level >= 0


def transforming() -> bool:
    """Whether torch.func maps or differentiates: plain autograd functions are not for it."""
    return torch._C._are_functorch_transforms_active()


def differentiating() -> bool:
    """Whether derivatives are taken in a way that a registered formula does not serve: forward mode, or torch.func's.

    The PyTorch forms have derivatives in every mode and of every order. Mapped without derivatives (vmap alone),
    the ops serve; a compiler does not look as closely.
    """
    if forward_mode():
        return True
    if not transforming() or is_compiling():
        return transforming()
    from torch._functorch.pyfunctorch import TransformType, retrieve_all_functorch_interpreters

    return any(level.key() != TransformType.Vmap for level in retrieve_all_functorch_interpreters())


def exporting_to_onnx() -> bool:
    """Whether ``torch.onnx.export`` asks, by either of its ways; quick where nobody exports anything."""
    return (is_compiling() or _is_tracing()) and torch.onnx.is_in_onnx_export()


def channels_last(x: torch.Tensor) -> bool:
    if transforming():  # vmap knows of no memory format
        return False
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def like_input(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in x's dtype and memory format: channels_last in, channels_last out, else contiguous."""
    form = torch.channels_last if channels_last(x) else torch.contiguous_format
    y = y if y.dtype is x.dtype else y.to(x.dtype)
    return y.contiguous(memory_format=form)


@constant_result  # the compiler of PyTorch 2.10 cannot look into it
def _knows_autocast(device_type: str) -> bool:
    return torch.amp.is_autocast_available(device_type)


def autocasting(device_type: str) -> bool:
    """Whether a region of autocast is open for the device."""
    return _knows_autocast(device_type) and torch.is_autocast_enabled(device_type)


def outside_autocast(form: Callable[P, R]) -> Callable[P, R]:
    """For the PyTorch forms: autocast would take their products down to 16 bits, which the kernels never do."""

    @wraps(form)
    def wrapped(*args, **kwargs):
        device_type = args[0].device.type
        if not autocasting(device_type):
            return form(*args, **kwargs)
        with torch.autocast(device_type, enabled=False):
            return form(*args, **kwargs)

    return wrapped
