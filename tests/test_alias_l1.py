"""``aliasing`` of stride-1 maps: every backend against the definition in float64."""

import pytest
import torch
from helpers import DTYPES, LAYOUTS, SINGLE_AND_DOUBLE, aliases, assert_close, randn, spectrum_l1

import alias_ops
from alias_ops import _backend, designs, reference

DOUBLE = torch.float64
OP = torch.ops.alias_ops.alias_l1.default
BACKWARD = torch.ops.alias_ops.alias_l1_backward.default

SIZES = [
    *[(n, n) for n in (2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 28, 31, 32, 33, 56, 61, 64, 97, 112, 130)],
    *[(1, 2), (1, 17), (1, 64), (2, 1), (19, 1), (64, 1), (3, 40), (40, 3), (5, 130), (130, 5), (14, 56)],
]
STRIDES = [1, 2, 3, 4, 5, (1, 2), (3, 2), 7]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def expected_aliasing(x, stride):
    return reference.aliasing(x.double(), stride, reduction="none")


def scale(x, stride):
    """None, or where nothing aliases the size of the spectra whose difference is 0 (or a Nyquist bin)."""
    return None if aliases(x.shape[-2:], stride) else spectrum_l1(x, stride)


def assert_differentiates(x, actual, stride, dtype):
    """The gradient of a weighted sum of ``actual`` is the definition's."""
    exact = x.detach().double().requires_grad_()
    weights = randn(*actual.shape, seed=3)
    (dx,) = torch.autograd.grad((actual * weights).sum(), x)
    assert dx.dtype == dtype
    assert_close(dx, torch.autograd.grad((expected_aliasing(exact, stride) * weights).sum(), exact)[0], dtype)


def operands(x, stride=(2, 2)):
    return x, *(designs.alias_tables(x.shape[d - 2], stride[d]) for d in (0, 1)), stride


# ---- sizes, strides, dtypes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", STRIDES, ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_sizes_and_strides(backend, height, width, stride):
    for dtype in SINGLE_AND_DOUBLE:
        x = randn(3, height, width, dtype=dtype)
        actual = alias_ops.aliasing(x, stride, reduction="none")
        assert actual.dtype == dtype
        assert_close(actual, expected_aliasing(x, stride), dtype, scale=scale(x, stride))


@dtypes
@pytest.mark.parametrize("stride", [2, 3, (1, 2)], ids=str)
@pytest.mark.parametrize("size", [(4, 4), (7, 10), (14, 14), (15, 33), (28, 28), (1, 12), (40, 9)], ids=str)
def test_gradients(backend, size, stride, dtype):
    x = randn(2, 3, *size, dtype=dtype).requires_grad_()
    assert_differentiates(x, alias_ops.aliasing(x, stride, reduction="none"), stride, dtype)


@dtypes
def test_results_are_float32_at_least(backend, dtype):
    x = randn(2, 3, 9, 9, dtype=dtype)
    result = torch.float64 if dtype == DOUBLE else torch.float32
    for reduction in ("none", "mean", "sum"):
        assert alias_ops.aliasing(x, reduction=reduction).dtype == result


@dtypes
def test_a_single_sample_aliases_nothing(backend, dtype):
    for stride in (1, 2, 5):
        x = randn(3, 4, 1, 1, dtype=dtype)
        assert_close(alias_ops.aliasing(x, stride, reduction="none"), torch.zeros(3, 4), dtype, scale=x)


@pytest.mark.parametrize("stride", [17, 40, (3, 40), 1000], ids=str)
def test_strides_above_the_size(backend, stride):
    x = randn(4, 5, 17)
    assert_close(alias_ops.aliasing(x, stride, reduction="none"), expected_aliasing(x, stride), DOUBLE)


