"""The reference against the golden vectors, and every backend against both, in four dtypes, forward and backward."""

import filecmp

import pytest
import torch
from helpers import (
    ARCHIVES,
    COPIES,
    DTYPES,
    SHARED,
    VARIANTS,
    assert_close,
    golden,
    golden_convolutions,
    pool2d,
    reference_pool2d,
)

import alias_ops
from alias_ops import reference

DOUBLE = torch.float64
UPSTREAM, CENTERED, ALIASING = (golden(archive) for archive in ARCHIVES)
UPSTREAM_CASES = [tuple(key.split(".")[:2]) for key in UPSTREAM if key.endswith(".y")]
CENTERED_CASES = [(key.split(".")[0], pool) for key in CENTERED if key.endswith(".x") for pool in ("flc", "asap")]
CONVOLUTIONS = golden_convolutions()

upstream_cases = pytest.mark.parametrize(("case", "name"), UPSTREAM_CASES)
centered_cases = pytest.mark.parametrize(("case", "pool"), CENTERED_CASES)
convolution_cases = pytest.mark.parametrize("case", range(len(CONVOLUTIONS)))
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def tensor(archive, key, dtype=DOUBLE):
    return torch.from_numpy(archive[key]).to(dtype)


def convolution(case, dtype=DOUBLE):
    """x, weight (leaves that require gradients) and the geometry of a golden convolution."""
    x, weight = (tensor(ALIASING, f"{case}.{key}", dtype).requires_grad_() for key in ("x", "weight"))
    return x, weight, CONVOLUTIONS[case]


def stride_1_maps(x, weight, stride, **geometry):
    return torch.nn.functional.conv2d(x, weight, stride=1, **geometry), stride


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared/golden beside this checkout")
def test_copies_are_the_shared_vectors():
    _, different, missing = filecmp.cmpfiles(SHARED, COPIES, ARCHIVES, shallow=False)
    assert (different, missing) == ([], [])


def test_archives_hold_every_variant_and_geometry():
    assert {name for _, name in UPSTREAM_CASES} == set(VARIANTS)
    assert len(UPSTREAM_CASES) == 40
    assert len(CENTERED_CASES) == 12
    assert len(CONVOLUTIONS) == 8


# ---- reference -------------------------------------------------------------------------------------------------------


@upstream_cases
def test_reference_is_the_published_module(case, name):
    x = tensor(UPSTREAM, f"{case}.x").requires_grad_()
    pool, variant = VARIANTS[name]
    y = reference_pool2d(pool, x, 2, variant)
    assert_close(y, UPSTREAM[f"{case}.{name}.y"], DOUBLE)
    (dx,) = torch.autograd.grad(y, x, tensor(UPSTREAM, f"{case}.{name}.dy"))
    assert_close(dx, UPSTREAM[f"{case}.{name}.dx"], DOUBLE)


@centered_cases
def test_reference_is_the_centered_definition(case, pool):
    y = reference_pool2d(pool, tensor(CENTERED, f"{case}.x"), int(CENTERED[f"{case}.stride"]))
    assert_close(y, CENTERED[f"{case}.{pool}.y"], DOUBLE)


@convolution_cases
def test_reference_is_the_aliasing_measure(case):
    x, weight, geometry = convolution(case)
    assert_close(reference.conv2d_aliasing(x, weight, **geometry, reduction="none"), ALIASING[f"{case}.maps"], DOUBLE)
    mean = reference.conv2d_aliasing(x, weight, **geometry)
    assert_close(mean, ALIASING[f"{case}.am"], DOUBLE)
    dx, dweight = torch.autograd.grad(mean, (x, weight))
    assert_close(dx, ALIASING[f"{case}.dx"], DOUBLE)
    assert_close(dweight, ALIASING[f"{case}.dweight"], DOUBLE)


# ---- backends, float64, against the vectors themselves ---------------------------------------------------------------


@upstream_cases
def test_upstream_variant_is_the_published_module(backend, case, name):
    x = tensor(UPSTREAM, f"{case}.x").requires_grad_()
    pool, variant = VARIANTS[name]
    y = pool2d(pool, x, 2, variant)
    assert_close(y, UPSTREAM[f"{case}.{name}.y"], DOUBLE)
    (dx,) = torch.autograd.grad(y, x, tensor(UPSTREAM, f"{case}.{name}.dy"))
    assert_close(dx, UPSTREAM[f"{case}.{name}.dx"], DOUBLE)


