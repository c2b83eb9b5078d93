"""The kernels of ``conv2d_alias_l1`` compiled for three chips: every block size that the launcher can choose.

Each on one of the chips by default, a third of them on each; on all three with ``-m slow``.
"""

import pytest
from ahead_of_time import LIMITS, misfits
from helpers import run_python

pytest.importorskip("triton")

# batch, input and output channels, size, kernel, stride, groups; branch; channels_last
LAYERS = {
    "kept bins of 16": ((70, 64, 128, 32, 3, 2, 1), "bins", False),
    "channels last": ((70, 64, 128, 32, 3, 2, 1), "bins", True),
    "small maps": ((70, 32, 64, 16, 3, 2, 1), "bins", False),
    "bins beyond 32": ((3, 3, 64, 130, 7, 2, 1), "bins", False),
    "bins beyond 16": ((3, 16, 16, 66, 3, 2, 1), "bins", False),
    "depthwise": ((70, 32, 32, 16, 3, 2, 32), "bins", False),
    "one tap": ((70, 128, 256, 56, 1, 2, 1), "pointwise", False),
    "one tap, channels last": ((3, 16, 16, 16, 1, 2, 1), "pointwise", True),
    "one tap, bins beyond 32": ((3, 16, 16, 130, 1, 2, 1), "pointwise", False),
    "on chip, 16 x 16": ((70, 64, 128, 32, 3, 2, 1), "residual", False),
    "on chip, 8 x 8": ((70, 64, 128, 16, 3, 2, 1), "residual", False),
    "on chip, wide rows": ((70, 64, 128, 32, 1, 4, 1), "residual", False),
    "gradients": ((70, 64, 128, 32, 3, 2, 1), "gradients", False),
    "gradients, channels last": ((70, 64, 128, 32, 3, 2, 1), "gradients", True),
    "gradients, small maps": ((20, 32, 64, 16, 3, 2, 1), "gradients", False),
    "gradients, tiny maps": ((3, 32, 32, 8, 3, 2, 2), "gradients", True),
    "gradients, bins beyond 32": ((3, 3, 64, 130, 7, 2, 1), "gradients", False),
    "gradients, bins beyond 16": ((3, 16, 16, 66, 3, 2, 1), "gradients", False),
    "gradients, large and channels last": ((3, 16, 16, 130, 3, 2, 1), "gradients", True),
    "gradients, depthwise": ((70, 32, 32, 16, 3, 2, 32), "gradients", False),
    "gradients, one tap": ((70, 128, 256, 56, 1, 2, 1), "gradients", False),
    "gradients, one tap, channels last": ((3, 16, 16, 16, 1, 2, 1), "gradients", True),
    "gradients, one tap, bins beyond 32": ((3, 16, 16, 130, 1, 2, 1), "gradients", False),
}

CODE = """
import ahead_of_time
from alias_ops.kernels import conv2d_alias_l1 as kernels, conv2d_alias_l1_backward as gradients
from alias_ops.kernels import conv2d_alias_l1_launch, separable2d
from alias_ops.kernels.conv2d_alias_l1_tables import tables
from alias_ops.kernels.conv2d_alias_l1_plan import on_chip

def launch(name, dtype):
    (batch, inputs, outputs, size, kernel, stride, groups), branch, last = LAYERS[name]
    form = torch.channels_last if last else torch.contiguous_format
    geometry = (stride, stride), (kernel // 2, kernel // 2), (1, 1)
    x = torch.zeros(batch, inputs, size, size, dtype=dtype).to(memory_format=form)
    weight = torch.zeros(outputs, inputs // groups, kernel, kernel, dtype=dtype)
    rows = (size + 2 * (kernel // 2) - kernel) // stride + 1
    output = torch.zeros(batch, outputs, rows, rows, dtype=dtype).to(memory_format=form)
    if branch == "gradients":
        out = torch.empty_like(x), torch.empty_like(weight)
        gradients.conv2d_alias_l1_backward(output[:, :, 0, 0], x, weight, [], [], *geometry, groups, out=out)
        return
    layer = kernels.layer_of(x, weight, output, *geometry, groups)
    t = tables(layer.geometry, x.device)
    if branch != "residual" or on_chip(layer, t):
        bias = weight[:, 0, 0, 0].contiguous() if name == "small maps" else None
        kernels.BRANCHES[branch](x, weight, bias, output, layer, t, geometry, torch.zeros(batch, outputs))

calls = [
    (f"{name} {dtype} tf32={tf32}", lambda name=name, dtype=dtype: launch(name, dtype), tf32)
    for name in LAYERS for dtype, tf32 in MODES
]
ahead_of_time.report(calls, separable2d, conv2d_alias_l1_launch, capabilities=CHIPS, once=ONCE)
"""
HALF = "[(torch.bfloat16, True), (torch.float16, True)]"
SINGLE = "[(torch.float32, True), (torch.float32, False)]"
TYPES = pytest.mark.parametrize("modes", [HALF, SINGLE], ids=["16 bits", "float32"])


def reported(modes: str, chips: tuple[int, ...], once: bool = False) -> str:
    """What compiling the launches of all layers prints, in a process of its own."""
    given = f"import torch\nLAYERS, MODES, CHIPS, ONCE = {LAYERS}, {modes}, {chips}, {once}"
    process = run_python(f"{given}\n{CODE}", 3600, TRITON_INTERPRET="0")
    assert process.returncode == 0, process.stderr
    return process.stdout


@TYPES
def test_every_configuration_fits(modes):
    assert misfits(reported(modes, tuple(LIMITS), once=True)) == []


@pytest.mark.slow
@TYPES
@pytest.mark.parametrize("chip", LIMITS)
def test_every_configuration_fits_every_chip(chip, modes):
    assert misfits(reported(modes, (chip,))) == []
