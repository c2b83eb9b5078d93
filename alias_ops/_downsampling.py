"""Downsampling layers of a model: which modules they are, what to call them, how their aliasing is measured."""

from types import ModuleType
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import distributed as dist
from torch import nn
from torch.nn.utils import parametrize

from . import _backend, functional
from ._checks import pair
from .ops._library import accumulation_dtype

__all__ = ["Downsampling", "describe", "downsamples", "has_own_forward", "layer_aliasing", "stride_1_map"]

Downsampling = nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d

# That are measured together, of inputs or stride-1 maps: 4 MB of float32, a fraction of a training step's memory.
SAMPLES_AT_A_TIME = 2**20

KINDS = {nn.Conv2d: "conv", nn.MaxPool2d: "max pool", nn.AvgPool2d: "avg pool"}


def downsamples(module: nn.Module) -> TypeGuard[Downsampling]:
    """True for a convolution, max pooling or average pooling with a stride above 1."""
    return isinstance(module, tuple(KINDS)) and max(pair(module.stride, "stride", 1)) > 1


def _base(module: Downsampling) -> type[nn.Module]:
    return next(base for base in KINDS if isinstance(module, base))


def has_own_forward(module: Downsampling) -> bool:
    """True for a subclass that computes something else than its attributes say.

    Weight standardisation, fake quantisation and "same" padding are written like that; what such a
    layer does at stride 1 cannot be read from it.
    """
    methods = ("forward", "_conv_forward")
    base = _base(module)
    return any(getattr(type(module), name, None) is not getattr(base, name, None) for name in methods)


def describe(module: Downsampling) -> str:
    """Kind, kernel and stride as people write them: "conv 3x3 /2", "max pool 3x3 /2x1"."""
    kernel, stride = pair(module.kernel_size, "kernel_size", 1), pair(module.stride, "stride", 1)
    step = str(stride[0]) if stride[0] == stride[1] else f"{stride[0]}x{stride[1]}"
    groups = getattr(module, "groups", 1)
    suffix = f" groups {groups}" if groups > 1 else ""
    return f"{KINDS[_base(module)]} {kernel[0]}x{kernel[1]} /{step}{suffix}"


def _parameter(module: nn.Conv2d, name: str) -> Any:
    """The weight or bias that the layer's forward has just used."""
    if not parametrize.is_parametrized(module, name):
        return getattr(module, name)
    # Reading a parametrized tensor computes it anew; in training mode spectral_norm would take another step of
    # its power iteration, in evaluation mode it repeats the last value.
    chain = module.get_submodule(f"parametrizations.{name}")
    modes = {part: part.training for part in chain.modules()}
    chain.eval()
    try:
        return getattr(module, name)
    finally:
        for part, training in modes.items():
            part.training = training


