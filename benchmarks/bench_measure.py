"""The aliasing measure of convolutions and of maps, against its definition and against the layer itself."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

import alias_ops
from alias_ops import reference

from .cases import CONV_ROWS, LAYERS, POOL_SWEEP
from .floor import alias_floor, conv_floor
from .race import checked, race, spread

# The gradient holds D / |D|: where D is nearly 0 its direction is mostly rounding.
GRADIENT_SLACK = 10


def conv_error(x, weight, padding, direction, ways=("with output", "without output")):
    """Of the call that is timed, at a few images, in all these ways, and of its gradients where they are timed."""
    images = spread(x.shape[0], 3).to(x.device)
    leaves = x[images].double().requires_grad_(), weight.double().requires_grad_()
    expected = reference.conv2d_aliasing(*leaves, padding=padding, reduction="none")
    errors = []
    for way in ways:
        given = x.detach().requires_grad_(), weight.detach().requires_grad_()
        output = None if way == "without output" else F.conv2d(*given, stride=2, padding=padding)
        kwargs = {"output": output, "through_output": way == "through output"}
        maps = alias_ops.conv2d_aliasing(*given, padding=padding, reduction="none", **kwargs)[images]
        errors.append(checked(maps.detach(), expected.detach(), x.dtype))
        if direction != "forward":
            dx, dweight = torch.autograd.grad(maps.sum(), given)
            exact = torch.autograd.grad(expected.sum(), leaves, retain_graph=True)
            for gradient, wanted in zip((dx[images], dweight), exact):
                errors.append(checked(gradient, wanted, x.dtype, GRADIENT_SLACK))
    return max(errors)


def maps_error(x, direction):
    """Of the measure of some maps, and of its gradients where they are timed."""
    chosen = spread(x.shape[0] * x.shape[1], max(2, 500_000 // (x.shape[2] * x.shape[3]))).to(x.device)
    leaf, maps = x.detach().requires_grad_(), x.flatten(0, 1)[chosen].double().requires_grad_()
    actual, expected = alias_ops.aliasing(leaf, reduction="none"), reference.aliasing(maps, reduction="none")
    error = checked(actual.detach().flatten()[chosen], expected.detach(), x.dtype)
    if direction == "forward":
        return error
    (dx,), (exact,) = torch.autograd.grad(actual.sum(), leaf), torch.autograd.grad(expected.sum(), maps)
    return max(error, checked(dx.flatten(0, 1)[chosen], exact, x.dtype, GRADIENT_SLACK))


def conv_run(benchmark, settings, group, conv, direction):
    device, padding = settings.device, conv.kernel // 2
    x = torch.randn(conv.batch, conv.channels, conv.size, conv.size, device=device)
    weight = torch.randn(conv.outputs, conv.channels, conv.kernel, conv.kernel, device=device)
    y = F.conv2d(x, weight, stride=2, padding=padding)
    error = conv_error(x, weight, padding, direction)
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
    floor = conv_floor(conv, x, direction != "forward")
    race(benchmark, settings, case, call(ours), rivals, floor)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize(
    "conv",
    [pytest.param(row, marks=pytest.mark.quick if row is CONV_ROWS[3] else (), id=row.name) for row in CONV_ROWS],
)
def test_conv(benchmark, settings, conv, direction):
    conv_run(benchmark, settings, "convolutions, bars", conv, direction)


@pytest.mark.parametrize("conv", CONV_ROWS, ids=lambda conv: conv.name)
def test_conv_in_training(benchmark, settings, conv):
    """Forward and backward of a layer with the measure as a term of the loss. What it adds is the difference to the
    layer alone, the backward of which takes along what goes through the output.
    """
    device, padding = settings.device, conv.kernel // 2
    x = torch.randn(conv.batch, conv.channels, conv.size, conv.size, device=device)
    weight = torch.randn(conv.outputs, conv.channels, conv.kernel, conv.kernel, device=device)
    error = conv_error(x, weight, padding, "forward+backward", ["through output"])
    leaves = x.requires_grad_(), weight.requires_grad_()
    dy = torch.randn_like(F.conv2d(x, weight, stride=2, padding=padding).detach())

    def step(term=None):
        def call():
            for leaf in leaves:
                leaf.grad = None
            y = F.conv2d(*leaves, stride=2, padding=padding)
            loss = (y * dy).sum()
            (loss if term is None else loss + term(y)).backward()

        return call

    def ours(y, **kwargs):
        return alias_ops.conv2d_aliasing(*leaves, padding=padding, output=y, **kwargs)

    rivals = {
        "layer alone": step(),
        "not through the output": step(ours),
        "definition": step(lambda y: reference.conv2d_aliasing(*leaves, padding=padding)),
    }
    case = {
        "group": "convolutions, training",
        "op": "layer and conv2d_aliasing(through_output=True)",
        "layer": conv.name,
        "shape": list(conv[1:]),
        "dtype": "float32",
        "direction": "forward+backward",
        "relative error": error,
    }
    race(benchmark, settings, case, step(partial(ours, through_output=True)), rivals)


@pytest.mark.parametrize("conv", LAYERS, ids=lambda conv: conv.name)
def test_layers(benchmark, settings, conv):
    conv_run(benchmark, settings, "convolutions, networks", conv, "forward")


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", POOL_SWEEP, ids=lambda shape: "x".join(map(str, shape)))
def test_maps(benchmark, settings, shape, direction):
    x = torch.randn(shape, device=settings.device)
    error = maps_error(x, direction)
    leaf = x.detach().requires_grad_()
    case = {
        "group": "aliasing of maps",
        "op": "aliasing",
        "shape": list(shape),
        "dtype": "float32",
        "direction": direction,
        "relative error": error,
    }

    def call(function):
        if direction == "forward":

            def forward():
                with torch.no_grad():
                    function(x)

            return forward

        def both():
            leaf.grad = None
            out = function(leaf)
            out.backward(torch.ones_like(out))

        return both

    rivals = {"definition": call(reference.aliasing), "max_pool2d": call(lambda x: F.max_pool2d(x, 2))}
    race(benchmark, settings, case, call(alias_ops.aliasing), rivals, alias_floor(x, direction != "forward"))
