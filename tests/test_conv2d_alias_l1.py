"""``conv2d_aliasing``: every backend against the convolution run with stride 1, in float64."""

import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, LAYOUTS, SINGLE_AND_DOUBLE, aliases, assert_close, randn

import alias_ops
from alias_ops import designs, reference

DOUBLE = torch.float64
OP = torch.ops.alias_ops.conv2d_alias_l1.default
BACKWARD = torch.ops.alias_ops.conv2d_alias_l1_backward.default

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def case(channels=(3, 4), kernel=3, size=(12, 12), batch=2, groups=1, **geometry):
    """Shapes of x and weight, and the keyword arguments of the convolution."""
    inputs, outputs = channels
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    return (batch, inputs, *size), (outputs, inputs // groups, *kernel), {"groups": groups, **geometry}


CASES = {
    **{f"kernel {k}": case(kernel=k, padding=k // 2) for k in (1, 2, 3, 5, 7)},
    **{f"kernel {k}, odd size": case(kernel=k, padding=k // 2, size=(15, 11)) for k in (1, 2, 3, 5, 7)},
    **{f"stride {s}": case(stride=s, padding=1, size=(17, 16)) for s in (1, 2, 3, 4, 5)},
    **{f"stride {s}, kernel 1": case(stride=s, kernel=1, size=(17, 16)) for s in (1, 2, 3, 4, 5)},
    **{f"padding {p}": case(padding=p, size=(9, 14)) for p in (0, 1, 2, 3)},
    "padding above the kernel": case(kernel=3, padding=7, size=(8, 5)),
    "padding with kernel 1": case(kernel=1, padding=2, size=(8, 5)),
    "padding along one axis with kernel 1": case(kernel=1, padding=(0, 1), size=(8, 5)),
    "padding above the map": case(kernel=3, padding=9, dilation=2, size=(4, 5)),
    "dilation 2": case(kernel=3, padding=2, dilation=2),
    "dilation 3, no padding": case(kernel=3, dilation=3, size=(13, 16)),
    "dilation with kernel 1": case(kernel=1, dilation=5),
    "kernel as large as the padded map": case(kernel=7, padding=1, size=(5, 5)),
    "stride above the kernel": case(kernel=2, stride=4, size=(13, 18)),
    "stride above the map": case(kernel=3, stride=40, padding=1),
    "patches": case(kernel=4, stride=4, size=(16, 12)),
    "non-square kernel": case(kernel=(1, 5), padding=(0, 2)),
    "another non-square kernel": case(kernel=(4, 2), padding=(2, 0), size=(11, 14)),
    "a pair of everything": case(kernel=(3, 2), stride=(2, 3), padding=(0, 3), dilation=(1, 2), size=(12, 15)),
    "stride along one axis": case(stride=(1, 2), padding=1),
    "one row": case(kernel=(1, 3), padding=(0, 1), size=(1, 17)),
    "one column": case(kernel=(3, 1), padding=(1, 0), size=(18, 1)),
    "one output": case(kernel=5, size=(6, 5)),
    "large map": case(channels=(2, 3), padding=1, size=(66, 61), batch=1),
    "depthwise": case(channels=(6, 6), groups=6, padding=1),
    "depthwise, more outputs": case(channels=(6, 18), groups=6, padding=1),
    "depthwise, many": case(channels=(40, 40), groups=40, padding=1, size=(9, 8)),
    "depthwise, kernel 1": case(channels=(21, 42), groups=21, kernel=1),
    "groups": case(channels=(8, 6), groups=2, padding=1),
    "groups of few channels": case(channels=(15, 20), groups=5, kernel=2, size=(9, 8)),
    "groups of one vector": case(channels=(32, 32), groups=2, padding=1, size=(8, 7)),
    "groups above one vector": case(channels=(6, 51), groups=3, padding=1, size=(8, 7)),
    "groups, kernel 1": case(channels=(12, 68), groups=2, kernel=1, size=(9, 8)),
    "groups of few channels, kernel 1": case(channels=(15, 20), groups=5, kernel=1, size=(9, 8)),
    **{f"{i} to {o} channels": case(channels=(i, o), padding=1, size=(8, 7), batch=3) for i, o in
       ((1, 1), (15, 17), (16, 16), (17, 33), (33, 15), (64, 3))},
    **{f"{i} to {o} channels, kernel 1": case(channels=(i, o), kernel=1, size=(8, 7), batch=3) for i, o in
       ((1, 1), (15, 17), (16, 16), (17, 33), (33, 15), (64, 3))},
    **{f"batch of {b}": case(batch=b, padding=1, size=(6, 6)) for b in (1, 3, 15, 16, 17, 33)},
}  # fmt: skip
cases = pytest.mark.parametrize("name", CASES)
# A cross-section for what need not be repeated for every geometry.
some_cases = pytest.mark.parametrize(
    "name",
    ["kernel 1", "kernel 3, odd size", "a pair of everything", "groups of few channels", "depthwise", "batch of 3"],
)


def operands(name, dtype=DOUBLE):
    x_shape, weight_shape, geometry = CASES[name]
    return randn(*x_shape, dtype=dtype), randn(*weight_shape, dtype=dtype, seed=1), {"stride": 2, **geometry}


def layer(x, weight, bias=None, stride=2, padding=0, dilation=1, groups=1):
    """What the layer itself returns: accumulated in float64, rounded once."""
    bias = None if bias is None else bias.double()
    return F.conv2d(x.double(), weight.double(), bias, stride, padding, dilation, groups).to(x.dtype)


def expected_aliasing(x, weight, **geometry):
    return reference.conv2d_aliasing(x.double(), weight.double(), **geometry, reduction="none")


def aliasing(x, weight, *args, **kwargs):
    return alias_ops.conv2d_aliasing(x, weight, *args, reduction="none", **kwargs)


def stride_1_size(x, weight, geometry):
    return layer(x, weight, **{**geometry, "stride": 1}).shape[-2:]


def assert_measures(x, weight, geometry, dtype, **kwargs):
    actual, expected = aliasing(x, weight, **geometry, **kwargs), expected_aliasing(x, weight, **geometry)
    assert actual.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    # Where nothing aliases, what is left is rounding, in proportion to the layer's output.
    aliased = aliases(stride_1_size(x, weight, geometry), geometry["stride"])
    scale = None if aliased else layer(x.double(), weight, **geometry)
    assert_close(actual, expected, dtype, scale=scale)


# ---- geometry, dtypes ------------------------------------------------------------------------------------------------


@cases
def test_geometries(backend, name):
    for dtype in SINGLE_AND_DOUBLE:
        assert_measures(*operands(name, dtype), dtype)


@cases
def test_geometries_with_the_output_at_hand(backend, name):
    for dtype in SINGLE_AND_DOUBLE:
        x, weight, geometry = operands(name, dtype)
        assert_measures(x, weight, geometry, dtype, output=layer(x, weight, **geometry))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@cases
def test_half_precision(backend, name, dtype):
    x, weight, geometry = operands(name, dtype)
    assert_measures(x, weight, geometry, dtype)
    assert_measures(x, weight, geometry, dtype, output=layer(x, weight, **geometry))


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@some_cases
def test_moduli_where_squares_under_and_overflow(backend, name, factor):
    x, weight, geometry = operands(name, torch.float32)
    for scaled in ((x * factor, weight), (x, weight * factor)):
        assert_measures(*scaled, geometry, torch.float32)
        assert_measures(*scaled, geometry, torch.float32, output=layer(*scaled, **geometry))


@cases
def test_gradients(backend, name):
    x, weight, geometry = operands(name)
    if not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
        pytest.skip("D is 0, and the direction of D/|D| rounding noise")
    leaves = x.requires_grad_(), weight.requires_grad_()
    expected = expected_aliasing(*leaves, **geometry)
    weights = randn(*expected.shape, seed=5)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), leaves)
    for output in (None, layer(*leaves, **geometry)):
        actual = aliasing(*leaves, output=output, **geometry)
        gradients = torch.autograd.grad((actual * weights).sum(), leaves)
        for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
            assert_close(gradient, expected_gradient, DOUBLE)


@dtypes
@some_cases
def test_gradients_in_every_dtype(backend, name, dtype):
    x, weight, geometry = operands(name, dtype)
    leaves = x.requires_grad_(), weight.requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in leaves]
    actual, expected = aliasing(*leaves, **geometry).mean(), expected_aliasing(*exact, **geometry).mean()
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, exact), strict=True
    ):
        assert gradient.dtype == dtype
        assert_close(gradient, expected_gradient, dtype)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_gradient_of_one_operand_alone(backend, wanted):
    x, weight, geometry = operands("groups")
    leaf = {"x": x, "weight": weight}[wanted].requires_grad_()
    (gradient,) = torch.autograd.grad(aliasing(x, weight, **geometry).sum(), leaf)
    (expected,) = torch.autograd.grad(expected_aliasing(x, weight, **geometry).sum(), leaf)
    assert_close(gradient, expected, DOUBLE)


