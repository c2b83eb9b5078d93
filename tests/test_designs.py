"""Factor matrices of poolings and of the aliasing measure: against the reference, and the structure they promise."""

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest
import torch
from helpers import ALL_POOLS, assert_close, randn, reference_pool2d
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from alias_ops import designs, reference

DOUBLE = torch.float64
SIZES = [(1, 1), (1, 2), (2, 3), (4, 4), (5, 7), (6, 10), (8, 8), (11, 13), (14, 14), (17, 4), (31, 2)]
STRIDES = [1, 2, 3, 4, 5]
AXES = list(itertools.product([1, 2, 3, 4, 5, 7, 8, 11, 12, 13, 14, 16, 31, 56, 97], STRIDES))
axes = pytest.mark.parametrize(("size", "stride"), AXES)


def unit_maps(height, width):
    """Every map with a single 1: a linear operator is what it does to these."""
    return torch.eye(height * width, dtype=DOUBLE).view(-1, height, width)


def apply(factors, x):
    left, right = factors
    return torch.einsum("tmh,...hw,tnw->...mn", left, x, right)


def replicated(x, stride, dim):
    """x extended along ``dim`` to a multiple of ``stride`` by its last sample."""
    length = x.shape[dim]
    index = torch.arange(designs.output_size(length, stride) * stride).clamp(max=length - 1)
    return x.index_select(dim, index)


def keeps_nothing(variant, size):
    return size == 1 and variant in ("upstream", "upstream_padlarge")


# ---- pooling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [*STRIDES, (2, 3), (5, 1)], ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("pool", designs.POOLS)
def test_centered_factors_do_to_unit_maps_what_the_reference_does(pool, height, width, stride):
    steps = (stride, stride) if isinstance(stride, int) else stride
    x = unit_maps(height, width)
    factors = designs.pooling_factors(pool, height, width, steps)
    assert_close(apply(factors, x), reference_pool2d(pool, x, stride), DOUBLE)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_factors_of_every_variant_do_what_the_reference_does(pool, variant, height, width):
    if keeps_nothing(variant, height) or keeps_nothing(variant, width):
        with pytest.raises(ValueError, match="keeps nothing of 1 samples; use at least 2"):
            designs.pooling_factors(pool, height, width, (2, 2), variant)
        return
    x = unit_maps(height, width)
    factors = designs.pooling_factors(pool, height, width, (2, 2), variant)
    assert_close(apply(factors, x), reference_pool2d(pool, x, 2, variant), DOUBLE)


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_factors_are_right_at_large_sizes(pool, variant):
    x = randn(2, 509, 896)
    factors = designs.pooling_factors(pool, 509, 896, (2, 2), variant)
    assert_close(apply(factors, x), reference_pool2d(pool, x, 2, variant), DOUBLE)


@axes
@pytest.mark.parametrize("pool", designs.POOLS)
def test_shapes_and_number_of_terms(pool, size, stride):
    kept = len(range(0, size, stride))
    # The second term is the unpaired Nyquist bin of an even number of outputs; it takes one along both axes.
    nyquist = kept % 2 == 0 and kept < size
    for width, outputs, terms in ((6, 3, 1), (8, 4, 2 if nyquist else 1)):
        left, right = designs.pooling_factors(pool, size, width, (stride, 2))
        assert left.shape == (terms, kept, size)
        assert right.shape == (terms, outputs, width)
        assert left.dtype == right.dtype == DOUBLE


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_factors_in_other_dtypes_are_the_rounded_float64_ones(dtype):
    exact = designs.pooling_factors("asap", 14, 12)
    for factor, rounded in zip(exact, designs.pooling_factors("asap", 14, 12, dtype=dtype), strict=True):
        assert torch.equal(factor.to(dtype), rounded)


def test_a_spectrum_that_callers_share_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        designs.axis_spectrum("asap", 14).length = 8


def test_strides_are_2_unless_said():
    left, right = designs.pooling_factors("flc", 9, 14)
    assert (left.shape, right.shape) == ((1, 5, 9), (1, 7, 14))
    (a, b), *_ = designs.pooling_terms("flc", 9, 14)
    assert (a.shape, b.shape) == ((5, 9), (14, 7))
    assert designs.axis_spectrum("asap", 14).length == 7


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cpu", torch.float16, DOUBLE),  # rounded while the kernels pack them
        ("cpu", torch.float32, DOUBLE),
        ("cpu", DOUBLE, DOUBLE),
        ("meta", torch.bfloat16, torch.float32),
        ("meta", torch.float32, torch.float32),
        ("meta", DOUBLE, DOUBLE),
    ],
    ids=str,
)
def test_factors_are_as_wide_as_what_they_are_summed_in(device, dtype, expected):
    assert designs.factor_dtype(torch.empty(1, device=device, dtype=dtype)) is expected