@pytest.mark.parametrize("maps", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
@pytest.mark.parametrize("size", [6, 14, 17])
def test_numbers_of_maps_that_fill_no_vector(backend, maps, size):
    for dtype in DTYPES:
        x = randn(maps, size, size, dtype=dtype).requires_grad_()
        actual = alias_ops.aliasing(x, reduction="none")
        assert_close(actual, expected_aliasing(x, 2), dtype)
        assert_differentiates(x, actual, 2, dtype)


def test_reductions(backend):
    x = randn(3, 4, 9, 8)
    maps = alias_ops.aliasing(x, reduction="none")
    assert maps.shape == (3, 4)
    assert_close(alias_ops.aliasing(x), maps.mean(), DOUBLE)
    assert_close(alias_ops.aliasing(x, reduction="mean"), maps.mean(), DOUBLE)
    assert_close(alias_ops.aliasing(x, reduction="sum"), maps.sum(), DOUBLE)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 17, 9, 6), (2, 5, 20, 33), (1, 16, 3, 12), (4, 1, 7, 3)], ids=str)
def test_layouts(backend, layout, shape):
    for dtype in (DOUBLE, torch.float32, torch.bfloat16):
        x = LAYOUTS[layout](*shape, dtype=dtype)
        before = x.clone()
        actual = alias_ops.aliasing(x, reduction="none")
        # Constant rows leave only what the columns alias: small beside the spectra they are the difference of.
        size = spectrum_l1(before, 2) if layout == "expanded columns" else None
        assert_close(actual, expected_aliasing(before, 2), dtype, scale=size)
        assert torch.equal(x, before)


@pytest.mark.parametrize("channels", [1, 2, 8, 15, 16, 17, 33])
def test_channels_last_and_its_gradient(backend, channels):
    for dtype in DTYPES:
        x = randn(2, channels, 10, 7, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        actual = alias_ops.aliasing(x, reduction="none")
        assert_close(actual, expected_aliasing(x, 2), dtype)
        assert_differentiates(x, actual, 2, dtype)


# Of columns that are all the same, D is 0 but for its columns, and the direction of D/|D| rounding noise.
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "expanded columns"])
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 17, 9, 6), (2, 33, 20, 33), (4, 1, 7, 3)], ids=str)
def test_gradients_of_layouts(backend, layout, shape):
    """In memory that is not x's, laid out as ``empty_like`` does."""
    for dtype in (DOUBLE, torch.float32, torch.bfloat16):
        x = LAYOUTS[layout](*shape, dtype=dtype)
        before = x.clone()
        leaf = x.detach().requires_grad_()
        assert_differentiates(leaf, alias_ops.aliasing(leaf, reduction="none"), 2, dtype)
        dx = BACKWARD(torch.ones(shape[:2], dtype=torch.float64 if dtype == DOUBLE else torch.float32), *operands(x))
        assert dx.stride() == torch.empty_like(x).stride()
        assert torch.equal(x, before)


def test_gradients_of_permuted_lists_of_maps(backend):
    """Not four dimensions, and not in order."""
    for dtype in DTYPES:
        x = randn(5, 9, 3, 6, 4, dtype=dtype).permute(3, 0, 4, 1, 2).requires_grad_()
        assert_differentiates(x, alias_ops.aliasing(x, reduction="none"), 2, dtype)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 3, 2), (2, 1, 2, 3)], ids=str)
def test_leading_dimensions(backend, leading):
    x = randn(*leading, 9, 14)
    assert_close(alias_ops.aliasing(x, reduction="none"), expected_aliasing(x, 2), DOUBLE)


@pytest.mark.parametrize("leading", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
@dtypes
def test_empty_batches(backend, leading, dtype):
    x = torch.empty(*leading, 9, 14, dtype=dtype, requires_grad=True)
    assert alias_ops.aliasing(x, reduction="none").shape == leading
    assert alias_ops.aliasing(x).isnan()
    total = alias_ops.aliasing(x, reduction="sum")
    assert total == 0
    (dx,) = torch.autograd.grad(total, x)
    assert dx.shape == x.shape
    assert dx.dtype == dtype


# ---- what the op promises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, (1, 3)], ids=str)
def test_gradcheck(backend, stride):
    x = randn(2, 6, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: alias_ops.aliasing(t, stride, reduction="none"), x)


@dtypes
def test_where_nothing_aliases_the_gradient_is_zero_and_not_nan(backend, dtype):
    x = torch.zeros(2, 8, 9, dtype=dtype, requires_grad=True)
    value = alias_ops.aliasing(x)
    assert value == 0
    (dx,) = torch.autograd.grad(value, x)
    assert torch.equal(dx, torch.zeros_like(x))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed maps", "expanded batch"])
@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.bfloat16], ids=str)
def test_opcheck(layout, dtype):
    x = LAYOUTS[layout](2, 3, 8, 7, dtype=dtype)
    torch.library.opcheck(OP, operands(x.requires_grad_()))
    torch.library.opcheck(OP, operands(x.detach(), (3, 1)))


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6), (1, 2, 3, 5, 6), (0, 2, 5, 6)], ids=str)
def test_opcheck_over_dimensions(shape):
    torch.library.opcheck(OP, operands(randn(*shape).requires_grad_()))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.float16], ids=str)
