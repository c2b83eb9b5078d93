"""Every Triton kernel compiled to machine code for three chips: no register spilled, shared memory within limits.

bfloat16 stands for float16 too, whose code differs in two conversions. The default run compiles each configuration
(blocks, warps, types, all constants) that sizes of image networks lead to, in either layout, with TF32 and without, on
one of the chips that take it, a third of them on each. ``-m slow`` compiles those and the ones of further sizes on all
three, four times as many; sizes stand for their classes there: one product of whole maps, one block of rows, several,
split columns, several blocks of columns.
"""

import json

import pytest
from ahead_of_time import LIMITS, RESERVED, Resources, misfits, offenders, shared_out
from helpers import run_python

pytest.importorskip("triton")

NETWORKS = (7, 8, 14, 16, 28, 32, 56, 64, 112, 128, 224, 256)
FURTHER = (4, 20, 30, 33, 100, 130, 300, 512)

POOLING = """
import itertools
import torch
import ahead_of_time
from alias_ops import designs
from alias_ops.kernels import separable2d as launcher

def call(size, dtype, adjoint, last, tf32, pool="flc"):
    def launch():
        left, right = designs.pooling_factors(pool, size, size, dtype=torch.float32)
        small, large = (3, 64, left.shape[1], right.shape[1]), (3, 64, size, size)
        form = torch.channels_last if last else torch.contiguous_format
        shapes = (small, large) if adjoint else (large, small)
        x, y = (torch.empty(s, dtype=dtype, memory_format=form) for s in shapes)
        launcher.separable2d(x, left, right, adjoint, out=y)
    return f"{size} {dtype} adjoint={adjoint} channels_last={last} tf32={tf32}", launch, tf32

def terms(size, dtype, tf32):
    def launch():
        factors = torch.randn(2, size // 2, size), torch.randn(2, size // 2, size)
        launcher.separable2d(torch.empty(3, 64, size, size, dtype=dtype), *factors,
                             out=torch.empty(3, 64, size // 2, size // 2, dtype=dtype))
    return f"{size} {dtype} two terms tf32={tf32}", launch, tf32

calls = [call(*c) for c in itertools.product(SIZES, DTYPES, (False, True), (False, True), (False, True))]
calls += [terms(*c) for c in itertools.product((30, 130), DTYPES, (False, True))]
ahead_of_time.report(calls, launcher, capabilities=CHIPS, once=ONCE)
"""

MEASURE = """
import itertools
import torch
import ahead_of_time
from alias_ops.kernels import alias_l1 as launcher, separable2d

def call(size, dtype, backward, last, tf32):
    def launch():
        form = torch.channels_last if last else torch.contiguous_format
        x, maps = torch.empty((3, 64, size, size), dtype=dtype, memory_format=form), torch.empty(3, 64)
        if backward:
            launcher.alias_l1_backward(maps, x, [], [], (2, 2), out=torch.empty_like(x))
        else:
            launcher.alias_l1(x, [], [], (2, 2), out=maps)
    return f"{size} {dtype} backward={backward} channels_last={last} tf32={tf32}", launch, tf32

calls = [call(*c) for c in itertools.product(SIZES, DTYPES, (False, True), (False, True), (False, True))]
ahead_of_time.report(calls, launcher, separable2d, capabilities=CHIPS, once=ONCE)
"""
OPS = pytest.mark.parametrize("code", [POOLING, MEASURE], ids=["pooling", "measure"])


def reported(code: str, sizes: tuple[int, ...], chips: tuple[int, ...], once: bool = False) -> str:
    """What compiling the launches of an op prints, in a process of its own."""
    given = f"import torch\nSIZES, CHIPS, ONCE, DTYPES = {sizes}, {chips}, {once}, (torch.float32, torch.bfloat16)"
    process = run_python(f"{given}\n{code}", 3600, TRITON_INTERPRET="0")
    assert process.returncode == 0, process.stderr
    return process.stdout


@OPS
def test_every_configuration_of_image_networks_fits(code):
    assert misfits(reported(code, NETWORKS, tuple(LIMITS), once=True)) == []


@pytest.mark.slow
@pytest.mark.parametrize("chip", LIMITS)
@OPS
def test_everything_fits(code, chip):
    assert misfits(reported(code, NETWORKS + FURTHER, (chip,))) == []


def test_each_configuration_goes_to_one_chip_that_has_it():
    found = shared_out({80: "abcde", 90: "abcdef", 100: "abcdefg"})
    assert sorted(found) == [*"abcdefg"]
    assert found["f"] != 80
    assert found["g"] == 100
    chips = list(found.values())
    assert sorted(chips.count(chip) for chip in (80, 90, 100)) == [2, 2, 3]


def test_what_does_not_fit_is_found():
    """A spilled register, a byte of shared memory too much, and neither."""
    fits = Resources("kernel", "", 80, 4, 255, 0, LIMITS[80] - RESERVED, None)
    spills, large = fits._replace(spilled=8), fits._replace(shared=fits.shared + 1)
    assert offenders(json.dumps([fits, spills, large])) == [spills, large]
    assert offenders(json.dumps([fits, spills, large]), spills=False) == [large]


def test_a_kernel_that_spills_is_reported_so():
    """The largest tile there is, in one warp."""
    code = """
from alias_ops.kernels import _launch
huge = _launch.Config((("HB", 64), ("WB", 64), ("BM", 64), ("BN", 32), ("CB", 1)), 1)
launcher.candidates = lambda *arguments: (huge,)
ahead_of_time.report([call(56, torch.float32, False, False, False)], launcher, capabilities=CHIPS)
"""
    found = reported(POOLING[: POOLING.index("calls =")] + code, (), (90,))
    assert [r.spilled > 0 for r in offenders(found)] == [True]