# ---- bias and output -------------------------------------------------------------------------------------------------


@dtypes
@some_cases
def test_bias_changes_nothing(backend, name, dtype):
    x, weight, geometry = operands(name, dtype)
    bias = randn(len(weight), dtype=dtype, seed=2)
    without = aliasing(x, weight, **geometry)
    assert torch.equal(aliasing(x, weight, bias, **geometry), without)
    given = aliasing(x, weight, bias, output=layer(x, weight, bias, **geometry), **geometry)
    assert_close(given, expected_aliasing(x, weight, **geometry), dtype)


def test_output_is_taken_at_its_word(backend):
    """The strided output counts as given, and the kept bins of the stride-1 map as x and weight say."""
    x, weight, geometry = operands("padding 1")
    output = layer(x, weight, **geometry) + randn(2, 4, 5, 7, seed=6)
    low_h, low_w = designs.low_pass(9, 2), designs.low_pass(14, 2)
    residual = output - low_h @ F.conv2d(x, weight, padding=1) @ low_w.mT
    expected = torch.fft.fft2(residual, norm="forward").abs().sum((-1, -2))
    assert_close(aliasing(x, weight, output=output, **geometry), expected, DOUBLE)


@pytest.mark.parametrize("kernel", [1, 3])
def test_output_and_bias_are_constants(backend, kernel):
    """The measure does not change with the bias: no gradient may say so, not even through the given output."""
    x, weight = randn(2, 3, 8, 9).requires_grad_(), randn(4, 3, kernel, kernel, seed=1)
    bias = randn(4, seed=2).requires_grad_()
    output = layer(x, weight, bias).requires_grad_()
    maps = aliasing(x, weight, bias, output=output)
    for constant in (bias, output):
        (gradient,) = torch.autograd.grad(maps.sum(), constant, allow_unused=True, retain_graph=True)
        assert gradient is None or not gradient.any()


