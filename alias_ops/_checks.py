"""Argument checks: a wrong call fails before any work, naming the argument, what was expected, what came."""

import sys
from operator import index
from typing import Any

import torch

from . import designs

__all__ = [
    "check_conv2d",
    "check_factors",
    "check_maps",
    "check_output",
    "check_positive",
    "check_reduction",
    "check_variant",
    "is_dtensor",
    "pair",
]

REDUCTIONS = ("none", "mean", "sum")
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Of a stride, padding or dilation: products of two such numbers are phases, and fit into 64 bits.
LARGEST = 2**31 - 1


def _is_int(value) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def pair(value, name: str, minimum: int) -> tuple[int, int]:
    """``value`` as (height, width), from an int or two ints, none under ``minimum``.

    Plain ints: to ``torch.compile(dynamic=True)`` an argument is a symbol, for which there is no design.
    """
    if type(value) is int and minimum <= value <= LARGEST:
        value = index(value)
        return value, value
    both = (value, value) if _is_int(value) else value
    # Of the sequences only these two: bytes are sequences of ints as well.
    valid = isinstance(both, (tuple, list)) and len(both) == 2 and all(map(_is_int, both))
    if not valid or min(both) < minimum:
        error = ValueError if valid or isinstance(value, (tuple, list, str)) else TypeError
        kind = "positive" if minimum == 1 else "non-negative"
        raise error(f"{name} must be a {kind} int or a pair of them, got {value!r}")
    if max(both) > LARGEST:
        raise ValueError(f"{name} must be at most {LARGEST}, got {value!r}")
    return index(both[0]), index(both[1])


def _describe(value) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _check_floating(value, name: str, shape: str) -> None:
    if not isinstance(value, torch.Tensor) or value.dtype not in FLOATING:
        raise TypeError(f"{name} must be a floating tensor {shape}, got {_describe(value)}")
    if value.layout is not torch.strided or value.is_nested:
        came = "a nested tensor" if value.is_nested else f"layout {value.layout}"
        raise TypeError(f"{name} must be a dense tensor {shape}, got {came}")
    if is_dtensor(value):
        raise TypeError(f"{name} must be a plain tensor {shape}, got a DTensor; to_local() or full_tensor() is one")


def is_dtensor(x: Any) -> bool:
    """Whether x is a DTensor, without importing them: where nobody has, there is none."""
    if type(x) is torch.Tensor:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def check_maps(x, name: str = "x") -> None:
    """x: floating [..., H, W] with at least one pixel."""
    _check_floating(x, name, "[..., H, W]")
    shape = x.shape
    if len(shape) < 2:
        raise ValueError(f"{name} must be a floating tensor [..., H, W], got {_describe(x)}")
    if index(shape[-1]) < 1 or index(shape[-2]) < 1:  # index: a trace warns of comparisons
        raise ValueError(f"{name} must have maps of at least 1x1 (batch dimensions may be empty), got {_describe(x)}")


def check_factors(x, left, right) -> None:
    """left [T, M, H] and right [T, N, W] for x [..., H, W]."""
    check_maps(x)
    for factor, name, size, letters in ((left, "left", x.shape[-2], "M, H"), (right, "right", x.shape[-1], "N, W")):
        _check_floating(factor, name, f"[T, {letters}]")
        if factor.dim() != 3 or factor.shape[0] not in (1, 2) or factor.shape[1] < 1 or factor.shape[2] != size:
            raise ValueError(
                f"{name} must be a floating tensor [T, {letters}] with T of 1 or 2 and {letters[-1]} = {size}, "
                f"got {_describe(factor)}"
            )
        if factor.device != x.device:
            raise ValueError(f"{name} must be on the device of x ({x.device}), got {factor.device}")
        if factor.requires_grad:
            raise ValueError(f"{name} must be a constant: separable2d has gradients for x alone")
    if left.shape[0] != right.shape[0]:
        raise ValueError(f"left and right must have the same number of terms, got {left.shape[0]} and {right.shape[0]}")


def check_variant(pool: str, variant) -> None:
    if not isinstance(variant, str) or variant not in designs.VARIANTS[pool]:
        known = ", ".join(repr(v) for v in designs.VARIANTS[pool])
        raise ValueError(f"variant of {pool}_pool2d must be one of {known}, got {variant!r}")


def check_reduction(reduction) -> None:
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")


def check_conv2d(x, weight, bias, stride, padding, dilation, groups) -> tuple[int, int]:
    """The tensors and geometry of a convolution; returns L1, the size of its stride-1 map."""
    check_maps(x)
    _check_floating(weight, "weight", "[Cout, Cin / groups, kH, kW]")
    if x.dim() not in (3, 4):
        raise ValueError(f"x must be a floating tensor [B, Cin, H, W] or [Cin, H, W], got {_describe(x)}")
    if weight.dim() != 4 or min(weight.shape) < 1:
        raise ValueError(f"weight must be a floating tensor [Cout, Cin / groups, kH, kW], got {_describe(weight)}")
    if not _is_int(groups):
        raise TypeError(f"groups must be a positive int, got {groups!r}")
    if groups < 1:
        raise ValueError(f"groups must be a positive int, got {groups!r}")
    channels, outputs = x.shape[-3], weight.shape[0]
    if channels != weight.shape[1] * groups or outputs % groups:
        raise ValueError(
            f"weight must be [Cout, Cin / groups, kH, kW] with Cout a multiple of groups: got {list(weight.shape)} "
            f"with groups={groups} for an x of {channels} channels"
        )
    if weight.dtype != x.dtype:
        raise TypeError(f"weight must have the dtype of x ({x.dtype}), got {weight.dtype}")
    if weight.device != x.device:
        raise ValueError(f"weight must be on the device of x ({x.device}), got {weight.device}")
    if bias is not None:
        _check_floating(bias, "bias", "[Cout]")
        if tuple(bias.shape) != (outputs,):
            raise ValueError(f"bias must be a floating tensor [{outputs}], got {_describe(bias)}")
        if bias.device != x.device:
            raise ValueError(f"bias must be on the device of x ({x.device}), got {bias.device}")
    sizes = [designs.correlation_size(x.shape[i - 2], weight.shape[i - 2], padding[i], dilation[i]) for i in (0, 1)]
    if min(sizes) < 1:
        raise ValueError(
            f"weight must fit in the padded x: kernel {list(weight.shape[-2:])} with dilation {list(dilation)} "
            f"on {list(x.shape[-2:])} with padding {list(padding)}"
        )
    return sizes[0], sizes[1]


def check_output(output, x, weight, stride_1, stride) -> None:
    """output: what the layer itself returned for x."""
    _check_floating(output, "output", "[B, Cout, N, M]")
    shape = (
        *x.shape[:-3],
        weight.shape[0],
        *(designs.output_size(size, step) for size, step in zip(stride_1, stride, strict=True)),
    )
    if tuple(output.shape) != shape:
        raise ValueError(f"output must be the layer's own strided output {list(shape)}, got {_describe(output)}")
    if output.dtype != x.dtype:
        raise TypeError(f"output must have the dtype of x ({x.dtype}), got {output.dtype}")
    if output.device != x.device:
        raise ValueError(f"output must be on the device of x ({x.device}), got {output.device}")


def check_positive(name: str, value: object) -> None:
    """Raise TypeError or ValueError unless ``value`` is an int above 0."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a positive int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be a positive int, got {value}")
