"""Gradients of ``conv2d_alias_l1`` in Triton against the definition in float64: interpreted, or on a GPU."""

import pytest
import torch
from helpers import LAYOUTS, aliases, assert_close, randn
from kernels import geometry_of, laid_out, poisoned
from test_conv2d_alias_l1 import CASES, expected_aliasing, operands, stride_1_size
from test_conv2d_alias_l1_backward import SEEDS, gradients, leaves_of
from test_kernels_conv2d_alias_l1 import GEOMETRIES, HALF

import alias_ops

pytest.importorskip("triton")

from alias_ops.kernels import conv2d_alias_l1_backward as kernels

BACKWARD = torch.ops.alias_ops.conv2d_alias_l1_backward.default
SINGLE = torch.float32

some_cases = pytest.mark.parametrize(
    "name", ["kernel 1", "kernel 3, odd size", "a pair of everything", "groups of few channels", "batch of 3"]
)


@pytest.fixture
def served(monkeypatch):
    """A list of the branches that served."""
    names = []
    for name in ("_spectral", "_pointwise"):
        branch = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *args, n=name, b=branch: (names.append(n), b(*args)))
    return names


def found(x, weight, geometry, **kwargs):
    return gradients(alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none", **kwargs), (x, weight))


def assert_gradients(device, x, weight, geometry):
    """Of leaves on the device; in the layout and dtype of theirs."""
    leaves = leaves_of(x, weight)
    exact = [t.detach().cpu().double().requires_grad_() for t in leaves]
    expected = gradients(expected_aliasing(*exact, **geometry), exact)
    actual = found(*leaves, geometry)
    for gradient, wanted, leaf in zip(actual, expected, leaves, strict=True):
        assert gradient.dtype == leaf.dtype
        assert_close(gradient.cpu(), wanted, leaf.dtype)
    return actual


def made(name, dtype=SINGLE, device="cpu"):
    """As test_gradients_in_single_precision does: no |D| of theirs is so small that rounding turns it."""
    x_shape, weight_shape, geometry = CASES[name]
    x = randn(*x_shape, dtype=dtype, seed=SEEDS["x"]).to(device)
    return x, randn(*weight_shape, dtype=dtype, seed=SEEDS["weight"]).to(device), {"stride": 2, **geometry}


# ---- geometry, dtypes, scale -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name if name in GEOMETRIES else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_geometries(device, served, name):
    """A cross-section; the other geometries with -m slow."""
    x, weight, geometry = made(name, device=device)
    if not aliases(stride_1_size(x.cpu(), weight.cpu(), geometry), geometry["stride"]):
        pytest.skip("D is 0, and the direction of D/|D| rounding noise")
    assert_gradients(device, x, weight, geometry)
    unpadded = geometry.get("padding", 0) == 0
    assert served == ["_pointwise" if weight.shape[2:] == (1, 1) and unpadded else "_spectral"]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@some_cases
def test_half_precision(device, served, name, dtype):
    assert_gradients(device, *made(name, dtype, device))
    assert served


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["batch of 1", "kernel 1"])
def test_a_large_mean_stays_in_its_bin(device, name, dtype):
    x, weight, geometry = made(name, torch.float64, device)
    # Without rows that padding darkens: those alias the mean itself.
    geometry["padding"] = 0
    assert_gradients(device, (x * 0.25 + 8).to(dtype), weight.to(dtype), geometry)


@pytest.mark.parametrize("factor", [1e-25, 1e-12, 1e12, 1e25])
@some_cases
def test_directions_do_not_depend_on_the_scale(device, name, factor):
    """D/|D| where squares under- and overflow."""
    x, weight, geometry = (t.to(device) if isinstance(t, torch.Tensor) else t for t in operands(name, SINGLE))
    assert_gradients(device, x * factor, weight, geometry)
    assert_gradients(device, x, weight * factor, geometry)


def test_float64_takes_the_form_in_pytorch(device, served):
    assert_gradients(device, *made("padding 1", torch.float64, device))
    assert served == []


# ---- operands --------------------------------------------------------------------------------------------------------


