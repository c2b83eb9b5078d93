"""``separable2d`` and the poolings on it: every backend against float64, over sizes, layouts, dtypes and factors."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import (
    ALL_POOLS,
    DTYPES,
    LAYOUTS,
    SINGLE_AND_DOUBLE,
    assert_close,
    pool2d,
    randn,
    reference_pool2d,
)

import alias_ops
from alias_ops import designs
from alias_ops.ops import separable2d

DOUBLE = torch.float64
OP = torch.ops.alias_ops.separable2d.default

# Around the widths of vectors (4, 8, 16), of tiles, of the maps of image networks; primes; one row, one column.
SIZES = [
    *[(n, n) for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 28, 31, 32, 33, 56, 61, 64, 65, 112, 127, 130)],
    *[(1, 2), (1, 17), (1, 64), (2, 1), (19, 1), (64, 1), (3, 40), (40, 3), (5, 130), (130, 5), (14, 56), (97, 33)],
]
STRIDES = [1, 2, 3, 4, 5, (1, 2), (3, 2)]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
sizes = pytest.mark.parametrize(("height", "width"), SIZES)
terms = pytest.mark.parametrize("terms", [1, 2])


def definition(x, left, right):
    return torch.einsum("tmh,...hw,tnw->...mn", left.double(), x.double(), right.double())


def dense_factors(terms, outputs, size, dtype=DOUBLE):
    """Factors without any structure, which no pooling has."""
    (m, n), (h, w) = outputs, size
    return randn(terms, m, h, seed=1, dtype=dtype), randn(terms, n, w, seed=2, dtype=dtype)


def assert_differentiates(x, expected_of, actual, dtype):
    """The gradient of ``actual`` with respect to x is that of ``expected_of(x)`` in float64."""
    exact = x.detach().double().requires_grad_()
    expected = expected_of(exact)
    dy = randn(*actual.shape, dtype=dtype, seed=3)
    (dx,) = torch.autograd.grad(actual, x, dy)
    assert dx.dtype == dtype
    assert_close(dx, torch.autograd.grad(expected, exact, dy.double())[0], dtype)


# ---- sizes and dtypes ------------------------------------------------------------------------------------------------


@dtypes
@sizes
def test_flc_over_sizes(backend, height, width, dtype):
    x = randn(2, 3, height, width, dtype=dtype).requires_grad_()
    y = alias_ops.flc_pool2d(x)
    assert y.dtype == dtype
    assert_close(y, reference_pool2d("flc", x), dtype)
    assert_differentiates(x, lambda exact: reference_pool2d("flc", exact), y, dtype)


@pytest.mark.parametrize("stride", STRIDES, ids=str)
@sizes
def test_asap_over_sizes_and_strides(backend, height, width, stride):
    for dtype in SINGLE_AND_DOUBLE:
        x = randn(3, height, width, dtype=dtype).requires_grad_()
        y = alias_ops.asap_pool2d(x, stride)
        assert_close(y, reference_pool2d("asap", x, stride), dtype)
        assert_differentiates(x, lambda exact: reference_pool2d("asap", exact, stride), y, dtype)


@dtypes
@pytest.mark.parametrize(("height", "width"), [(2, 2), (7, 10), (14, 14), (30, 6), (33, 64), (56, 57)])
@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_every_variant(backend, pool, variant, height, width, dtype):
    x = randn(5, height, width, dtype=dtype).requires_grad_()
    y = pool2d(pool, x, 2, variant)
    assert_close(y, reference_pool2d(pool, x, 2, variant), dtype)
    assert_differentiates(x, lambda exact: reference_pool2d(pool, exact, 2, variant), y, dtype)


@dtypes
@terms
@pytest.mark.parametrize(
    ("outputs", "size"), [((1, 1), (1, 1)), ((5, 3), (4, 9)), ((17, 30), (16, 15)), ((8, 40), (33, 24))], ids=str
)
def test_factors_without_structure(backend, outputs, size, terms, dtype):
    x = randn(19, *size, dtype=dtype).requires_grad_()
    factors = dense_factors(terms, outputs, size)
    y = separable2d(x, *factors)
    assert_close(y, definition(x, *factors), dtype)
    assert_differentiates(x, lambda exact: definition(exact, *factors), y, dtype)


@pytest.mark.parametrize("broken", ["left", "right"])
@pytest.mark.parametrize("size", [8, 14, 64])
def test_factors_that_are_half_band_or_of_rank_one_but_for_one_number(backend, size, broken):
    """A kernel that looks for structure must see where it ends."""
    pristine = designs.pooling_factors("flc", size, size)
    x = randn(3, size, size)
    for term in range(pristine[0].shape[0]):
        factors = [factor.clone() for factor in pristine]
        factors[broken == "right"][term, size // 2 - 1, size - 2] += 1e-3
        assert_close(separable2d(x, *factors), definition(x, *factors), DOUBLE)


@pytest.mark.parametrize("pool", ["flc", "asap"])
@pytest.mark.parametrize("size", [32, 33, 50, 64, 67])
def test_factors_that_are_mirrored_but_for_one_number(backend, size, pool):
    """Long axes are folded around their ends and middle; each of these places is treated on its own."""
    left, right = designs.pooling_factors(pool, size, 6)
    x = randn(3, size, 6)
    outputs = left.shape[-2]
    for row in (0, 1, outputs // 2, outputs - 1):
        for column in (0, 1, 2, size // 4, size // 2, size - 1):
            broken = left.clone()
            broken[0, row, column] += 1e-8
            assert_close(separable2d(x, broken, right), definition(x, broken, right), DOUBLE)
            assert_close(
                separable2d(x[:, :outputs], broken.mT, right), definition(x[:, :outputs], broken.mT, right), DOUBLE
            )
            broken[0, row, column] = float("inf")
            y = separable2d(x, broken, right)
            assert not y[:, row].isfinite().any()
            others = [r for r in range(outputs) if r != row]
            assert_close(y[:, others], definition(x, broken, right)[:, others], DOUBLE)


@pytest.mark.parametrize("pool", ["flc", "asap"])
@pytest.mark.parametrize("size", [26, 28, 40, 52, 56, 60, 64])
def test_both_factors_mirrored_but_for_one_number(backend, size, pool):
    """Short axes keep what is folded in registers, and choose its lanes by tables."""
    pristine = designs.pooling_factors(pool, size, size)
    x = randn(2, size, size)
    outputs = pristine[0].shape[-2]
    for side in (0, 1):
        for row in (0, 1, outputs // 2, outputs - 1):
            for column in (0, 1, size // 4, size // 2, size - 1):
                factors = [factor.clone() for factor in pristine]
                factors[side][0, row, column] += 1e-6
                assert_close(separable2d(x, *factors), definition(x, *factors), DOUBLE)
                back = [factor.mT for factor in factors]
                z = x[:, :outputs, :outputs]
                assert_close(separable2d(z, *back), definition(z, *back), DOUBLE)


@pytest.mark.parametrize("pool", ["flc", "asap"])
@pytest.mark.parametrize("size", range(18, 67))
def test_every_size_between_one_vector_and_four(backend, size, pool):
    for shape in ((5, size, size), (4, size, 12), (4, 12, size), (3, size, 40)):
        for dtype in SINGLE_AND_DOUBLE:
            x = randn(*shape, dtype=dtype).requires_grad_()
            y = pool2d(pool, x)
            assert_close(y, reference_pool2d(pool, x), dtype)
            assert_differentiates(x, lambda exact: reference_pool2d(pool, exact), y, dtype)


@pytest.mark.parametrize("stride", [(3, 3), (4, 4), (2, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("size", [(60, 96), (96, 60), (72, 128), (128, 80)], ids=str)
def test_split_axes_of_other_strides(backend, size, stride):
    for pool in ("flc", "asap"):
        for dtype in SINGLE_AND_DOUBLE:
            x = randn(3, *size, dtype=dtype).requires_grad_()
            y = pool2d(pool, x, stride)
            assert_close(y, reference_pool2d(pool, x, stride), dtype)
            assert_differentiates(x, lambda exact, pool=pool: reference_pool2d(pool, exact, stride), y, dtype)


@pytest.mark.parametrize("maps", [1, 2, 3, 7, 8, 15, 16, 17, 31, 33])
@pytest.mark.parametrize("size", [3, 7, 16, 28])
def test_numbers_of_maps_that_fill_no_vector(backend, maps, size):
    for dtype in DTYPES:
        x = randn(maps, size, size, dtype=dtype)
        assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), dtype)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 17, 9, 6), (2, 5, 20, 33), (1, 16, 1, 12), (4, 1, 7, 1)], ids=str)
def test_layouts(backend, layout, shape):
    for dtype in (DOUBLE, torch.float32, torch.bfloat16):
        x = LAYOUTS[layout](*shape, dtype=dtype)
        assert x.shape == shape
        before = x.clone()
        assert_close(alias_ops.asap_pool2d(x), reference_pool2d("asap", before), dtype)
        assert torch.equal(x, before)


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("size", [(2, 2), (7, 7), (14, 14), (16, 9), (1, 5), (56, 24), (65, 6)], ids=str)
def test_channels_last_comes_back_channels_last(backend, channels, size):
    for dtype in DTYPES:
        x = randn(2, channels, *size, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        y = alias_ops.flc_pool2d(x)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_close(y, reference_pool2d("flc", x), dtype)
        assert_differentiates(x, lambda exact: reference_pool2d("flc", exact), y, dtype)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "channels_last"])
def test_other_layouts_come_back_contiguous(backend, layout):
    y = alias_ops.flc_pool2d(LAYOUTS[layout](3, 4, 10, 10))
    assert y.is_contiguous()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_any_layout_of_the_output_gradient(backend, layout):
    x = randn(3, 5, 9, 9).requires_grad_()
    y = alias_ops.flc_pool2d(x)
    dy = LAYOUTS[layout](*y.shape, seed=4)
    (dx,) = torch.autograd.grad(y, x, dy)
    (expected,) = torch.autograd.grad(reference_pool2d("flc", x), x, dy.contiguous())
    assert_close(dx, expected, DOUBLE)


@pytest.mark.parametrize("leading", [(), (1,), (3,), (2, 3), (2, 3, 2), (2, 1, 2, 3)], ids=str)
def test_leading_dimensions(backend, leading):
    x = randn(*leading, 9, 14)
    y = alias_ops.asap_pool2d(x)
    assert y.shape == (*leading, 5, 7)
    assert_close(y, reference_pool2d("asap", x), DOUBLE)


@pytest.mark.parametrize("leading", [(0,), (0, 3), (3, 0), (2, 0, 4)], ids=str)
@dtypes
def test_empty_batches(backend, leading, dtype):
    x = torch.empty(*leading, 9, 14, dtype=dtype, requires_grad=True)
    y = alias_ops.flc_pool2d(x)
    assert y.shape == (*leading, 5, 7)
    assert y.dtype == dtype
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == x.shape


@terms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_factor_dtypes_and_layouts(backend, terms, dtype):
    x = randn(4, 6, 10, dtype=dtype)
    for factor_dtype in SINGLE_AND_DOUBLE:
        left, right = dense_factors(terms, (6, 10), (3, 5), factor_dtype)
        for factors in ((left.mT, right.mT), (left.mT.contiguous(), right.mT.contiguous())):
            assert_close(separable2d(x, *factors), definition(x, *factors), dtype)
        wide = randn(terms, 5, 12, seed=5, dtype=factor_dtype)[..., ::2]
        assert_close(separable2d(x, wide, right.mT), definition(x, wide, right.mT), dtype)


@terms
def test_factors_are_constants_by_value_not_by_place(backend, terms):
    """Prepared factors are remembered from call to call: a caller may write into them all the same."""
    x = randn(4, 6, 10)
    left, right = dense_factors(terms, (3, 5), (6, 10))
    for factor, position in ((left, (-1, 2, 5)), (right, (0, 0, 0)), (right, (-1, 4, 9))):
        assert_close(separable2d(x, left, right), definition(x, left, right), DOUBLE)
        factor[position] += 1
        assert_close(separable2d(x, left, right), definition(x, left, right), DOUBLE)
        assert_close(separable2d(x.mT, right, left), definition(x.mT, right, left), DOUBLE)


def test_more_factors_than_are_remembered(backend):
    """Forward and adjoint in turn, over sizes of one shape and of many."""
    for _ in range(2):
        for height in range(6, 32):
            x = randn(2, height, 12).requires_grad_()
            for pool in ("flc", "asap"):
                y = pool2d(pool, x)
                assert_close(y, reference_pool2d(pool, x), DOUBLE)
                assert_differentiates(x, lambda e, pool=pool: reference_pool2d(pool, e), y, DOUBLE)


def test_factors_too_large_to_be_remembered(backend):
    x = randn(1, 1020, 1024)
    for _ in range(2):
        assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), DOUBLE)


def test_calls_from_many_threads(backend):
    def pooled(seed):
        x = randn(3, 8 + seed % 7, 10, seed=seed)
        return all(torch.allclose(alias_ops.flc_pool2d(x), reference_pool2d("flc", x)) for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(pooled, range(32)))


# ---- what the op promises --------------------------------------------------------------------------------------------


@terms
def test_gradcheck(backend, terms):
    x = randn(2, 5, 6).requires_grad_()
    factors = dense_factors(terms, (3, 4), (5, 6))
    assert torch.autograd.gradcheck(lambda t: separable2d(t, *factors), x)
    assert torch.autograd.gradgradcheck(lambda t: separable2d(t, *factors), x)


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_poolings_have_second_derivatives(backend, pool, variant):
    x = randn(2, 6, 5).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda t: pool2d(pool, t, 2, variant).square(), x)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed maps", "expanded batch"])
@pytest.mark.parametrize(
    ("shape", "outputs", "terms", "dtype"),
    [
        ((2, 3, 8, 6), (4, 3), 1, torch.float32),
        ((2, 3, 7, 5), (4, 3), 2, DOUBLE),
        ((2, 16, 2, 2), (1, 1), 1, torch.bfloat16),
        ((2, 1, 6, 6), (3, 3), 1, torch.float16),
    ],
    ids=str,
)
def test_opcheck(layout, shape, outputs, terms, dtype):
    x = LAYOUTS[layout](*shape, dtype=dtype).requires_grad_()
    torch.library.opcheck(OP, (x, *dense_factors(terms, outputs, shape[-2:])))


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 6), (1, 2, 3, 5, 6), (0, 2, 5, 6)], ids=str)
def test_opcheck_over_dimensions(shape):
    torch.library.opcheck(OP, (randn(*shape).requires_grad_(), *dense_factors(2, (3, 4), (5, 6))))


@pytest.mark.parametrize("in_dim", [0, 1, -1])
def test_vmap(backend, in_dim):
    x = randn(3, 4, 10, 6)
    mapped = torch.func.vmap(alias_ops.flc_pool2d, in_dims=in_dim)(x.movedim(0, in_dim))
    assert_close(mapped, alias_ops.flc_pool2d(x), DOUBLE)


def test_gradients_through_vmap(backend):
    x = randn(3, 4, 8, 6).requires_grad_()
    mapped, whole = torch.func.vmap(alias_ops.asap_pool2d)(x), alias_ops.asap_pool2d(x)
    gradients = [torch.autograd.grad(y.pow(3).sum(), x)[0] for y in (mapped, whole)]
    assert_close(*gradients, DOUBLE)


def test_vmap_over_factors_says_that_it_cannot():
    x, (left, right) = randn(4, 8, 8), dense_factors(1, (4, 4), (8, 8))
    with pytest.raises(NotImplementedError, match="vmap over the factors is not supported"):
        torch.func.vmap(OP, in_dims=(None, 0, None))(x, left[None].expand(3, -1, -1, -1), right)


# The last three: more groups of maps than a thread takes at a time.
@pytest.mark.parametrize(
    "shape", [(67, 9, 9), (37, 40, 56), (5, 33, 12, 14), (800, 16, 16), (2100, 8, 8), (9, 250, 8, 8)], ids=str
)
def test_results_do_not_depend_on_repetition_or_threads(backend, threads, shape):
    for dtype in DTYPES:
        for memory_format in (torch.contiguous_format, torch.channels_last)[: max(1, len(shape) - 2)]:
            x = randn(*shape, dtype=dtype).to(memory_format=memory_format).requires_grad_()
            threads(1)
            first = alias_ops.asap_pool2d(x)
            dy = randn(*first.shape, dtype=dtype, seed=1)
            (gradient,) = torch.autograd.grad(first, x, dy)
            for count in (1, 2) if backend == "reference" else (1, 2, 5):
                threads(count)
                y = alias_ops.asap_pool2d(x)
                assert torch.equal(y, first)
                assert torch.equal(torch.autograd.grad(y, x, dy)[0], gradient)


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_stay_in_their_map(backend, value, dtype):
    squares = [(size, size) for size in (1, 2, 7, 8, 14, 16, 21, 28, 40, 56)]
    for height, width in (*squares, (28, 12), (40, 16), (12, 56)):
        x = randn(40, height, width, dtype=dtype)
        clean = alias_ops.flc_pool2d(x)
        for bad in (0, 39):
            x[bad, height // 2, -1] = value
        y = alias_ops.flc_pool2d(x)
        assert not y[0].isfinite().all()
        assert not y[39].isfinite().all()
        assert torch.equal(y[1:39], clean[1:39])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_accumulates_in_float32(backend, dtype):
    """A sum of 4096 equal terms stalls at 256 in bfloat16 and overflows at 65504 in float16."""
    x = torch.full((1, 1, 4096), 100.0, dtype=dtype)
    one = torch.ones(1, 1, 1)
    assert_close(separable2d(x, one, torch.full((1, 1, 4096), 1 / 4096)), torch.full((1, 1, 1), 100.0), DOUBLE)
    signs = torch.ones(1, 1, 4096).index_fill(2, torch.arange(2048, 4096), -1.0)
    assert separable2d(x, one, signs).item() == 0.0
