"""``aliasing`` of stride-1 maps by its Triton kernels, interpreted where there is no GPU, against float64."""

import pytest
import torch
from helpers import LAYOUTS, aliases, assert_close, golden, golden_convolutions, randn, spectrum_l1
from kernels import DTYPES, assert_gradient, configuration, laid_out, module, poisoned

import alias_ops
from alias_ops import designs, reference

OP = torch.ops.alias_ops.alias_l1.default
BACKWARD = torch.ops.alias_ops.alias_l1_backward.default

# Maps side by side, one block of rows, several, several tiles of the spectrum; sides of 1, 2 and 3.
SIZES = [(n, n) for n in (2, 3, 4, 7, 8, 14, 16, 17, 28, 33, 40)]
SIZES += [(1, 2), (1, 17), (19, 1), (2, 1), (3, 40), (40, 3), (15, 34), (66, 9), (4, 136)]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def expected_aliasing(x, stride):
    return reference.aliasing(x.double(), stride, reduction="none")


def check(x, stride=2, gradient=True):
    """Values, and the gradient of a weighted sum, against the definition in float64."""
    actual = alias_ops.aliasing(x, stride, reduction="none")
    assert actual.dtype == torch.float32
    scale = None if aliases(x.shape[-2:], stride) else spectrum_l1(x, stride).cpu()
    assert_close(actual.cpu(), expected_aliasing(x, stride).cpu(), x.dtype, scale=scale)
    if gradient:
        assert_gradient(x, actual, lambda exact: expected_aliasing(exact, stride), x.dtype)


def maps(*shape, dtype=torch.float32, device="cpu", seed=0):
    return randn(*shape, dtype=dtype, seed=seed).to(device).requires_grad_()


def operands(x, stride=(2, 2)):
    place = designs.factor_dtype(x), x.device
    return x, *(designs.alias_tables(x.shape[d - 2], stride[d], *place) for d in (0, 1)), stride


# ---- sizes, strides, dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(triton_backend, size):
    check(maps(2, *size, device=triton_backend))


@pytest.mark.parametrize("stride", [3, 5, (1, 2), (3, 2), 40], ids=str)
@pytest.mark.parametrize("size", [(7, 10), (17, 20)], ids=str)
def test_strides(triton_backend, size, stride):
    check(maps(2, *size, device=triton_backend), stride)


def test_without_a_stride_only_the_highest_frequencies_are_left(triton_backend):
    check(maps(2, 9, 7, device=triton_backend), 1, gradient=False)
    check(maps(2, 18, 20, device=triton_backend), 1)


@dtypes
@pytest.mark.parametrize("size", [(7, 7), (15, 14), (28, 20), (34, 18)], ids=str)
def test_dtypes(triton_backend, size, dtype):
    check(maps(2, 3, *size, dtype=dtype, device=triton_backend))


@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e12, 1e30])
@pytest.mark.parametrize("size", [(8, 8), (20, 17), (1, 6)], ids=str)
def test_measure_is_proportional_to_the_map(triton_backend, size, factor):
    """|re + i im| over- and underflows where it is the root of a sum of squares."""
    x = randn(3, *size, dtype=torch.float32) * factor
    actual = alias_ops.aliasing(x.to(triton_backend), reduction="none")
    assert_close(actual.cpu(), expected_aliasing(x, 2), torch.float32)


def test_maps_of_very_different_size_do_not_share_a_scale(triton_backend):
    x = (randn(4, 8, 8) * torch.tensor([1e-20, 1.0, 1e20, 1e-3])[:, None, None]).float()
    y = alias_ops.aliasing(x.to(triton_backend), reduction="none").cpu().double()
    assert (y / expected_aliasing(x, 2) - 1).abs().max() < 2e-6


@dtypes
def test_where_nothing_aliases_the_gradient_is_zero_and_not_nan(triton_backend, dtype):
    for size in ((8, 9), (20, 18)):
        x = torch.zeros(2, *size, dtype=dtype, device=triton_backend, requires_grad=True)
        value = alias_ops.aliasing(x)
        assert value == 0
        (dx,) = torch.autograd.grad(value, x)
        assert torch.equal(dx, torch.zeros_like(x))


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(9, 12), (20, 28), (18, 40)], ids=str)
def test_every_configuration(triton_backend, monkeypatch, size, layout, place):
    launchers = module("alias_l1"), module("separable2d")
    with configuration(monkeypatch, launchers[0], place) as names, configuration(monkeypatch, launchers[1], place):
        check(laid_out(layout, 1, 5, *size, dtype=torch.float32, device=triton_backend).requires_grad_())
    assert set(names) == {"alias_l1"}


def test_offsets_of_64_bits(triton_backend, monkeypatch):
    monkeypatch.setattr(module("alias_l1"), "needs_wide_offsets", lambda *tensors: True)
    for size in (9, 20):
        check(maps(1, 2, size, size, device=triton_backend))


