"""The one-pass convolution measure in CUDA C++, run on the CPU by the emulator, against the definition in float64."""

import json
import re

import pytest
import torch
from cuda_conv2d import (
    DRIVER,
    assert_measures,
    expected_of,
    integers,
    launch,
    measured,
    numbers_of,
    operands,
    plan_of,
)
from cuda_kernels import KERNELS, LIMITS, compiled, emulated, pointer
from helpers import LAYOUTS, assert_close, randn, spectrum_l1

import alias_ops
from alias_ops import _backend
from alias_ops.kernels import conv2d_alias_l1_cuda as launcher
from alias_ops.kernels import conv2d_alias_l1_cuda_tables as packing
from alias_ops.reference import conv2d_aliasing
from benchmarks.gpu_report import write_fastest

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
}


# Every way to cut a map.
FEWER = ("rows of 16 outputs", "two rows a tile", "7 x 7 outputs", "four rows a tile", "kernel 1", "groups")


@pytest.mark.parametrize("name", CASES)
def test_geometries_in_float32(name):
    sizes, geometry = CASES[name]
    x, weight = operands(*sizes, groups=geometry.get("groups", 1))
    _, plan = assert_measures(x, weight, **geometry)
    assert plan.bands == plan.cluster == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
@pytest.mark.parametrize("name", FEWER)
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
    # A pair of TF32 numbers keeps 2**-22 of 8, which is more of a deviation of 0.25.
    expected = expected_of(x, weight, padding=kernel // 2)
    scale = expected + weight.double().abs().sum((1, 2, 3)) * 0.25 if precision == "tf32x3" else None
    out, _ = assert_measures(x, weight, precision, padding=kernel // 2, scale=scale)
    if precision == "bfloat16":
        assert (out - expected).norm() < 2e-3 * expected.norm()


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


@pytest.mark.parametrize("precision", packing.PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_image(value, precision):
    x, weight = operands(4, 2, 3, (7, 6), 3, precision)
    clean, _ = measured(x, weight, padding=1, precision=precision)
    x[2, 1, 3, 4] = value
    if value != value and x.dtype is torch.float32:
        x.view(torch.int32)[2, 1, 3, 4] = 0x7FFFFFFF  # the NaN that a GPU makes
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


def copied_bytes(x, weight, precision):
    numbers = integers(numbers_of(x, weight, 1, 1, 1, precision))
    return emulated(DRIVER).copied(numbers, pointer(x), integers(x.stride()))


@pytest.mark.parametrize(
    ("precision", "width", "copied"),
    [("bfloat16", 16, 16), ("bfloat16", 12, 8), ("bfloat16", 10, 4), ("bfloat16", 9, 0),
     ("tf32x3", 8, 16), ("tf32x3", 10, 8), ("tf32x3", 9, 4)],
)  # fmt: skip
def test_rows_are_copied_by_as_much_as_they_allow(precision, width, copied):
    x, weight = operands(2, 3, 4, (6, width), 3, precision)
    assert copied_bytes(x, weight, precision) == copied
    together, _ = assert_measures(x, weight, precision, padding=1)
    one_by_one, _ = measured(x, weight, padding=1, precision=precision, copied=0)
    assert torch.equal(together, one_by_one)
    shifted = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)
    assert copied_bytes(shifted, weight, precision) <= x.element_size()
    assert torch.equal(measured(shifted, weight, padding=1, precision=precision)[0], together)


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_rows_of_rounded_tables_keep_their_sum(precision):
    select, low = packing.designs.tap_factors(32, 3, 2, 1, 1)
    rows = packing.rounded_in_sum(low - select, precision)
    inside = rows[1]  # the middle tap meets no padding
    assert (inside - (low - select)[1]).abs().max() > 0
    assert inside.sum(-1).abs().max() < 1e-6
    assert packing.rounded(low - select, precision)[1].sum(-1).abs().max() > 1e-6


# ---- through the package ---------------------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch):
    """The backend "cuda" on CPU tensors, by the emulator; yields the images of every launch."""
    if reason := _backend.availability("cpu")["triton"]:
        pytest.skip(reason)
    listed, limit = [], LIMITS["sm_90"]

    def plan(like, layer, shared_memory, clusters):
        return torch.tensor(plan_of(layer, shared_memory, clusters))

    def serve(x, weight, left, right, wave_h, wave_w, layer, shared_memory, clusters, scale, scratch, out):
        listed.append(len(x))
        launch(x, weight, (left, right, wave_h, wave_w), layer, shared_memory, clusters, scale, scratch, out)
        return True

    with torch.library._scoped_library("alias_ops", "FRAGMENT") as fragment:
        fragment.define(launcher_schema("_cuda_conv2d_alias_l1_plan"))
        fragment.define(launcher_schema("_cuda_conv2d_alias_l1"))
        fragment.impl("_cuda_conv2d_alias_l1_plan", plan, "CPU")
        fragment.impl("_cuda_conv2d_alias_l1", serve, "CPU")
        monkeypatch.setattr(_backend, "_why_no_cuda", lambda device_type: "")
        monkeypatch.setattr(launcher, "_shared_memory", lambda device: limit)
        monkeypatch.setattr(launcher, "_clusters", lambda device: True)
        launcher._plan.cache_clear()
        with alias_ops.backend("cuda"):
            yield listed


def launcher_schema(name):
    """As csrc/cuda/conv2d_ops.cpp registers it."""
    text = (KERNELS / "conv2d_ops.cpp").read_text()
    found = re.search(rf'm\.def\(\s*("{name}\((?:[^"]|"\s*")*")\)', text)
    return re.sub(r'"\s*"', "", found[1]).strip('"')


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_operator_asks_for_it(calls, dtype):
    x, weight = randn(2, 6, 9, 8, dtype=dtype), randn(4, 3, 3, 3, dtype=dtype, seed=1)
    geometry = {"padding": 1, "groups": 2}
    out = alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none")
    assert calls == [2]
    assert_close(out, expected_of(x, weight, **geometry), dtype)


def test_calls_that_are_for_triton(calls):
    x, weight = randn(2, 3, 9, 8, dtype=torch.float32), randn(4, 3, 3, 3, dtype=torch.float32, seed=1)
    output = torch.nn.functional.conv2d(x, weight, stride=2)
    for others in ({"stride": 3}, {"stride": (2, 1)}, {"output": output}):
        out = alias_ops.conv2d_aliasing(x, weight, **others, reduction="none")
        others.pop("output", None)
        assert_close(out, conv2d_aliasing(x.double(), weight.double(), **others, reduction="none"), torch.float32)
    for kernel in (2, 9):
        weight = randn(4, 3, kernel, kernel, dtype=torch.float32, seed=1)
        out = alias_ops.conv2d_aliasing(x, weight, padding=2, reduction="none")
        assert_close(out, expected_of(x, weight, padding=2), torch.float32)
    assert alias_ops.conv2d_aliasing(x.double(), weight.double(), padding=2).dtype == torch.float64
    assert calls == []


def test_no_images(calls):
    x, weight = torch.empty(0, 3, 9, 8), randn(4, 3, 3, 3, dtype=torch.float32)
    assert alias_ops.conv2d_aliasing(x, weight, reduction="none").shape == (0, 4)
    assert calls == []


def test_residuals_in_memory_a_chunk_at_a_time(calls, monkeypatch):
    x, weight = randn(3, 2, 34, 34, dtype=torch.float32), randn(3, 2, 1, 1, dtype=torch.float32, seed=1)
    monkeypatch.setattr(launcher, "LARGEST_SCRATCH", 2 * 4 * 8 * 17 * 17)
    assert alias_ops.conv2d_aliasing(x, weight, reduction="none").shape == (3, 3)
    assert calls == [3]  # a cluster keeps them on chip
    calls.clear()
    monkeypatch.setattr(launcher, "_clusters", lambda device: False)
    out = alias_ops.conv2d_aliasing(x, weight, reduction="none")
    assert calls == [2, 1]
    assert_close(out, expected_of(x, weight), torch.float32)


def test_maps_whose_input_comes_in_parts(calls, monkeypatch):
    x, weight = randn(3, 2, 68, 9, dtype=torch.float32), randn(3, 2, 3, 1, dtype=torch.float32, seed=1)
    monkeypatch.setattr(launcher, "LARGEST_SCRATCH", 2 * 4 * 8 * 33 * 5)
    out = alias_ops.conv2d_aliasing(x, weight, reduction="none")
    assert calls == [2, 1]
    assert_close(out, expected_of(x, weight), torch.float32)


def test_the_table_is_made_of_layers_too(tmp_path):
    def case(n, dtype, triton, cuda):
        times = {"triton": {"median": triton}, "cuda": {"median": cuda}, "strided convolution": {"median": 1.0}}
        return {"op": "conv2d_alias_l1 by cuda", "n": n, "dtype": dtype, "times": times}

    cases = (
        (32, "float32", 2.0, 1.0),
        (32, "bfloat16", 2.0, 1.0),
        (32, "bfloat16", 1.1, 1.0),
        (16, "bfloat16", 1.2, 1.0),
    )
    results = [case(*each) for each in cases]
    document = {"dry run": False, "results": results, "device": {"name": "some GPU"}, "machine": {"versions": {}}}
    write_fastest(document, tmp_path / "fastest.json")
    found = json.loads((tmp_path / "fastest.json").read_text())["cuda"]
    assert found == {"conv2d_alias_l1 bfloat16": [16], "conv2d_alias_l1 float32": [32]}


def test_gradients_are_those_of_the_other_backends(calls):
    x, weight = randn(1, 2, 6, 6, dtype=torch.float32), randn(3, 2, 3, 3, dtype=torch.float32, seed=1)
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = torch.autograd.grad(expected_of(*exact, padding=1).sum(), exact)
    leaves = x.requires_grad_(), weight.requires_grad_()
    norms = alias_ops.conv2d_aliasing(*leaves, padding=1, reduction="sum")
    for gradient, other in zip(torch.autograd.grad(norms, leaves), expected, strict=True):
        assert_close(gradient, other, torch.float32)
    assert calls == [1]


# ---- what the compiler makes of it -----------------------------------------------------------------------------------

SOURCE = """
#include "conv2d_alias_l1_tiled.h"
using namespace alias_ops::cuda;
using namespace alias_ops::cuda::conv2d;
namespace alias_ops::cuda::conv2d {
template __global__ void conv2d_alias_l1_kernel<BFloat16, 1>(const Arguments);
template __global__ void conv2d_alias_l1_kernel<Half, 1>(const Arguments);
template __global__ void conv2d_alias_l1_kernel<float, 1>(const Arguments);
template __global__ void conv2d_alias_l1_kernel<float, 3>(const Arguments);
template __global__ void conv2d_alias_l1_tiled_kernel<BFloat16, 1>(const Arguments);
template __global__ void conv2d_alias_l1_tiled_kernel<Half, 1>(const Arguments);
template __global__ void conv2d_alias_l1_tiled_kernel<float, 1>(const Arguments);
template __global__ void conv2d_alias_l1_tiled_kernel<float, 3>(const Arguments);
template __global__ void residual_l1_kernel<1>(const Arguments);
template __global__ void residual_l1_kernel<3>(const Arguments);
template __global__ void large_residual_l1_kernel<1>(const Arguments);
template __global__ void large_residual_l1_kernel<3>(const Arguments);
}  // namespace alias_ops::cuda::conv2d
"""


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", pytest.param("sm_100", marks=pytest.mark.slow)])
def test_every_kernel_fits(architecture):
    """No register spilled, nothing on the stack; shared memory is the plan's, which is held against the same limits."""
    kernels = compiled(SOURCE, architecture)
    assert len(kernels) == 12
    for kernel in kernels:
        assert kernel.spilled == kernel.stack == kernel.shared == 0, kernel
        assert kernel.registers <= 255