@axes
@pytest.mark.parametrize("pool", designs.POOLS)
def test_imaginary_part_is_zero_or_of_rank_one(pool, size, stride):
    matrix = designs.axis_spectrum(pool, size, stride).matrix()
    singular = np.linalg.svd(matrix.imag, compute_uv=False)
    real_norm = np.linalg.norm(matrix.real, 2)
    assert (singular[1:] <= 1e-13 * real_norm).all()
    if designs.output_size(size, stride) % 2:
        assert singular[0] <= 1e-13 * real_norm
    elif stride > 1:
        assert singular[0] > 1e-3 * real_norm


@pytest.mark.parametrize("size", [2, 4, 6, 8, 14, 16, 22, 26, 56, 112, 194])
def test_flc_with_stride_2_is_half_band(size):
    left, _ = designs.pooling_factors("flc", size, size)
    even = left[0][:, ::2]
    half = torch.full((size // 2,), 0.5, dtype=DOUBLE)
    assert_close(even.diagonal(), half, DOUBLE)
    # Exactly 0, not nearly: the kernels skip these columns.
    assert torch.equal(even, torch.diag(even.diagonal()))
    assert not left[1:, :, ::2].any()


@axes
def test_asap_has_dc_gain_1(size, stride):
    spectrum = designs.axis_spectrum("asap", size, stride)
    assert spectrum.window[spectrum.source == 0] == 1.0
    assert_close(torch.from_numpy(spectrum.matrix().sum(1).real), torch.ones(spectrum.length, dtype=DOUBLE), DOUBLE)


@axes
def test_asap_window_is_flc_weighed_bin_by_bin(size, stride):
    flc, asap = (designs.axis_spectrum(pool, size, stride) for pool in designs.POOLS)
    signed = (flc.source + size // 2) % size - size // 2
    assert (flc.window == 1).all()
    assert (asap.source == flc.source).all()
    np.testing.assert_allclose(asap.window**2, 0.54 + 0.46 * np.cos(2 * np.pi * signed / size), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("max", 8), "pool must be one of .*, got 'max'"),
        (("flc", 8, 2, "upstream_pad1"), "variant of flc must be one of .*, got 'upstream_pad1'"),
        (("asap", 0), "size must be at least 1, got 0"),
        (("asap", 8, 3, "upstream_padlarge"), "stride must be 2 for variant 'upstream_padlarge', got 3"),
        (("flc", 1, 2, "upstream"), "variant 'upstream' keeps nothing of 1 samples; use at least 2"),
    ],
    ids=str,
)
def test_axis_spectrum_says_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        designs.axis_spectrum(*arguments)


# ---- caching ---------------------------------------------------------------------------------------------------------

CACHED = {
    designs.pooling_factors: ("asap", 9, 12),
    designs.pooling_terms: ("asap", 9, 12),
    designs.cropped_rows: (9, 3, 2, 1, 1),
    designs.full_rows: (9, 3, 2, 1, 1),
    designs.low_band_rows: (9, 2),
    designs.dft_rows: (9,),
    designs.subsample: (9, 2),
    designs.low_pass: (9, 2),
    designs.residual_factors: (9, 12, (2, 2)),
    designs.tap_factors: (9, 3, 2, 1, 1),
    designs.input_rows: (9, 3, 2, 1, 1),
    designs.tap_phases: (9, 3, 2, 1, 1),
    designs.frame_lines: (9, 3, 2, 1, 1),
    designs.frame_sources: (9, 3, 2, 1, 1),  # numbers
    designs.alias_tables: (9, 2),
    designs.conv_tables: (9, 3, 2, 1, 1),
}


@pytest.mark.parametrize("design", CACHED, ids=lambda f: f.__name__)
def test_designs_are_cached_and_the_cache_is_bounded(design):
    assert design(*CACHED[design]) is design(*CACHED[design])
    assert design.cache_info().maxsize == designs.CACHED_DESIGNS


@pytest.mark.parametrize("mode", [torch.inference_mode, FakeTensorMode, torch.no_grad], ids=lambda m: m.__name__)
@pytest.mark.parametrize("design", CACHED, ids=lambda f: f.__name__)
def test_designs_first_asked_for_in_a_mode_are_ordinary_tensors(design, mode):
    design.cache_clear()
    with mode():
        result = design(*CACHED[design])
    for tensor in filter(torch.is_tensor, tree_leaves(result)):
        assert type(tensor) is torch.Tensor
        assert not tensor.is_inference()


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap], ids=["grad", "vmap"])
@pytest.mark.parametrize("design", CACHED, ids=lambda f: f.__name__)
def test_designs_first_asked_for_under_a_transform_are_ordinary_tensors(design, transform):
    found = []

    def function(x):
        found.append(design(*CACHED[design]))
        return x.sum()

    for each in CACHED:  # they are made from each other
        each.cache_clear()
    transform(function)(torch.ones(3))
    for tensor in filter(torch.is_tensor, tree_leaves(found[0])):
        assert not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def test_designs_keep_their_names_and_texts():
    functions = {name: getattr(designs, name) for name in designs.__all__ if name[0].islower()}
    assert len(functions) > 15
    assert {f.__name__ for f in functions.values()} == set(functions)
    assert [name for name, f in functions.items() if not f.__doc__] == []


