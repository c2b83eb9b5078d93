"""The aliasing measure of convolutions and of maps, against its definition and against the layer itself."""

import pytest
import torch
import torch.nn.functional as F

import alias_ops
from alias_ops import reference

from .cases import CONV_ROWS, LAYERS, POOL_SWEEP
from .floor import conv_floor
from .race import checked, race


def conv_run(benchmark, settings, group, conv, direction):
    device, padding = settings.device, conv.kernel // 2
    x = torch.randn(conv.batch, conv.channels, conv.size, conv.size, device=device)
    weight = torch.randn(conv.outputs, conv.channels, conv.kernel, conv.kernel, device=device)
    y = F.conv2d(x, weight, stride=2, padding=padding)
    few = x[:1].double(), weight.double()
    error = checked(
        alias_ops.conv2d_aliasing(x[:1], weight, padding=padding, output=y[:1], reduction="none"),
        reference.conv2d_aliasing(*few, padding=padding, reduction="none"),
        torch.float32,
    )
    leaves = x.detach().requires_grad_(), weight.detach().requires_grad_()

    def call(function):
        if direction == "forward":

            def forward():
                with torch.no_grad():
                    function(x, weight)

            return forward

        def both():
            for leaf in leaves:
                leaf.grad = None
            out = function(*leaves)
            out.backward() if out.dim() == 0 else out.sum().backward()

        return both

    def ours(x, weight):
        return alias_ops.conv2d_aliasing(x, weight, padding=padding, output=y)

    rivals = {
        "without output": call(lambda x, weight: alias_ops.conv2d_aliasing(x, weight, padding=padding)),
        "definition": call(lambda x, weight: reference.conv2d_aliasing(x, weight, padding=padding)),
        "stride-1 convolution": call(lambda x, weight: F.conv2d(x, weight, padding=padding)),
        "strided convolution": call(lambda x, weight: F.conv2d(x, weight, stride=2, padding=padding)),
    }
    case = {
        "group": group,
        "op": "conv2d_aliasing",
        "layer": conv.name,
        "shape": list(conv[1:]),
        "dtype": "float32",
        "direction": direction,
        "relative error": error,
    }
    floor = conv_floor(conv, torch.float32) if direction == "forward" else None
    race(benchmark, settings, case, call(ours), rivals, floor)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize(
    "conv",
    [pytest.param(row, marks=pytest.mark.quick if row is CONV_ROWS[3] else (), id=row.name) for row in CONV_ROWS],
)
def test_conv(benchmark, settings, conv, direction):
    conv_run(benchmark, settings, "convolutions, bars", conv, direction)


@pytest.mark.parametrize("conv", LAYERS, ids=lambda conv: conv.name)
def test_layers(benchmark, settings, conv):
    conv_run(benchmark, settings, "convolutions, networks", conv, "forward")


@pytest.mark.parametrize("shape", POOL_SWEEP, ids=lambda shape: "x".join(map(str, shape)))
def test_maps(benchmark, settings, shape):
    x = torch.randn(shape, device=settings.device)
    sample = x[:1, :8]
    error = checked(
        alias_ops.aliasing(sample, reduction="none"),
        reference.aliasing(sample.double(), reduction="none"),
        torch.float32,
    )
    case = {
        "group": "aliasing of maps",
        "op": "aliasing",
        "shape": list(shape),
        "dtype": "float32",
        "direction": "forward",
        "relative error": error,
    }

    def call(function):
        def forward():
            with torch.no_grad():
                function(x)

        return forward

    rivals = {"definition": call(reference.aliasing), "max_pool2d": call(lambda x: F.max_pool2d(x, 2))}
    race(benchmark, settings, case, call(alias_ops.aliasing), rivals)