def test_float64_takes_the_pytorch_form(triton_backend):
    x = randn(3, 14, 14).to(triton_backend)
    actual = alias_ops.aliasing(x, reduction="none")
    assert_close(actual.cpu(), expected_aliasing(x, 2).cpu(), torch.float64)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 20, 17)], ids=str)
def test_layouts(triton_backend, layout, shape):
    x = laid_out(layout, *shape, dtype=torch.float32, device=triton_backend)
    before = x.clone()
    actual = alias_ops.aliasing(x, reduction="none")
    # Constant rows leave only what the columns alias: small beside the spectra they are the difference of.
    size = spectrum_l1(before, 2).cpu() if layout == "expanded columns" else None
    assert_close(actual.cpu(), expected_aliasing(before, 2).cpu(), torch.float32, scale=size)
    assert torch.equal(x, before)


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_channels_last_and_its_gradient(triton_backend, channels):
    for size in ((10, 7), (18, 17)):
        check(
            laid_out("channels_last", 1, channels, *size, dtype=torch.float32, device=triton_backend).requires_grad_()
        )


@pytest.mark.parametrize("leading", [(), (1,), (2, 3, 2), (2, 1, 2, 2), (0,), (3, 0), (2, 0, 4)], ids=str)
def test_leading_dimensions(triton_backend, leading):
    x = maps(*leading, 9, 14, device=triton_backend)
    y = alias_ops.aliasing(x, reduction="none")
    assert y.shape == leading
    if y.numel():
        assert_close(y.cpu(), expected_aliasing(x, 2).cpu(), torch.float32)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == x.shape


def test_leading_dimensions_that_no_strides_can_merge(triton_backend):
    x = randn(3, 2, 2, 2, 9, 9, dtype=torch.float32).to(triton_backend).permute(2, 0, 3, 1, 5, 4).requires_grad_()
    check(x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(9, 9), (18, 33)], ids=str)
def test_outputs_are_written_whole_and_nothing_beside_them(triton_backend, size, layout):
    launcher = module("alias_l1")
    for dtype in DTYPES:
        x = laid_out(layout, 1, 3, *size, dtype=dtype, device=triton_backend)
        out, untouched = poisoned((1, 3), torch.float32, triton_backend)
        launcher.alias_l1(x, [], [], (2, 2), out=out)
        assert_close(out.cpu(), expected_aliasing(x, 2).cpu(), dtype)
        assert untouched()
        grad = randn(1, 3, dtype=torch.float32, seed=5).to(triton_backend)
        dx, untouched = poisoned(x.shape, dtype, triton_backend, layout)
        launcher.alias_l1_backward(grad, x, [], [], (2, 2), out=dx)
        exact = x.double().requires_grad_()
        (expected,) = torch.autograd.grad(expected_aliasing(exact, 2), exact, grad.double())
        assert_close(dx.cpu(), expected.cpu(), dtype)
        assert untouched()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's NumPy
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_stay_in_their_map(triton_backend, value):
    for size in (2, 8, 20):
        x = randn(12, size, size, dtype=torch.float32).to(triton_backend)
        clean = alias_ops.aliasing(x, reduction="none")
        for bad in (0, 11):
            x[bad, size // 2, -1] = value
        y = alias_ops.aliasing(x, reduction="none")
        assert not y[[0, 11]].isfinite().any()
        assert torch.equal(y[1:11], clean[1:11])


# ---- what the op promises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_opcheck(triton_backend, layout):
    x = laid_out(layout, 2, 3, 8, 7, dtype=torch.float32, device=triton_backend)
    torch.library.opcheck(OP, operands(x.requires_grad_()))
    grad = randn(2, 3, dtype=torch.float32).to(triton_backend)
    torch.library.opcheck(BACKWARD, (grad, *operands(x.detach())))


def test_vmap(triton_backend):
    x = randn(3, 4, 10, 6, dtype=torch.float32).to(triton_backend)
    mapped = torch.func.vmap(lambda t: alias_ops.aliasing(t, reduction="none"), in_dims=1)(x)
    assert_close(mapped.mT, alias_ops.aliasing(x, reduction="none"), torch.float32)


def test_golden_vectors(triton_backend):
    vectors = golden("aliasing_public.npz")
    for case, geometry in enumerate(golden_convolutions()):
        x, weight = (torch.from_numpy(vectors[f"{case}.{key}"]) for key in ("x", "weight"))
        stride = geometry.pop("stride")
        stride_1 = torch.nn.functional.conv2d(x, weight, stride=1, **geometry).float().to(triton_backend)
        maps_of_layer = alias_ops.aliasing(stride_1, stride, reduction="none")
        assert_close(maps_of_layer.cpu(), torch.from_numpy(vectors[f"{case}.maps"]), torch.float32)