def test_opcheck_backward(dtype):
    x = randn(2, 3, 8, 7, dtype=dtype)
    grad = randn(2, 3, dtype=DOUBLE if dtype == DOUBLE else torch.float32)
    torch.library.opcheck(BACKWARD, (grad, *operands(x)))


def test_vmap(backend):
    x = randn(3, 4, 10, 6)
    mapped = torch.func.vmap(lambda maps: alias_ops.aliasing(maps, reduction="none"), in_dims=1)(x)
    assert_close(mapped.mT, alias_ops.aliasing(x, reduction="none"), DOUBLE)


@pytest.mark.parametrize("shape", [(67, 9, 9), (37, 40, 56), (5, 33, 12, 14)], ids=str)
def test_results_do_not_depend_on_repetition_or_threads(backend, threads, shape):
    for dtype in DTYPES:
        x = randn(*shape, dtype=dtype).requires_grad_()

        def both(x=x):
            maps = alias_ops.aliasing(x, reduction="none")
            return maps, *torch.autograd.grad(maps.sum(), x)

        threads(1)
        first = both()
        for count in (1, 2):
            threads(count)
            assert all(torch.equal(a, b) for a, b in zip(both(), first, strict=True))


@pytest.mark.parametrize("factor", [1e-25, 1e-12, 1e12, 1e25])
@pytest.mark.parametrize("size", [(8, 8), (15, 9), (1, 6)], ids=str)
def test_measure_is_proportional_to_the_map(backend, size, factor):
    """|re + i im| over- and underflows where it is the root of a sum of squares."""
    x = randn(5, *size, dtype=torch.float32) * factor
    assert_close(alias_ops.aliasing(x, reduction="none"), expected_aliasing(x, 2), torch.float32)


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_stay_in_their_map(backend, value, dtype):
    for size in (2, 7, 8, 14, 21):
        x = randn(40, size, size, dtype=dtype)
        clean = alias_ops.aliasing(x, reduction="none")
        for bad in (0, 39):
            x[bad, size // 2, -1] = value
        maps = alias_ops.aliasing(x, reduction="none")
        assert not maps[[0, 39]].isfinite().any()
        assert_close(maps[1:39], clean[1:39], dtype)
        assert not alias_ops.aliasing(x).isfinite()
        dx = torch.autograd.grad(alias_ops.aliasing(x.requires_grad_(), reduction="sum"), x)[0]
        assert dx[1:39].isfinite().all()
        assert not dx[[0, 39]].isfinite().any()


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize("size", [(8, 8), (15, 9), (1, 6)], ids=str)
def test_gradient_does_not_depend_on_the_size_of_values(backend, size, factor):
    x = randn(5, *size, dtype=torch.float32).requires_grad_()
    scaled = (x.detach() * factor).requires_grad_()
    gradients = [torch.autograd.grad(alias_ops.aliasing(t), t)[0] for t in (x, scaled)]
    assert_close(gradients[1], gradients[0].double(), torch.float32)


def test_a_gradient_of_other_maps_is_refused():
    if _backend.extension is None:
        pytest.skip(_backend.availability()["cpu"])
    x = randn(2, 3, 8, 8)
    for shape in [(2,), (3, 2), (2, 3, 1), (6,), ()]:
        with pytest.raises(RuntimeError, match="one value for every map"):
            BACKWARD(torch.ones(shape, dtype=DOUBLE), *operands(x))
