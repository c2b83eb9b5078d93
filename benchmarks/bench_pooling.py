"""FLC and ASAP pooling against everything people pool with."""

import pytest
import torch

import alias_ops
from alias_ops import reference

from . import peers
from .cases import DTYPES, GROWTH, POOL_BARS, POOL_SWEEP, maps_of
from .floor import pool_floor
from .race import checked, race, spread

DIRECTIONS = ["forward", "forward+backward"]
QUICK = (64, 64, 32, 32)


def shapes(sizes, quick=None):
    return [
        pytest.param(shape, marks=pytest.mark.quick if shape == quick else (), id="x".join(map(str, shape)))
        for shape in sizes
    ]


def runnable(layer, x, dy, direction):
    """The layer's call on x, and its gradient where asked for."""
    if direction == "forward":

        def forward():
            with torch.no_grad():
                layer(x)

        return forward
    leaf = x.detach().requires_grad_()

    def both():
        leaf.grad = None
        layer(leaf).backward(dy)

    return both


def built(make, *arguments):
    """A peer's layer; building it may fail, which is to be reported when it is called."""
    try:
        return make(*arguments)
    except peers.Unavailable as error:
        message = str(error)

        def missing(x):
            raise peers.Unavailable(message)

        return missing


def everybody(settings, shape, dtype):
    channels, device = shape[1], settings.device
    place = channels, device, dtype
    name, module = peers.published(settings.upstream)
    return {
        name: module,
        "rfft2": reference.flc_pool2d_rfft2,
        "rfft, cropped": reference.flc_pool2d_rfft,
        "matmul": peers.matmul(*shape[2:], device, dtype),
        "max_pool2d": peers.max_pool2d,
        "avg_pool2d": peers.avg_pool2d,
        "BlurPool (kornia)": built(peers.kornia, *place),
        "BlurPool (timm)": built(peers.timm, *place),
        "BlurPool (antialiased-cnns)": built(peers.antialiased_cnns, *place),
        "depthwise convolution": peers.depthwise(*place),
        "clone": torch.clone,
    }


def error_of(pool, x, y, dy, direction):
    """Of the call that is timed, at maps from all over the batch: its result, and its gradient where that is timed."""
    candidate, definition = (getattr(module, f"{pool}_pool2d") for module in (alias_ops, reference))
    chosen = spread(x.shape[0] * x.shape[1], max(2, 500_000 // (x.shape[2] * x.shape[3]))).to(x.device)
    maps, results, weights = (t.flatten(0, 1)[chosen] for t in (x, y, dy))
    leaf = maps.double().requires_grad_()
    expected = definition(leaf)
    error = checked(results, expected.detach(), x.dtype)
    if direction == "forward":
        return error
    given = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(candidate(given), given, dy)
    (exact,) = torch.autograd.grad(expected, leaf, weights.double())
    return max(error, checked(gradient.flatten(0, 1)[chosen], exact, x.dtype))


def run(benchmark, settings, group, pool, shape, dtype_name, direction, chosen=None):
    dtype = DTYPES[dtype_name]
    x = torch.randn(shape, device=settings.device).to(dtype)
    candidate = getattr(alias_ops, f"{pool}_pool2d")
    y = candidate(x)
    dy = torch.randn_like(y)
    error = error_of(pool, x, y, dy, direction)
    layers = everybody(settings, shape, dtype)
    layers["asap_pool2d" if pool == "flc" else "flc_pool2d"] = (
        alias_ops.asap_pool2d if pool == "flc" else alias_ops.flc_pool2d
    )
    gradient_of = {"clone": torch.randn_like(x)}
    calls = {
        name: runnable(layer, x, gradient_of.get(name, dy), direction)
        for name, layer in layers.items()
        if chosen is None or name in chosen
    }
    case = {
        "group": group,
        "op": f"{pool}_pool2d",
        "shape": list(shape),
        "dtype": dtype_name,
        "direction": direction,
        "relative error": error,
    }
    floor = pool_floor(pool, x, 1 if direction == "forward" else 2)
    race(benchmark, settings, case, runnable(candidate, x, dy, direction), calls, floor)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", shapes(POOL_BARS, QUICK))
def test_bars(benchmark, settings, shape, direction):
    run(benchmark, settings, "pooling, bars", "flc", shape, "float32", direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", shapes(POOL_SWEEP))
def test_sizes(benchmark, settings, shape, direction):
    run(benchmark, settings, "pooling, sizes", "flc", shape, "float32", direction)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", shapes(POOL_SWEEP))
@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtypes(benchmark, settings, shape, dtype, direction):
    few = {"matmul", "rfft2", "rfft, cropped", "max_pool2d", "clone"}
    run(benchmark, settings, "pooling, dtypes", "flc", shape, dtype, direction, few)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("shape", shapes(POOL_SWEEP))
def test_asap(benchmark, settings, shape, direction):
    run(benchmark, settings, "pooling, asap", "asap", shape, "float32", direction, {"flc_pool2d", "matmul", "clone"})


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("n", GROWTH)
def test_growth_with_n(benchmark, settings, n, direction):
    few = {"matmul", "rfft2", "rfft, cropped"}
    run(benchmark, settings, "growth with N", "flc", maps_of(n, 1_000_000), "float32", direction, few)


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16, 32, 64, 128, 256])
def test_growth_with_batch(benchmark, settings, batch):
    shape = (batch, 64, 28, 28)
    run(benchmark, settings, "growth with batch", "flc", shape, "float32", "forward", {"matmul", "max_pool2d"})


@pytest.mark.parametrize("channels", [1, 2, 4, 8, 16, 32, 64, 128, 256, 512])
def test_growth_with_channels(benchmark, settings, channels):
    shape = (16, channels, 28, 28)
    run(benchmark, settings, "growth with channels", "flc", shape, "float32", "forward", {"matmul", "max_pool2d"})


@pytest.mark.parametrize("direction", [pytest.param(d, marks=pytest.mark.quick) for d in DIRECTIONS])
def test_call(benchmark, settings, direction):
    """What a call costs where the map costs nothing."""
    run(benchmark, settings, "call overhead", "flc", (1, 1, 8, 8), "float32", direction, {"max_pool2d", "avg_pool2d"})
