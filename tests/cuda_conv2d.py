"""The CUDA C++ kernel of the one-pass convolution measure, run by the emulator: what its tests share."""

import ctypes

import torch
from cuda_kernels import LIMITS, emulated, message_of, pointer
from helpers import assert_close, randn

from alias_ops.kernels import conv2d_alias_l1_cuda as launcher
from alias_ops.kernels import conv2d_alias_l1_cuda_tables as packing
from alias_ops.reference import conv2d_aliasing

DRIVER = "conv2d_alias_l1.cpp"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "tf32x3": torch.float32}
# Of results in TF32: operands of 11 bits, as float16 has them.
ALLOWED = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float16, "tf32x3": torch.float32}


def pair(value):
    return value if isinstance(value, tuple) else (value, value)


def numbers_of(x, weight, padding, dilation, groups, precision):
    axes = [n for d in (0, 1) for n in (x.shape[d + 2], weight.shape[d + 2], pair(padding)[d], pair(dilation)[d])]
    return [*x.shape[:2], len(weight), groups, packing.PRECISIONS.index(precision), *axes]


def integers(values):
    return (ctypes.c_int64 * len(values))(*values)


def plan_of(numbers, limit, clusters):
    out = integers([0] * len(packing.Plan._fields))
    emulated(DRIVER).plan(integers(numbers), limit, clusters, out)
    return packing.Plan(*out)


def message_of_launch(x, packed, tables, numbers, limit, clusters, scale, scratch, out, copied=-1):
    reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride()))
    for written in (scratch, out):
        written.fill_(torch.nan)
    return message_of(
        emulated(DRIVER).measure, integers(numbers), limit, clusters, pointer(x), integers(x.stride()), copied,
        ctypes.c_int64(reach * x.element_size()), *map(pointer, (packed, *tables)), ctypes.c_float(scale),
        pointer(scratch), pointer(out),
    )  # fmt: skip


def launch(*arguments):
    """One call of the emulated kernel; it writes every number of out, and reads nothing that is not x or a table."""
    assert message_of_launch(*arguments) == ""


def prepared(x, weight, padding=0, dilation=1, groups=1, precision="tf32x3", limit=LIMITS["sm_90"], clusters=True):
    """What a launch takes, and the plan."""
    numbers = numbers_of(x, weight, padding, dilation, groups, precision)
    plan = plan_of(numbers, limit, clusters)
    assert plan.shared, "not served"
    axes = [(x.shape[d + 2], weight.shape[d + 2], 2, pair(padding)[d], pair(dilation)[d]) for d in (0, 1)]
    tables = packing.tables(tuple(axes), plan, precision, torch.device("cpu"))
    packed = packing.packed_weight(weight, groups, plan, precision)
    outputs = [-(-(size + 2 * p - d * (k - 1)) // 2) for size, k, _, p, d in axes]
    scratch = torch.empty(launcher.scratch_numbers(plan, len(x), len(weight), groups, outputs[0] * outputs[1]))
    out = torch.empty(len(x), len(weight))
    return (x, packed, tables, numbers, limit, clusters, packing.scale_of(precision), scratch, out), plan


def measured(x, weight, copied=-1, **how):
    """Norms of every map, by the emulated kernel; and its plan."""
    arguments, plan = prepared(x, weight, **how)
    launch(*arguments, copied)
    return arguments[-1], plan


def expected_of(x, weight, padding=0, dilation=1, groups=1):
    return conv2d_aliasing(
        x.double(), weight.double(), stride=2, padding=padding, dilation=dilation, groups=groups, reduction="none"
    )


def assert_measures(
    x, weight, precision="tf32x3", limit=LIMITS["sm_90"], clusters=True, copied=-1, scale=None, **geometry
):
    out, plan = measured(x, weight, precision=precision, limit=limit, clusters=clusters, copied=copied, **geometry)
    assert_close(out, expected_of(x, weight, **geometry), ALLOWED[precision], scale=scale)
    return out, plan


def operands(batch, channels, outputs, size, kernel, precision="tf32x3", groups=1):
    x = randn(batch, channels, *pair(size), dtype=DTYPES[precision])
    return x, randn(outputs, channels // groups, *pair(kernel), dtype=DTYPES[precision], seed=1)
