"""The one-pass convolution measure in CUDA C++, run on the CPU by the emulator, against the definition in float64."""

import ctypes

import pytest
import torch
from cuda_kernels import LIMITS, emulated, message_of, pointer
from helpers import assert_close, randn

from alias_ops.kernels import conv2d_alias_l1_cuda as packing
from alias_ops.reference import conv2d_aliasing

DRIVER = "conv2d_alias_l1.cpp"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "tf32x3": torch.float32}
# Of results in TF32: operands of 11 bits, as float16 has them.
ALLOWED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float16, "tf32x3": torch.float32}


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def numbers_of(x, weight, padding, dilation, groups, precision):
    axes = [n for d in (0, 1) for n in (x.shape[d + 2], weight.shape[d + 2], pair(padding)[d], pair(dilation)[d])]
    values = [*x.shape[:2], len(weight), groups, packing.PRECISIONS.index(precision), *axes]
    return (ctypes.c_int64 * len(values))(*values)


def plan_of(numbers, limit=LIMITS["sm_90"]):
    out = (ctypes.c_int64 * len(packing.Plan._fields))()
    emulated(DRIVER).plan(numbers, limit, out)
    return packing.Plan(*out)


def measured(x, weight, padding=0, dilation=1, groups=1, precision="tf32x3", limit=LIMITS["sm_90"], copied=None):
    """Norms of every map, by the emulated kernel; and its plan."""
    numbers = numbers_of(x, weight, padding, dilation, groups, precision)
    plan = plan_of(numbers, limit)
    assert plan.shared, "not served"
    geometry = tuple(
        (x.shape[d + 2], weight.shape[d + 2], 2, pair(padding)[d], pair(dilation)[d]) for d in (0, 1)
    )
    tables = packing.tables(geometry, plan, precision, torch.device("cpu"))
    packed = packing.packed_weight(weight, groups, plan, precision)
    out = torch.full((len(x), len(weight)), torch.nan)
    reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    message = message_of(
        emulated(DRIVER).measure, numbers, limit, pointer(x), (ctypes.c_int64 * 4)(*x.stride()),
        packing.copied_bytes(x) if copied is None else copied, pointer(packed), *map(pointer, tables),
        ctypes.c_float(packing.scale_of(precision)), pointer(out), ctypes.c_int64(reach * x.element_size()),
        ctypes.c_int64(packed.numel() * packed.element_size()),
    )  # fmt: skip
    assert message == ""
    return out, plan


def expected_of(x, weight, padding=0, dilation=1, groups=1):
    return conv2d_aliasing(
        x.double(), weight.double(), stride=2, padding=padding, dilation=dilation, groups=groups, reduction="none"
    )
