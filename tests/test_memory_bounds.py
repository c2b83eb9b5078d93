"""Kernels read nothing beside their inputs: tensors that end before, or begin behind, a page that must not be touched.

A stray read ends the process, so these run in processes of their own, one per op.
"""

import ctypes
import mmap
import signal
import sys

import pytest
import torch
from helpers import DTYPES, run_python

import alias_ops
from alias_ops import _backend, designs

pytestmark = [
    pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"]),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs mprotect"),
]

SIZES = [(1, 1), (1, 5), (2, 2), (3, 7), (8, 8), (9, 17), (14, 13), (16, 33), (1, 40), (40, 1)]
CHANNELS = [1, 3, 16, 17]
CONVOLUTIONS = [(1, 1, 1), (3, 5, 1), (16, 17, 1), (17, 16, 1), (6, 6, 6), (8, 36, 4)]  # channels, outputs, groups


class Fence:
    """Copies tensors, strides and all, to memory beside a page without access."""

    def __init__(self, side):
        self.side = side
        self.protect = ctypes.CDLL(None, use_errno=True).mprotect

    def __call__(self, t):
        if t.numel() == 0:
            return t
        page = mmap.PAGESIZE
        used = -(-t.nbytes // page) * page
        memory = mmap.mmap(-1, used + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for address in (start, start + page + used):
            assert self.protect(ctypes.c_void_p(address), page, 0) == 0
        offset = page + (used - t.nbytes if self.side == "behind" else 0)
        packed = torch.frombuffer(memory, dtype=t.dtype, count=t.numel(), offset=offset)
        return packed.as_strided(t.shape, t.stride()).copy_(t)


def layouts(*shape, dtype):
    """Packed layouts: their elements are all there is between two fences."""
    t = torch.rand(shape).to(dtype)
    yield t
    yield t.to(memory_format=torch.channels_last)
    yield t.mT.contiguous().mT
    yield t.transpose(0, 1).contiguous().transpose(0, 1)


def call_separable2d(fence, size, dtype):
    for stride in (1, 2, 3):
        for factors in (
            designs.pooling_factors("asap", *size, (stride, stride)),
            designs.residual_factors(*size, (stride, stride)),
        ):
            left, right = (fence(f) for f in factors)
            back_left, back_right = (fence(f.mT.contiguous()) for f in factors)
            for channels in CHANNELS:
                for x in layouts(2, channels, *size, dtype=dtype):
                    y = torch.ops.alias_ops.separable2d(fence(x), left, right)
                    torch.ops.alias_ops.separable2d(fence(y), back_left, back_right)


def call_alias_l1(fence, size, dtype):
    for stride in (1, 2, 3):
        tables = [[fence(t) for t in designs.alias_tables(n, stride)] for n in size]
        for channels in CHANNELS:
            for x in layouts(2, channels, *size, dtype=dtype):
                maps = torch.ops.alias_ops.alias_l1(fence(x), *tables, (stride, stride))
                torch.ops.alias_ops.alias_l1_backward(fence(maps), fence(x), *tables, (stride, stride))


def call_conv2d_alias_l1(fence, size, dtype):
    for kernel, padding in ((1, 0), (3, 1), (2, 2)):
        tables = [[fence(t) for t in designs.conv_tables(n, kernel, 2, padding, 1)] for n in size]
        taps = [[fence(t) for t in designs.conv_tables_with_taps(n, kernel, 2, padding, 1)] for n in size]
        shape = [designs.output_size(designs.correlation_size(n, kernel, padding, 1), 2) for n in size]
        for channels, outputs, groups in CONVOLUTIONS:
            bias = fence(torch.ones(outputs).to(dtype))
            for x, weight, y in zip(
                layouts(2, channels, *size, dtype=dtype),
                layouts(outputs, channels // groups, kernel, kernel, dtype=dtype),
                layouts(2, outputs, *shape, dtype=dtype),
                strict=True,
            ):
                geometry = *tables, (2, 2), (padding, padding), (1, 1), groups
                inputs, kernels = fence(x), fence(weight)
                torch.ops.alias_ops.conv2d_alias_l1(inputs, kernels, bias, fence(y), *geometry)
                if channels // groups >= 16:
                    torch.ops.alias_ops.conv2d_alias_l1(inputs, kernels, None, None, *taps, *geometry[2:])


def call_conv2d_alias_l1_backward(fence, size, dtype):
    """The parts of it that are kernels here; what they write lies between fences, too."""
    if dtype in (torch.bfloat16, torch.float16):
        return  # the gradients are taken in float32
    kernels = torch.ops.alias_ops
    for kernel, padding in ((1, 1), (3, 1), (2, 2)):
        tables = [[fence(t) for t in designs.conv_tables(n, kernel, 2, padding, 1)] for n in size]
        taps = [[fence(t) for t in designs.conv_tables_with_taps(n, kernel, 2, padding, 1)] for n in size]
        shape = [designs.output_size(designs.correlation_size(n, kernel, padding, 1), 2) for n in size]
        for channels, outputs, groups in CONVOLUTIONS:
            weight = fence(torch.rand(outputs, channels // groups, kernel, kernel).to(dtype))
            bias, dweight = fence(torch.rand(outputs).to(dtype)), fence(torch.zeros_like(weight))
            grad = fence(torch.rand(2, outputs).to(dtype))
            for x, y in zip(
                layouts(2, channels, *size, dtype=dtype), layouts(2, outputs, *shape, dtype=dtype), strict=True
            ):
                inputs, output, dx = fence(x), fence(y), fence(torch.zeros_like(x))
                geometry = *tables, (2, 2), (padding, padding), (1, 1), groups
                _, d_output = kernels._conv2d_alias_l1_training(inputs, weight, bias, output, *geometry)
                d_output = fence(d_output)
                kernels._conv2d_alias_l1_tap_gradient(grad, d_output, inputs, weight, *taps, *geometry[2:])
                kernels._conv2d_alias_l1_low_gradient(d_output, inputs, weight, dx, dweight, *geometry)
                kernels._conv2d_alias_l1_low_part(d_output, inputs, weight, *geometry)
                kernels._residual_l1_gradient(grad, output, *(axis[4] for axis in tables))


def call_everything(op):
    """Runs in a process of its own."""
    calls = {
        "separable2d": call_separable2d,
        "alias_l1": call_alias_l1,
        "conv2d_alias_l1": call_conv2d_alias_l1,
        "conv2d_alias_l1_backward": call_conv2d_alias_l1_backward,
    }
    for side in ("behind", "before"):
        for size in SIZES:
            for dtype in DTYPES:
                print(op, side, size, dtype, flush=True)
                calls[op](Fence(side), size, dtype)
    print("fine")


@pytest.mark.parametrize("op", ["separable2d", "alias_l1", "conv2d_alias_l1", "conv2d_alias_l1_backward"])
def test_kernels_read_nothing_beside_their_inputs(op):
    process = run_python(f"import test_memory_bounds; test_memory_bounds.call_everything({op!r})")
    lines = process.stdout.splitlines() or [process.stderr]
    assert (process.returncode, lines[-1]) == (0, "fine"), process.stderr[-2000:]


@pytest.mark.parametrize(("side", "index"), [("behind", 100), ("before", -1)])
def test_the_fence_holds(side, index):
    """One element beside a fenced tensor, read by its address, ends the process."""
    process = run_python(f"""
import ctypes, torch, test_memory_bounds
t = test_memory_bounds.Fence({side!r})(torch.ones(100))
elements = ctypes.cast(t.data_ptr(), ctypes.POINTER(ctypes.c_float))
print(sum(elements[i] for i in range(100)), flush=True)
print(elements[{index}])
""")
    assert process.stdout == "100.0\n"
    assert process.returncode == -signal.SIGSEGV


# ---- wrong tables ----------------------------------------------------------------------------------------------------


def broken(tables):
    """Every way to give one table of one axis that is not of this geometry."""
    for axis in (0, 1):
        for place in range(len(tables[axis])):
            for damage in (lambda t: t[..., :-1].contiguous(), lambda t: torch.cat([t, t], -1)):
                damaged = [list(side) for side in tables]
                damaged[axis][place] = damage(damaged[axis][place])
                if damaged[axis][place].numel() != tables[axis][place].numel():
                    yield damaged
        yield [side[:-1] if i == axis else side for i, side in enumerate(tables)]
        yield [[] if i == axis else side for i, side in enumerate(tables)]


@pytest.mark.parametrize("kernel", [1, 3])
def test_tables_of_another_geometry_are_refused(kernel):
    """Reached by calling the ops themselves: the functions never pass such tables."""
    x, weight = torch.rand(2, 3, 9, 8), torch.rand(4, 3, kernel, kernel)
    padding = kernel // 2
    tables = [designs.alias_tables(n, 2) for n in (9, 8)]
    for damaged in broken(tables):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            torch.ops.alias_ops.alias_l1(x, *damaged, (2, 2))
    tables = [designs.conv_tables(n, kernel, 2, padding, 1) for n in (9, 8)]
    geometry = (2, 2), (padding, padding), (1, 1), 1
    expected = alias_ops.conv2d_aliasing(x, weight, padding=padding, reduction="none")
    assert torch.equal(torch.ops.alias_ops.conv2d_alias_l1(x, weight, None, None, *tables, *geometry), expected)
    for damaged in broken(tables):
        with pytest.raises((RuntimeError, IndexError, ValueError)):
            torch.ops.alias_ops.conv2d_alias_l1(x, weight, None, None, *damaged, *geometry)


@pytest.mark.parametrize(
    ("left", "right"),
    [((1, 4, 7), (1, 4, 8)), ((1, 4, 9), (1, 4, 9)), ((3, 4, 9), (3, 4, 8)), ((2, 4, 9), (1, 4, 8)), ((4, 9), (4, 8))],
    ids=str,
)
def test_factors_of_another_size_are_refused(left, right):
    with pytest.raises(RuntimeError):
        torch.ops.alias_ops.separable2d(torch.rand(2, 9, 8), torch.rand(left), torch.rand(right))