@centered_cases
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_centered_variant_is_the_definition(backend, case, pool, memory_format):
    x = tensor(CENTERED, f"{case}.x").to(memory_format=memory_format)
    y = pool2d(pool, x, int(CENTERED[f"{case}.stride"]))
    assert_close(y, CENTERED[f"{case}.{pool}.y"], DOUBLE)


@convolution_cases
def test_conv2d_aliasing_is_the_measure(backend, case):
    x, weight, geometry = convolution(case)
    assert_close(alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none"), ALIASING[f"{case}.maps"], DOUBLE)
    mean = alias_ops.conv2d_aliasing(x, weight, **geometry)
    assert_close(mean, ALIASING[f"{case}.am"], DOUBLE)
    dx, dweight = torch.autograd.grad(mean, (x, weight))
    assert_close(dx, ALIASING[f"{case}.dx"], DOUBLE)
    assert_close(dweight, ALIASING[f"{case}.dweight"], DOUBLE)


@convolution_cases
def test_aliasing_of_stride_1_maps_is_the_measure(backend, case):
    x, weight, geometry = convolution(case)
    mean = alias_ops.aliasing(*stride_1_maps(x, weight, **geometry))
    assert_close(mean, ALIASING[f"{case}.am"], DOUBLE)
    dx, dweight = torch.autograd.grad(mean, (x, weight))
    assert_close(dx, ALIASING[f"{case}.dx"], DOUBLE)
    assert_close(dweight, ALIASING[f"{case}.dweight"], DOUBLE)


# ---- backends, every dtype, against the reference of the rounded input -----------------------------------------------


@dtypes
@upstream_cases
def test_upstream_variants_in_every_dtype(backend, case, name, dtype):
    x = tensor(UPSTREAM, f"{case}.x", dtype).requires_grad_()
    dy = tensor(UPSTREAM, f"{case}.{name}.dy", dtype)
    pool, variant = VARIANTS[name]
    y, expected = pool2d(pool, x, 2, variant), reference_pool2d(pool, x, 2, variant)
    assert y.dtype == dtype
    assert_close(y, expected, dtype)
    (dx,), (expected_dx,) = torch.autograd.grad(y, x, dy), torch.autograd.grad(expected, x, dy.double())
    assert dx.dtype == dtype
    assert_close(dx, expected_dx, dtype)


@dtypes
@centered_cases
def test_centered_variants_in_every_dtype(backend, case, pool, dtype):
    x, stride = tensor(CENTERED, f"{case}.x", dtype).requires_grad_(), int(CENTERED[f"{case}.stride"])
    y, expected = pool2d(pool, x, stride), reference_pool2d(pool, x, stride)
    assert y.dtype == dtype
    assert_close(y, expected, dtype)
    (dx,), (expected_dx,) = (torch.autograd.grad(out.square().sum(), x) for out in (y.double(), expected))
    assert_close(dx, expected_dx, dtype)


@dtypes
@convolution_cases
def test_aliasing_measures_in_every_dtype(backend, case, dtype):
    x, weight, geometry = convolution(case, dtype)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = reference.conv2d_aliasing(*exact, **geometry, reduction="none")
    assert_close(alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none"), expected, dtype)
    mean = alias_ops.conv2d_aliasing(x, weight, **geometry)
    assert mean.dtype == (DOUBLE if dtype == DOUBLE else torch.float32)
    assert_close(mean, expected.mean(), dtype)
    for gradient, expected_gradient in zip(
        torch.autograd.grad(mean, (x, weight)), torch.autograd.grad(expected.mean(), exact), strict=True
    ):
        assert gradient.dtype == dtype
        assert_close(gradient, expected_gradient, dtype)


@dtypes
@convolution_cases
def test_aliasing_of_maps_in_every_dtype(backend, case, dtype):
    x, weight, geometry = convolution(case)
    with torch.no_grad():
        maps, stride = stride_1_maps(x, weight, **geometry)
    maps = maps.to(dtype).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    actual, expected = alias_ops.aliasing(maps, stride), reference.aliasing(exact, stride)
    assert_close(actual, expected, dtype)
    assert_close(torch.autograd.grad(actual, maps)[0], torch.autograd.grad(expected, exact)[0], dtype)
