"""CUDA C++ kernels compiled by nvcc: no register spilled, shared memory within what the chip has.

The default run takes a cross-section, ``-m slow`` every kernel for every chip. bfloat16 stands for float16, whose code
differs in the instruction of two conversions and the product.
"""

import subprocess
from pathlib import Path

import pytest
import torch
from cuda_kernels import EMULATOR, KERNELS, LIMITS, ROOT, compiled

FORMS = {"kDense": (0, 1), "kHalfIn": (0,), "kHalfOut": (1,)}  # of each, maps that shrink and maps that grow
TYPES = ("float, 3", "float, 1", "BFloat16, 1", "Half, 1")
SIDES = (8, 14, 16, 28, 32, 56, 64, 112)

SEPARABLE = """
#include "separable2d_kernel.h"
using namespace alias_ops::cuda;
"""


def separable(kind: str, side: int, form: str, grows: int, architecture: str) -> str:
    """One kernel, and a complaint of the compiler if it asks for too much shared memory."""
    dtype, products = kind.split(", ")
    size, out = (side // 2, side) if grows else (side, side // 2)
    kernel = f"<{dtype}, {size}, {out}, Form::{form}, {products}>"
    fits = f"static_assert(Separable2d{kernel}::P.shared_bytes() + 1024 <= {LIMITS[architecture]});"
    arguments = f"const {dtype}*, {dtype}*, const char*, int64_t"
    return f"{fits}\ntemplate __global__ void alias_ops::cuda::separable2d_kernel{kernel}({arguments});\n"


def every_separable(architecture: str, kinds=TYPES, sides=SIDES) -> list[str]:
    """Float32 at 112 is more than sm_80's shared memory holds; its launcher leaves those to Triton."""
    return [
        separable(kind, side, form, grows, architecture)
        for kind in kinds
        for side in sides
        for form, directions in FORMS.items()
        for grows in directions
        if not (architecture == "sm_80" and side == 112 and kind.startswith("float"))
    ]


def check(kernels: list[str], architecture: str) -> None:
    found = compiled(SEPARABLE + "".join(kernels), architecture)
    assert len(found) == len(kernels)
    assert [k for k in found if k.spilled or k.stack or k.registers < 16] == []


@pytest.mark.parametrize(
    ("architecture", "kinds", "sides"),
    [("sm_90", ("float, 3", "BFloat16, 1"), (14, 56, 112)), ("sm_80", ("float, 3",), (64,))],
    ids=["sm_90", "sm_80"],
)
def test_a_cross_section(architecture, kinds, sides):
    check(every_separable(architecture, kinds, sides), architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", LIMITS)
@pytest.mark.parametrize("kind", TYPES)
def test_every_kernel(architecture, kind):
    check(every_separable(architecture, (kind,)), architecture)


def test_the_launchers_name_every_kernel():
    """Their instantiations follow from one list, which the sources give to each launcher whole."""
    kernel = (KERNELS / "separable2d_kernel.h").read_text()
    assert f"using SeparableSides = Sides<{', '.join(map(str, SIDES))}>;" in kernel
    launchers = "".join((KERNELS / name).read_text() for name in ("separable2d.cu", "separable2d_16_bits.cu"))
    assert all(f"launch_separable2d<{kind}>" in launchers for kind in TYPES)


def test_a_kernel_that_spills_is_seen(tmp_path):
    text = "__global__ void __launch_bounds__(1024, 2) k(float* a) { float b[200];\n#pragma unroll\n"
    text += "for (int i = 0; i < 200; ++i) b[i] = a[i * 7]; __syncthreads();\n#pragma unroll\n"
    text += "for (int i = 0; i < 200; ++i) a[i * 9] = b[i] * b[199 - i]; }"
    (kernel,) = compiled(text, "sm_90")
    assert kernel.registers == 32
    assert kernel.spilled > 0


@pytest.mark.parametrize("source", ["ops.cpp", "conv2d_ops.cpp"])
def test_the_host_side_needs_no_header_of_cuda(source):
    """csrc/cuda/*ops.cpp go through the ordinary compiler, and what it includes of PyTorch is the stable ABI."""
    include = Path(torch.__file__).parent / "include"
    flags = [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include", "-DUSE_CUDA"]
    text = (ROOT / "setup.py").read_text()
    target = text.partition('TARGET_TORCH = "')[2].partition('"')[0]
    compiler = pytest.importorskip("shutil").which("g++") or pytest.skip("no C++ compiler")
    command = [compiler, "-std=c++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *flags]
    done = subprocess.run(
        [*command, f"-DTORCH_TARGET_VERSION={target}", "-H", str(KERNELS / source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "torch/csrc/stable/library.h" in done.stderr
    assert "cuda_runtime" not in done.stderr
    assert "c10/cuda" not in done.stderr


def test_files_of_the_emulator_are_short_too():
    for path in (*EMULATOR.iterdir(), *KERNELS.iterdir()):
        assert path.read_text().count("\n") < 400, path
