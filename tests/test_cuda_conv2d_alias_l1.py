"""The one-pass convolution measure in CUDA C++, run on the CPU by the emulator, against the definition in float64."""

import ctypes

import pytest
import torch
from cuda_kernels import LIMITS, compiled, emulated, message_of, pointer
from helpers import LAYOUTS, assert_close, randn, spectrum_l1

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


def assert_measures(x, weight, precision="tf32x3", limit=LIMITS["sm_90"], copied=None, scale=None, **geometry):
    out, plan = measured(x, weight, precision=precision, limit=limit, copied=copied, **geometry)
    assert_close(out, expected_of(x, weight, **geometry), ALLOWED[precision], scale=scale)
    return out, plan


def operands(batch, channels, outputs, size, kernel, precision="tf32x3", groups=1):
    x = randn(batch, channels, *pair(size), dtype=DTYPES[precision])
    return x, randn(outputs, channels // groups, *pair(kernel), dtype=DTYPES[precision], seed=1)


# ---- geometry --------------------------------------------------------------------------------------------------------

# batch, channels, outputs, size, kernel; padding, dilation, groups
CASES = {
    "rows of 16 outputs": ((1, 3, 5, 32, 3), {"padding": 1}),
    "14 x 14 outputs": ((1, 2, 3, 28, 3), {"padding": 1}),
    "two rows a tile": ((3, 20, 9, (16, 15), 3), {"padding": 1}),
    "7 x 7 outputs": ((2, 3, 4, 14, 3), {"padding": 1}),
    "four rows a tile": ((5, 18, 6, 8, 3), {"padding": 1}),
    "one output": ((2, 3, 4, 3, 3), {}),
    "one row, one column": ((2, 3, 4, (1, 9), 1), {}),
    "kernel 1": ((3, 34, 6, 8, 1), {}),
    "kernel 1, padding": ((1, 3, 6, (9, 6), 1), {"padding": (2, 0)}),
    "kernel 5": ((1, 3, 4, 11, 5), {"padding": 2}),
    "kernel 7": ((1, 2, 3, 12, 7), {"padding": 3}),
    "kernel 3 x 1": ((5, 6, 20, (7, 9), (3, 1)), {"padding": (1, 0)}),
    "kernel 1 x 5, dilation": ((1, 6, 3, (6, 17), (1, 5)), {"dilation": (1, 3)}),
    "padding above the kernel": ((1, 3, 3, (5, 4), 3), {"padding": (4, 6)}),
    "dilation": ((1, 3, 3, 12, 3), {"padding": 2, "dilation": 2}),
    "groups": ((2, 4, 6, (9, 10), 3), {"padding": 1, "groups": 2}),
    "depthwise": ((1, 3, 3, 7, 3), {"padding": 1, "groups": 3}),
    "more outputs than a block's": ((1, 2, 130, 6, 1), {}),
    "more images than a block's": ((17, 2, 3, 8, 1), {}),
    "bands": ((1, 2, 3, (34, 36), 3), {"padding": 1}),
    "bands, groups": ((1, 2, 18, (34, 20), 1), {"groups": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_geometries_in_float32(name):
    sizes, geometry = CASES[name]
    x, weight = operands(*sizes, groups=geometry.get("groups", 1))
    _, plan = assert_measures(x, weight, **geometry)
    assert (plan.bands > 1) == name.startswith("bands")


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
@pytest.mark.parametrize("name", ["rows of 16 outputs", "two rows a tile", "7 x 7 outputs", "four rows a tile", "kernel 1",
                                  "groups", "bands"])  # fmt: skip
def test_geometries_in_fewer_bits(name, precision):
    sizes, geometry = CASES[name]
    x, weight = operands(*sizes, precision, groups=geometry.get("groups", 1))
    out, _ = assert_measures(x, weight, precision, **geometry)
    # And they really are fewer.
    expected = expected_of(x, weight, **geometry)
    assert (out - expected).norm() > 1e-5 * expected.norm()


@pytest.mark.parametrize("precision", ["bfloat16", "tf32x3"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_without_room_for_a_second_buffer(kernel, precision):
    """One buffer of everything, a barrier more: the same numbers bit for bit."""
    x, weight = operands(1, 40, 5, 12, kernel, precision)
    plenty, plan = assert_measures(x, weight, precision, padding=kernel // 2)
    limit = plan.shared - 16
    little, small_plan = assert_measures(x, weight, precision, limit, padding=kernel // 2)
    assert (plan.x_buffers, small_plan.x_buffers) == (2 if kernel > 1 else 3, 1)
    assert torch.equal(plenty, little)


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", packing.PRECISIONS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_large_mean_stays_in_its_bin(kernel, precision):
    """What a table's rounding leaks out of DC counts in every other bin."""
    x, weight = operands(1, 4, 6, 9, kernel, precision)
    x = (x * 0.25 + 8).to(x.dtype)
    # What float32 rounds x to is no error of the measure, but a map of mean 8 keeps 2**-24 of that.
    scale = expected_of(x, weight, padding=kernel // 2) + weight.double().abs().sum((1, 2, 3)) * 0.25
    assert_measures(x, weight, precision, padding=kernel // 2, scale=scale)


@pytest.mark.parametrize("factor", [1e-25, 1e25])
def test_moduli_where_squares_under_and_overflow(factor):
    x, weight = operands(1, 3, 4, (6, 7), 3)
    assert_measures(x * factor, weight, padding=1)
    assert_measures(x, weight * factor, padding=1)


def test_sums_beyond_float16():
    """x near float16's largest number: its transforms are beyond it, the result is not."""
    x, weight = operands(1, 3, 4, 8, 3, "float16")
    x = 65504 * x.sign()
    assert_measures(x, (weight / 1024).half(), "float16", padding=1)


@pytest.mark.parametrize("precision", ["bfloat16", "tf32x3"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_image(value, precision):
    x, weight = operands(4, 2, 3, (7, 6), 3, precision)
    clean, _ = measured(x, weight, padding=1, precision=precision)
    x[2, 1, 3, 4] = value
    maps, plan = measured(x, weight, padding=1, precision=precision)
    assert plan.images == 4
    assert not maps[2].isfinite().any()
    assert torch.equal(maps[[0, 1, 3]], clean[[0, 1, 3]])


# ---- operands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    make = LAYOUTS[layout]
    x, weight = make(2, 3, 6, 8, dtype=torch.float32), make(4, 3, 3, 3, dtype=torch.float32, seed=1)
    strided = torch.nn.functional.conv2d(x.double(), weight.double(), stride=2, padding=1)
    assert_measures(x, weight, padding=1, scale=spectrum_l1(strided, 1))


@pytest.mark.parametrize(
    ("precision", "width", "copied"),
    [("bfloat16", 16, 16), ("bfloat16", 12, 8), ("bfloat16", 10, 4), ("bfloat16", 9, 0),
     ("tf32x3", 8, 16), ("tf32x3", 10, 8), ("tf32x3", 9, 4)],
)  # fmt: skip
def test_rows_are_copied_by_as_much_as_they_allow(precision, width, copied):
    x, weight = operands(2, 3, 4, (6, width), 3, precision)
    assert packing.copied_bytes(x) == copied
    together, _ = assert_measures(x, weight, precision, padding=1)
    one_by_one, _ = measured(x, weight, padding=1, precision=precision, copied=0)
    assert torch.equal(together, one_by_one)
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    assert packing.copied_bytes(shifted) <= x.element_size()
    assert torch.equal(measured(shifted, weight, padding=1, precision=precision)[0], together)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_rows_of_rounded_tables_keep_their_sum(precision):
    select, low = packing.designs.tap_factors(32, 3, 2, 1, 1)
    rows = packing.rounded_in_sum(low - select, precision)
    inside = rows[1]  # the middle tap meets no padding
    assert (inside - (low - select)[1]).abs().max() > 0
    assert inside.sum(-1).abs().max() < 1e-6
    assert packing.rounded(low - select, precision)[1].sum(-1).abs().max() > 1e-6


# ---- what the compiler makes of it -----------------------------------------------------------------------------------

KERNELS = """
#include "conv2d_alias_l1.h"
using namespace alias_ops::cuda;
using namespace alias_ops::cuda::conv2d;
namespace alias_ops::cuda::conv2d {
template __global__ void conv2d_alias_l1<BFloat16, 1>(const Arguments);
template __global__ void conv2d_alias_l1<Half, 1>(const Arguments);
template __global__ void conv2d_alias_l1<float, 1>(const Arguments);
template __global__ void conv2d_alias_l1<float, 3>(const Arguments);
template __global__ void residual_l1<1>(const Arguments);
template __global__ void residual_l1<3>(const Arguments);
}  // namespace alias_ops::cuda::conv2d
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_every_kernel_fits(architecture):
    """No register spilled, nothing on the stack; shared memory is the plan's, which is held against the same limits."""
    kernels = compiled(KERNELS, architecture)
    assert len(kernels) == 6
    for kernel in kernels:
        assert kernel.spilled == kernel.stack == kernel.shared == 0, kernel
        assert kernel.registers <= 255
