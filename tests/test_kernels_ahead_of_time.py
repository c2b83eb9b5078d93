"""Every Triton kernel compiled to machine code for three chips: no register spilled, shared memory within limits.

Sizes stand for their classes: one product of whole maps, one block of rows, several, split columns, several blocks of
columns. bfloat16 stands for float16 too, whose code differs in two conversions. The default run takes the rule's
choice and its alternative at the sizes of image networks on sm_90 and a part of them on the others; ``-m slow`` takes
everything there is.
"""

import json

import pytest
from ahead_of_time import LIMITS, RESERVED, Resources, misfits, offenders
from helpers import run_python

pytest.importorskip("triton")

POOLING = """
import itertools, sys
import torch
import ahead_of_time
from alias_ops import designs
from alias_ops.kernels import separable2d as launcher

def call(size, dtype, adjoint, last, pool="flc"):
    def launch():
        left, right = designs.pooling_factors(pool, size, size, dtype=torch.float32)
        small, large = (3, 64, left.shape[1], right.shape[1]), (3, 64, size, size)
        form = torch.channels_last if last else torch.contiguous_format
        shapes = (small, large) if adjoint else (large, small)
        x, y = (torch.empty(s, dtype=dtype, memory_format=form) for s in shapes)
        launcher.separable2d(x, left, right, adjoint, out=y)
    return f"{size} {dtype} adjoint={adjoint} channels_last={last}", launch, TF32

def terms(size, dtype):
    def launch():
        factors = torch.randn(2, size // 2, size), torch.randn(2, size // 2, size)
        launcher.separable2d(torch.empty(3, 64, size, size, dtype=dtype), *factors,
                             out=torch.empty(3, 64, size // 2, size // 2, dtype=dtype))
    return f"{size} {dtype} two terms", launch, TF32
"""

MEASURE = """
import torch
import ahead_of_time
from alias_ops.kernels import alias_l1 as launcher, separable2d

def call(size, dtype, backward, last):
    def launch():
        form = torch.channels_last if last else torch.contiguous_format
        x, maps = torch.empty((3, 64, size, size), dtype=dtype, memory_format=form), torch.empty(3, 64)
        if backward:
            launcher.alias_l1_backward(maps, x, [], [], (2, 2), out=torch.empty_like(x))
        else:
            launcher.alias_l1(x, [], [], (2, 2), out=maps)
    return f"{size} {dtype} backward={backward} channels_last={last}", launch, TF32
"""

FLOATS = "(torch.float32, torch.bfloat16)"


def check(code: str, timeout: int = 900) -> None:
    """Run a report in a process of its own and look for what does not fit."""
    process = run_python(code, timeout, TRITON_INTERPRET="0")
    assert process.returncode == 0, process.stderr
    assert misfits(process.stdout) == []


def pooling(sizes: str, capabilities: str, lasts: str = "(False,)", tf32: bool = False) -> str:
    return f"""{POOLING}
TF32 = {tf32}
calls = [call(*c) for c in itertools.product({sizes}, {FLOATS}, (False, True), {lasts})]
calls += [terms(size, dtype) for size in {sizes} if size in (30, 130) for dtype in {FLOATS}]
ahead_of_time.report(calls, launcher, capabilities={capabilities})
"""


def measure(sizes: str, capabilities: str, lasts: str = "(False,)", tf32: bool = False) -> str:
    return f"""{MEASURE}
TF32 = {tf32}
calls = [call(n, d, b, last) for n in {sizes} for d in {FLOATS} for b in (False, True) for last in {lasts}]
ahead_of_time.report(calls, launcher, separable2d, capabilities={capabilities})
"""


@pytest.mark.parametrize("capability", LIMITS)
def test_poolings_fit(capability):
    check(pooling("(14, 28, 56, 112, 224)" if capability == 90 else "(56, 112)", f"({capability},)"))


@pytest.mark.parametrize("capability", LIMITS)
def test_measures_fit(capability):
    check(measure("(14, 56, 112)" if capability == 90 else "(112,)", f"({capability},)"))


def test_channels_last_fits():
    check(pooling("(112,)", "(90,)", "(True,)"))


@pytest.mark.slow
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("capability", LIMITS)
@pytest.mark.parametrize("code_of", [pooling, measure])
def test_everything_fits(code_of, capability, tf32):
    sizes = "(4, 8, 14, 16, 20, 28, 30, 32, 33, 56, 64, 100, 112, 128, 130, 224, 256, 300, 512)"
    check(code_of(sizes, f"({capability},)", "(False, True)", tf32), 3600)


def test_what_does_not_fit_is_found():
    """A spilled register, a byte of shared memory too much, and neither."""
    fits = Resources("kernel", "", 80, 4, 255, 0, LIMITS[80] - RESERVED)
    spills, large = fits._replace(spilled=8), fits._replace(shared=fits.shared + 1)
    assert offenders(json.dumps([fits, spills, large])) == [spills, large]
    assert offenders(json.dumps([fits, spills, large]), spills=False) == [large]


def test_a_kernel_that_spills_is_reported_so():
    """The largest tile there is, in one warp."""
    code = f"""{POOLING}
TF32 = False
from alias_ops.kernels import _launch
huge = _launch.Config((("HB", 64), ("WB", 64), ("BM", 64), ("BN", 32), ("CB", 1)), 1)
launcher.candidates = lambda *arguments: (huge,)
ahead_of_time.report([call(56, torch.float32, False, False)], launcher, capabilities=(90,))
"""
    process = run_python(code, 900, TRITON_INTERPRET="0")
    assert process.returncode == 0, process.stderr
    assert [r.spilled > 0 for r in offenders(process.stdout)] == [True]
