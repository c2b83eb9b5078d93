"""Maps above the limits of ``ops._fft`` take ``torch.fft``: the same numbers as by dense factors, and gradients."""

import pytest
import torch
from helpers import ALL_POOLS, DTYPES, aliases, assert_close, pool2d, randn, reference_pool2d, spectrum_l1

import alias_ops
from alias_ops import reference
from alias_ops.ops import _fft

DOUBLE = torch.float64
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
SIZES = [(16, 16), (15, 33), (14, 7), (9, 40), (1, 12), (13, 1)]
STRIDES = [1, 2, 3, 4, (1, 2), (5, 3)]

# A kernel beyond the padded part makes the map longer than what the layer keeps: its transform wraps around.
CONVOLUTIONS = {
    "3x3": {"kernel": (3, 3), "padding": 1},
    "1x1": {"kernel": (1, 1)},
    "3x3 without padding": {"kernel": (3, 3)},
    "7x7 without padding": {"kernel": (7, 7)},
    "wraps": {"kernel": (9, 12), "padding": (0, 1)},
    "wraps several times": {"kernel": (12, 13)},
    "wraps by dilation": {"kernel": (3, 4), "dilation": (5, 3)},
    "one output": {"kernel": (13, 14)},
    "padding above the kernel": {"kernel": (3, 2), "padding": (6, 4)},
    "stride 3": {"kernel": (3, 3), "padding": 1, "stride": 3},
    "a pair of everything": {"kernel": (2, 3), "stride": (3, 2), "padding": (1, 0), "dilation": (2, 1)},
    "groups": {"kernel": (3, 3), "padding": 1, "groups": 2},
}


def spied(function, calls):
    def spy(*args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    return spy


@pytest.fixture
def fft(monkeypatch):
    """Calls a function as if every map were above the limit; fails if it does without an FFT."""

    def call(function, *args, **kwargs):
        calls = []
        with monkeypatch.context() as patch:
            patch.setattr(_fft, "DENSE_LIMIT", 0)
            patch.setattr(_fft, "DENSE_MEASURE_LIMIT", 0)
            patch.setattr(_fft, "DENSE_MAPS_LIMIT", 0)
            for name in ("fft", "rfft", "rfft2"):
                patch.setattr(torch.fft, name, spied(getattr(torch.fft, name), calls))
            result = function(*args, **kwargs)
        assert calls or args[0].numel() == 0, "the dense path was taken"
        return result

    return call


def convolution(name, size=(13, 14), dtype=DOUBLE):
    geometry = {"stride": 2, **CONVOLUTIONS[name]}
    kernel = geometry.pop("kernel")
    x = randn(2, 4, *size, dtype=dtype)
    return x, randn(6, 4 // geometry.get("groups", 1), *kernel, dtype=dtype, seed=1), geometry


# ---- both paths ------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("size", [(16, 16), (15, 33), (14, 7), (9, 40), (30, 6)], ids=str)
@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_poolings(fft, pool, variant, size, dtype):
    x = randn(2, 3, *size, dtype=dtype).requires_grad_()
    large, dense = fft(pool2d, pool, x, 2, variant), pool2d(pool, x, 2, variant)
    assert large.dtype == dtype
    assert_close(large, reference_pool2d(pool, x, 2, variant), dtype)
    assert_close(large, dense, dtype)
    dy = randn(*large.shape, dtype=dtype, seed=1)
    gradients = [torch.autograd.grad(y, x, dy)[0] for y in (large, dense)]
    assert_close(*gradients, dtype)


@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pool", ["flc", "asap"])
def test_strides_of_poolings(fft, pool, size, stride):
    x = randn(3, *size)
    assert_close(fft(pool2d, pool, x, stride), pool2d(pool, x, stride), DOUBLE)


@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_aliasing(fft, size, stride):
    x = randn(3, *size).requires_grad_()
    scale = None if aliases(size, stride) else spectrum_l1(x, stride)
    maps = [
        fft(alias_ops.aliasing, x, stride, reduction="none"),
        alias_ops.aliasing(x, stride, reduction="none"),
    ]
    assert_close(*maps, DOUBLE, scale=scale)
    if aliases(size, stride):
        assert_close(*[torch.autograd.grad(m.sum(), x)[0] for m in maps], DOUBLE)


@dtypes
def test_aliasing_in_every_dtype(fft, dtype):
    x = randn(2, 3, 15, 16, dtype=dtype)
    maps = fft(alias_ops.aliasing, x, reduction="none")
    assert maps.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert_close(maps, reference.aliasing(x.double(), reduction="none"), dtype)


@dtypes
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(fft, name, dtype):
    x, weight, geometry = convolution(name, dtype=dtype)
    expected = reference.conv2d_aliasing(x.double(), weight.double(), **geometry, reduction="none")
    # A layer with one output keeps its only bin: AM is 0 up to rounding, in proportion to the output.
    output = torch.nn.functional.conv2d(x.double(), weight.double(), **geometry)
    scale = output if name == "one output" else None
    maps = fft(alias_ops.conv2d_aliasing, x, weight, **geometry, reduction="none")
    assert maps.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert_close(maps, expected, dtype, scale=scale)
    given = fft(alias_ops.conv2d_aliasing, x, weight, **geometry, output=output.to(dtype), reduction="none")
    assert_close(given, expected, dtype, scale=scale)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name != "one output"])