def _padded(module: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
    """x with whatever padding is none of zeros, and the padding by zeros that is left to do."""
    padding: Any = (0, 0) if module.padding == "valid" else module.padding
    if module.padding_mode == "zeros":
        return x, padding
    return F.pad(x, (padding[1], padding[1], padding[0], padding[0]), mode=module.padding_mode), (0, 0)


def _conv_aliasing(
    module: nn.Conv2d, x: torch.Tensor, output: torch.Tensor | None, functions: ModuleType, through_output: bool
) -> torch.Tensor:
    x, padding = _padded(module, x if output is None else x.to(output.dtype))
    weight, bias = (_parameter(module, name) for name in ("weight", "bias"))
    if torch.is_grad_enabled() and dist.is_available() and dist.is_initialized():
        # FSDP frees a layer's weight after its forward, and where the layer is the last one of what is sharded
        # together, this measure's backward comes before the weight is back.
        weight = weight.clone()
    return functions.conv2d_aliasing(
        x,
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        module.stride,
        padding,
        module.dilation,
        module.groups,
        output=output,
        through_output=through_output,
        reduction="none",
    )


def _overhang(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """With ceil_mode: stride-1 windows from the last full one to the layer's last one, which may overhang."""
    full = size + 2 * padding - dilation * (kernel - 1) - 1
    last = -(-full // stride) * stride
    return last - full if last < size + padding else 0


def _window_sizes(module: nn.AvgPool2d, size: int, kernel: int, padding: int, like: torch.Tensor) -> torch.Tensor:
    """Samples that the windows of one axis count, the divisor of AvgPool2d: [like.shape[-1]]."""
    start = torch.arange(like.shape[-1], device=like.device) - padding
    end = (start + kernel).clamp(max=size + padding)
    return end - start if module.count_include_pad else end.clamp(max=size) - start.clamp(min=0)


def stride_1_pool(
    module: nn.MaxPool2d | nn.AvgPool2d, x: torch.Tensor, stride: tuple[int, int] | None = None
) -> torch.Tensor:
    """The stride-1 map of a pooling layer: its output is ``map[..., ::sh, ::sw]``.

    Under ``ceil_mode`` the layer may place one more window, which overhangs the padded input at the
    bottom or right. The stride-1 map then goes on to the start of that window, and every window on the
    way is cut off at the edge of the padded input as the layer cuts its last one: a maximum over what is
    left, an average with the divisor that AvgPool2d would use there.

    Args:
        module: the layer.
        x: floating [B, C, H, W] or [C, H, W].
        stride: in place of the layer's own.

    Returns:
        [B, C, H1, W1] or [C, H1, W1] in x's dtype.
    """
    height, width = x.shape[-2:]
    kernel, own, padding, dilation = (
        pair(getattr(module, name, 1), name, minimum)
        for name, minimum in (("kernel_size", 1), ("stride", 1), ("padding", 0), ("dilation", 1))
    )
    stride = stride or own
    below = beside = 0
    if module.ceil_mode:
        below = _overhang(height, kernel[0], stride[0], padding[0], dilation[0])
        beside = _overhang(width, kernel[1], stride[1], padding[1], dilation[1])
    if isinstance(module, nn.MaxPool2d):
        x = F.pad(x, (0, beside, 0, below), value=float("-inf")) if below or beside else x
        return F.max_pool2d(x, kernel, 1, padding, dilation)
    wide = F.pad(x.to(accumulation_dtype(x.dtype)), (0, beside, 0, below))
    sums = F.avg_pool2d(wide, kernel, 1, padding, divisor_override=1)
    if module.divisor_override is not None:
        return (sums / module.divisor_override).to(x.dtype)
    rows = _window_sizes(module, height, kernel[0], padding[0], sums[..., 0])
    cols = _window_sizes(module, width, kernel[1], padding[1], sums)
    return (sums / torch.outer(rows, cols)).to(x.dtype)


def stride_1_map(module: Downsampling, x: torch.Tensor) -> torch.Tensor:
    """The map of which the layer's output is ``map[..., ::sh, ::sw]``, computed as the definition has it.

    Args:
        module: a layer for which :func:`downsamples` holds and :func:`has_own_forward` does not.
        x: what it received, floating [B, C, H, W] or [C, H, W].

    Returns:
        [B, Cout, H1, W1] or [Cout, H1, W1] in x's dtype.
    """
    if not isinstance(module, nn.Conv2d):
        return stride_1_pool(module, x)
    x, padding = _padded(module, x)
    weight, bias = (_parameter(module, name) for name in ("weight", "bias"))
    bias = None if bias is None else bias.to(x.dtype)
    return F.conv2d(x, weight.to(x.dtype), bias, 1, padding, module.dilation, module.groups)


def _pool_aliasing(module: nn.MaxPool2d | nn.AvgPool2d, x: torch.Tensor, functions: ModuleType) -> torch.Tensor:
    """[B, C] or [C]; some maps at a time, since stride-1 maps of a whole batch outweigh the layer's own output."""
    images = x.unsqueeze(0) if x.dim() == 3 else x
    _, channels, height, width = images.shape
    stride = pair(module.stride, "stride", 1)
    few = max(1, SAMPLES_AT_A_TIME // max(1, height * width))
    rows = [
        torch.cat([functions.aliasing(stride_1_pool(module, part), stride, reduction="none") for part in parts], 1)
        for parts in (
            some.split(min(few, max(1, channels)), 1) for some in images.split(max(1, few // max(1, channels)))
        )
    ]
    maps = torch.cat(rows)
    return maps[0] if x.dim() == 3 else maps


def layer_aliasing(
    module: Downsampling,
    x: torch.Tensor,
    output: torch.Tensor | None,
    functions: ModuleType = functional,
    through_output: bool = False,
) -> torch.Tensor:
    """Aliasing measure of a layer, one value per map, in the precision of its output.

    Args:
        module: a layer for which :func:`downsamples` holds and :func:`has_own_forward` does not.
        x: what it received, floating [B, C, H, W] or [C, H, W].
        output: what it returned for x; None to convolve anew, in the dtype of x.
        functions: where ``aliasing`` and ``conv2d_aliasing`` come from, ``alias_ops.functional`` or
            ``alias_ops.reference``.
        through_output: as for ``conv2d_aliasing``.

    Returns:
        [B, Cout] or [Cout].

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """
    if not isinstance(module, nn.Conv2d):
        return _pool_aliasing(module, x, functions)
    # The CPU's kernel needs next to no memory; other forms keep spectra, which outweigh the layer's input.
    if output is None or x.dim() == 3 or torch.is_grad_enabled() or _backend.serving(x) == "cpu":
        return _conv_aliasing(module, x, output, functions, through_output)
    few = max(1, SAMPLES_AT_A_TIME // max(1, (x.numel() + output.numel()) // len(x)))
    parts = zip(x.split(few), output.split(few), strict=True)
    return torch.cat([_conv_aliasing(module, *part, functions, through_output) for part in parts])