LARGE = {
    designs.pooling_factors: ("asap", 320, 320),
    designs.low_pass: (320, 2),
    designs.residual_factors: (321, 321, (2, 2)),
    designs.tap_factors: (322, 3, 2, 1, 1),
    designs.frame_lines: (323, 3, 2, 1, 1),
}


@pytest.mark.parametrize("design", LARGE, ids=lambda f: f.__name__)
def test_memory_of_a_design_grows_with_its_matrices_and_not_with_their_cube(design):
    tracemalloc.start()
    result = design(*LARGE[design])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    tensors = result if isinstance(result, tuple) else (result,)
    assert peak <= 32 * sum(t.nbytes for t in tensors) + 2**20


def test_a_program_that_meets_many_sizes_does_not_grow_without_end():
    for width in range(1, designs.CACHED_DESIGNS + 20):
        designs.pooling_factors("flc", 1, width)
    assert designs.pooling_factors.cache_info().currsize == designs.CACHED_DESIGNS


# ---- aliasing measure ------------------------------------------------------------------------------------------------


@axes
def test_subsample_is_slicing(size, stride):
    assert torch.equal(designs.subsample(size, stride), torch.eye(size, dtype=DOUBLE)[::stride])


@axes
def test_low_pass_keeps_what_fits_and_nothing_else(size, stride):
    x = torch.eye(size, dtype=DOUBLE)
    spectrum = torch.fft.fft(replicated(x, stride, -1), norm="forward")
    kept = designs.output_size(size, stride)
    signed = torch.fft.fftfreq(kept, 1 / kept).round().long()
    low = spectrum[:, signed % spectrum.shape[-1]] * (2 * signed.abs() < kept)
    low_passed = torch.fft.ifft(low, norm="forward")
    assert_close(low_passed.imag, torch.zeros(size, kept), DOUBLE, scale=x)
    assert_close(designs.low_pass(size, stride).mT, low_passed.real, DOUBLE)


@axes
def test_low_band_rows_are_the_kept_half_of_the_spectrum(size, stride):
    x = torch.eye(size, dtype=DOUBLE)
    real, imag = designs.low_band_rows(size, stride)
    h = designs.half_band(size, stride)
    assert 2 * h < designs.output_size(size, stride) <= 2 * h + 2
    spectrum = torch.fft.rfft(replicated(x, stride, -1), norm="forward")[:, : h + 1]
    assert_close(torch.view_as_real(torch.complex(real, imag).mT), torch.view_as_real(spectrum), DOUBLE)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 16, 31, 56, 97])
def test_dft_rows_are_the_half_spectrum(length):
    spectrum = torch.fft.rfft(torch.eye(length, dtype=DOUBLE), norm="forward").mT
    assert_close(designs.dft_rows(length), torch.stack([spectrum.real, spectrum.imag]), DOUBLE)


@pytest.mark.parametrize("stride", [(1, 2), (2, 2), (3, 3), (4, 4), (5, 5), (2, 3)], ids=str)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_residual_has_the_aliasing_measure_as_its_spectral_norm(height, width, stride):
    x = randn(4, height, width)
    residual = apply(designs.residual_factors(height, width, stride), x)
    measure = torch.fft.fft2(residual, norm="forward").abs().sum((-1, -2))
    # A map of one sample folds nothing but rounding: that is relative to the map.
    assert_close(measure, reference.aliasing(x, stride, reduction="none"), DOUBLE, scale=x if x.numel() == 4 else None)


def test_alias_tables_are_the_rows_of_the_axis():
    low, dft = designs.alias_tables(15, 4)
    assert low is designs.low_band_rows(15, 4)
    assert dft is designs.dft_rows(4)
    for exact, rounded in zip((low, dft), designs.alias_tables(15, 4, torch.float32), strict=True):
        assert torch.equal(exact.to(torch.float32), rounded)


def test_low_pass_of_a_stride_far_above_the_size_is_a_mean():
    """One output, DC: the mean over the samples and all replicas of the last one."""
    stride = 10**5
    weights = torch.tensor([1.0, 1.0, stride - 2.0], dtype=DOUBLE) / stride
    assert_close(designs.low_pass(3, stride)[0], weights, DOUBLE)
    assert_close(designs.low_band_rows(3, stride), torch.stack([weights, torch.zeros(3)])[:, None], DOUBLE)