def test_gradients_of_convolutions(fft, name, given):
    x, weight, geometry = convolution(name)
    leaves = x.requires_grad_(), weight.requires_grad_()
    output = torch.nn.functional.conv2d(x, weight, **geometry) if given else None
    large = fft(alias_ops.conv2d_aliasing, *leaves, output=output, **geometry)
    expected = torch.autograd.grad(reference.conv2d_aliasing(*leaves, **geometry), leaves)
    for gradient, expected_gradient in zip(torch.autograd.grad(large, leaves), expected, strict=True):
        assert_close(gradient, expected_gradient, DOUBLE)


@pytest.mark.parametrize("size", [(4, 31), (31, 4), (17, 18)], ids=str)
@pytest.mark.parametrize("kernel", [(1, 3), (3, 1), (3, 4)])
def test_convolutions_of_long_maps(fft, size, kernel):
    x, weight = randn(2, 3, *size), randn(2, 3, *kernel, seed=1)
    maps = fft(alias_ops.conv2d_aliasing, x, weight, stride=2, reduction="none")
    assert_close(maps, alias_ops.conv2d_aliasing(x, weight, stride=2, reduction="none"), DOUBLE)


def test_bias_in_the_given_output(fft):
    x, weight, geometry = convolution("3x3")
    bias = randn(6, seed=2)
    output = torch.nn.functional.conv2d(x, weight, bias, **geometry)
    actual = fft(alias_ops.conv2d_aliasing, x, weight, bias, **geometry, output=output, reduction="none")
    assert_close(actual, reference.conv2d_aliasing(x, weight, **geometry, reduction="none"), DOUBLE)


# ---- layouts, empty batches, gradients by finite differences ---------------------------------------------------------


def test_channels_last_comes_back_channels_last(fft):
    x = randn(2, 5, 12, 9).to(memory_format=torch.channels_last)
    y = fft(alias_ops.asap_pool2d, x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_close(y, reference_pool2d("asap", x), DOUBLE)
    assert fft(alias_ops.asap_pool2d, x.contiguous()).is_contiguous()


@pytest.mark.parametrize("leading", [(), (0,), (2, 0, 3), (2, 1, 3)], ids=str)
def test_leading_dimensions(fft, leading):
    x = randn(*leading, 12, 9)
    # An empty batch never gets to an FFT that has work to do.
    y = fft(alias_ops.flc_pool2d, x)
    assert y.shape == (*leading, 6, 5)
    assert_close(y, reference_pool2d("flc", x) if x.numel() else y, DOUBLE)
    maps = fft(alias_ops.aliasing, x, reduction="none")
    assert maps.shape == leading
    assert_close(maps, alias_ops.aliasing(x, reduction="none"), DOUBLE)


def test_empty_batch_of_a_convolution(fft):
    maps = fft(alias_ops.conv2d_aliasing, randn(0, 3, 9, 8), randn(4, 3, 3, 3), reduction="none")
    assert maps.shape == (0, 4)


def test_gradcheck(fft):
    x = randn(1, 2, 7, 6).requires_grad_()
    weight = randn(2, 2, 3, 3, seed=1).requires_grad_()
    assert fft(torch.autograd.gradcheck, alias_ops.asap_pool2d, x)
    assert fft(torch.autograd.gradgradcheck, alias_ops.asap_pool2d, x)
    assert fft(torch.autograd.gradcheck, alias_ops.aliasing, x)
    assert fft(torch.autograd.gradcheck, alias_ops.conv2d_aliasing, (x, weight))


# ---- the limits themselves -------------------------------------------------------------------------------------------

LIMITS = sorted({_fft.DENSE_LIMIT, _fft.DENSE_MEASURE_LIMIT, _fft.DENSE_MAPS_LIMIT})


@pytest.mark.parametrize("size", [size for n in LIMITS for size in ((n, 2), (n + 1, 3), (2, n + 2), (1, 2 * n + 5))])
def test_maps_around_the_limits(backend, size):
    for dtype in DTYPES:
        x = randn(2, *size, dtype=dtype)
        assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), dtype)
        assert_close(alias_ops.asap_pool2d(x, 3), reference_pool2d("asap", x, 3), dtype)
        assert_close(alias_ops.aliasing(x), reference.aliasing(x.double()), dtype)


@pytest.mark.parametrize("width", [n + more for n in LIMITS for more in (0, 1, 9)])
def test_convolutions_around_the_limits(backend, width):
    x, weight = randn(1, 2, 3, width), randn(2, 2, 3, 3, seed=1)
    expected = reference.conv2d_aliasing(x, weight, padding=1, reduction="none")
    assert_close(alias_ops.conv2d_aliasing(x, weight, padding=1, reduction="none"), expected, DOUBLE)


def test_stride_1_maps_beyond_the_limits_by_padding_alone(backend):
    """A small input whose padding makes the stride-1 map a large one."""
    x, weight = randn(1, 1, 3, 3), randn(1, 1, 1, 3, seed=1)
    padding = (0, 2 * max(LIMITS))
    expected = reference.conv2d_aliasing(x, weight, padding=padding, reduction="none")
    actual = alias_ops.conv2d_aliasing(x, weight, padding=padding, reduction="none")
    assert_close(actual, expected, DOUBLE, scale=x.norm() * weight.norm())