# Constant rows alias nothing: D/|D| would be noise.
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded columns"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_any_layout(device, kernel, layout):
    x = laid_out(layout, 2, 5, 10, 9, dtype=SINGLE, device=device)
    weight = randn(6, 5, kernel, kernel, dtype=SINGLE, seed=SEEDS["weight"]).to(device)
    dx, dweight = assert_gradients(device, x, weight, {"stride": 2, "padding": kernel // 2})
    assert dx.stride() == torch.empty_like(x).stride()
    assert dweight.is_contiguous()


@pytest.mark.parametrize("dtype", [SINGLE, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_channels_last_throughout(device, kernel, dtype):
    form = {"memory_format": torch.channels_last}
    x = randn(3, 18, 9, 8, dtype=dtype).to(device).to(**form)
    weight = randn(20, 18, kernel, kernel, dtype=dtype, seed=1).to(device).to(**form)
    dx, dweight = assert_gradients(device, x, weight, {"stride": 2, "padding": kernel // 2})
    assert dx.is_contiguous(**form)
    assert dweight.is_contiguous(**form)


@pytest.mark.parametrize("dtype", [SINGLE, *HALF], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_no_images(device, kernel, dtype):
    x, weight = leaves_of(torch.empty(0, 3, 9, 8, dtype=dtype), randn(4, 3, kernel, kernel, dtype=dtype))
    dx, dweight = found(x.to(device), weight.to(device), {})
    assert dx.shape == x.shape
    assert not dweight.any()


@pytest.mark.parametrize("name", ["kernel 1", "kernel 3, odd size", "a pair of everything", "groups"])
def test_an_image_and_a_channel_without_aliasing_have_no_gradient(device, name):
    x, weight, geometry = made(name, device=device)
    x[1], weight[0] = 0, 0
    dx, dweight = found(*leaves_of(x, weight), geometry)
    assert torch.equal(dx[1], torch.zeros_like(dx[1]))
    assert torch.equal(dweight[0], torch.zeros_like(dweight[0]))
    x, weight = leaves_of(x, weight)
    maps = alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none")
    weights = randn(*maps.shape, dtype=maps.dtype, seed=5).to(device)
    rest = torch.autograd.grad((maps * weights)[[0, *range(2, len(x))]][:, 1:].sum(), (x, weight))
    for actual, expected in zip((dx, dweight), rest, strict=True):
        assert_close(actual.cpu(), expected.cpu(), SINGLE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_and_inf_stay_in_the_gradient_of_their_image(device, kernel, value):
    x, weight = randn(5, 3, 9, 8, dtype=SINGLE).to(device), randn(7, 3, kernel, kernel, dtype=SINGLE, seed=1).to(device)
    geometry = {"padding": kernel // 2}
    clean, _ = found(*leaves_of(x, weight), geometry)
    x[2, 1, 4, 4] = value
    dx, dweight = found(*leaves_of(x, weight), geometry)
    assert dx[2].isnan().all()
    assert dweight.isnan().all()
    others = [0, 1, 3, 4]
    assert_close(dx[others].cpu(), clean[others].cpu(), SINGLE)


@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_in_the_incoming_gradient_arrives(device, kernel):
    x, weight = leaves_of(
        randn(3, 4, 9, 8, dtype=SINGLE).to(device), randn(5, 4, kernel, kernel, dtype=SINGLE, seed=1).to(device)
    )
    maps = alias_ops.conv2d_aliasing(x, weight, reduction="none")
    weights = torch.ones_like(maps)
    weights[1, 2] = float("nan")
    dx, dweight = torch.autograd.grad(maps, (x, weight), weights)
    assert dx.flatten(1).isnan().all(1).tolist() == [False, True, False]
    assert dweight.flatten(1).isnan().all(1).tolist() == [False, False, True, False, False]


def arguments(x, weight, **geometry):
    return x, weight, [], [], *geometry_of(**geometry)


SURROUNDED = ["kernel 1", "groups", "a pair of everything", "kernel 5, odd size", "17 to 33 channels"]


@pytest.mark.parametrize("dtype", [SINGLE, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SURROUNDED)
def test_nothing_is_read_or_written_outside(device, monkeypatch, name, layout, dtype):
    """Operands and results lie between NaN, and so does whatever the launcher asks for."""
    x, weight, geometry = made(name, dtype, device)
    x, weight = x.to(dtype), weight.to(dtype)
    maps = expected_aliasing(x.cpu(), weight.cpu(), **geometry)
    grad = randn(*maps.shape, dtype=SINGLE, seed=5).to(device)
    expected = [t.to(dtype) for t in BACKWARD(grad, *arguments(x, weight, **geometry))]
    surrounded, checks = [], []
    for t in (x, weight, torch.empty_like(x), torch.empty_like(weight)):
        inside, untouched = poisoned(t.shape, dtype, device, layout)
        surrounded.append(inside)
        checks.append(untouched)
    surrounded[0].copy_(x)
    surrounded[1].copy_(weight)
    asked = []

    new_empty = torch.Tensor.new_empty

    def full_of_nan(self, *sizes, dtype=None, **kwargs):
        if not self.is_floating_point():  # the interpreter's own
            return new_empty(self, *sizes, dtype=dtype, **kwargs)
        asked.append(sizes)
        return poisoned(sizes, dtype or self.dtype, self.device)[0]

    monkeypatch.setattr(torch.Tensor, "new_empty", full_of_nan)
    kernels.conv2d_alias_l1_backward(grad, *arguments(*surrounded[:2], **geometry), out=tuple(surrounded[2:]))
    assert asked
    for actual, wanted in zip(surrounded[2:], expected, strict=True):
        assert_close(actual.cpu(), wanted.cpu(), dtype)
    assert all(untouched() for untouched in checks)


# ---- as an op --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [1, 3])
def test_inside_autocast_it_is_not_in_sixteen_bits(device, kernel):
    leaves = leaves_of(
        randn(2, 3, 9, 8, dtype=SINGLE).to(device), randn(4, 3, kernel, kernel, dtype=SINGLE, seed=1).to(device)
    )
    maps = alias_ops.conv2d_aliasing(*leaves)
    plain = torch.autograd.grad(maps, leaves, retain_graph=True)
    with torch.autocast(device, torch.bfloat16):
        inside = torch.autograd.grad(maps, leaves)
    for gradient, expected in zip(inside, plain, strict=True):
        assert_close(gradient.cpu(), expected.cpu(), SINGLE)


@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_graph_of_the_gradients_leads_to_second_derivatives(device, served, kernel):
    """Not promised, but where they come they are right: the kernels write in place and record nothing."""
    x = randn(2, 3, 8, 9, dtype=SINGLE).to(device)
    x, weight = leaves_of(x, randn(4, 3, kernel, kernel, dtype=SINGLE, seed=1).to(device))
    geometry = {"stride": 2, "padding": kernel // 2}

    def second():
        maps = alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none")
        first = torch.autograd.grad(maps.square().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(sum(d.square().sum() for d in first), (x, weight))

    actual = second()
    assert len(served) == 1  # the second time around, when nothing is recorded
    with alias_ops.backend("reference"):
        expected = second()
    for gradient, wanted in zip(actual, expected, strict=True):
        assert_close(gradient.cpu(), wanted.cpu(), SINGLE)