def test_reductions(backend):
    x, weight, geometry = operands("kernel 3")
    maps = aliasing(x, weight, **geometry)
    assert maps.shape == (2, 4)
    assert_close(alias_ops.conv2d_aliasing(x, weight, **geometry), maps.mean(), DOUBLE)
    assert_close(alias_ops.conv2d_aliasing(x, weight, reduction="sum", **geometry), maps.sum(), DOUBLE)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_layouts(backend, layout, kernel):
    make = LAYOUTS[layout]
    for channels, groups in (((5, 6), 1), ((16, 17), 1), ((18, 36), 9)):
        for dtype in (DOUBLE, torch.float32, torch.bfloat16):
            # 10 x 9 outputs of a 1 x 1 layer, or of a 3 x 3 one with padding, whatever the layout.
            x = make(2, channels[0], 10, 9, dtype=dtype)
            weight = make(channels[1], channels[0] // groups, kernel, kernel, dtype=dtype, seed=1)
            noise = 0.1 * make(2, channels[1], 5, 5, dtype=torch.float64, seed=2)
            geometry = {"stride": 2, "padding": kernel // 2, "groups": groups}
            output = torch.empty_like(noise, dtype=dtype).copy_(layer(x.double(), weight, **geometry))
            # A constant row of weights or of x may alias little: relative to what the layer returns.
            actual = aliasing(x, weight, **geometry), aliasing(x, weight, output=output, **geometry)
            for maps in actual:
                assert_close(maps, expected_aliasing(x, weight, **geometry), dtype, scale=output)


@dtypes
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last_and_its_gradients(backend, kernel, dtype):
    form = torch.channels_last
    x, weight = randn(2, 17, 9, 8, dtype=dtype), randn(16, 17, kernel, kernel, dtype=dtype, seed=1)
    leaves = x.to(memory_format=form).requires_grad_(), weight.to(memory_format=form).requires_grad_()
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    geometry = {"stride": 2, "padding": kernel // 2}
    output = layer(x, weight, **geometry).to(memory_format=form)
    actual, expected = aliasing(*leaves, output=output, **geometry).sum(), expected_aliasing(*exact, **geometry).sum()
    assert_close(actual, expected, dtype)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, exact), strict=True
    ):
        assert_close(gradient, expected_gradient, dtype)


@some_cases
def test_unbatched(backend, name):
    x, weight, geometry = operands(name)
    maps = aliasing(x, weight, **geometry)
    output = layer(x, weight, **geometry)
    for image, expected, out in zip(x, maps, output, strict=True):
        assert_close(aliasing(image, weight, **geometry), expected, DOUBLE)
        assert_close(aliasing(image, weight, output=out, **geometry), expected, DOUBLE)


@pytest.mark.parametrize("kernel", [1, 3])
@dtypes
def test_empty_batches(backend, kernel, dtype):
    x = torch.empty(0, 3, 9, 8, dtype=dtype, requires_grad=True)
    weight = randn(4, 3, kernel, kernel, dtype=dtype).requires_grad_()
    maps = aliasing(x, weight)
    assert maps.shape == (0, 4)
    assert alias_ops.conv2d_aliasing(x, weight).isnan()
    dx, dweight = torch.autograd.grad(maps.sum(), (x, weight))
    assert dx.shape == x.shape
    assert torch.equal(dweight, torch.zeros_like(weight))
