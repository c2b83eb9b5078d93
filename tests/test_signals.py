"""What signals must do, whoever computes it: nothing here knows how the package works or asks its reference."""

import itertools

import numpy as np
import pytest
import torch
from helpers import ALL_POOLS, assert_close, pool2d, randn, spectrum_l1

import alias_ops

DOUBLE = torch.float64
POOLS = ("flc", "asap")
SIZES = [(4, 4), (5, 8), (6, 10), (7, 7), (14, 14), (15, 21), (16, 12), (1, 9), (30, 6), (33, 20)]
STRIDES = [1, 2, 3, 4]

pools = pytest.mark.parametrize("pool", POOLS)
sizes = pytest.mark.parametrize("size", SIZES, ids=str)
strides = pytest.mark.parametrize("stride", STRIDES)


def outputs(size, stride):
    return tuple(-(-n // stride) for n in size)


def grid(size):
    """Sample positions as fractions of the map: where a resampled signal must be read."""
    return torch.meshgrid(*(torch.arange(n, dtype=DOUBLE) / n for n in size), indexing="ij")


def wave(size, u, v, phase=0.3):
    """A real plane wave with u periods along the height and v along the width, sampled at ``size`` points."""
    h, w = grid(size)
    return torch.cos(2 * torch.pi * (u * h + v * w) + phase)


def bins_below(kept):
    """Signed frequencies that ``kept`` samples represent without ambiguity."""
    return range(-((kept - 1) // 2), (kept - 1) // 2 + 1)


def band_limited(size, stride, seed=0):
    """A random real map without any frequency that ``stride`` would fold."""
    generator = np.random.default_rng(seed)
    x = torch.zeros(size, dtype=DOUBLE)
    for u, v in itertools.product(*(bins_below(n) for n in outputs(size, stride))):
        x += generator.normal() * wave(size, u, v, generator.uniform(0, 6))
    return x


# ---- pooling ---------------------------------------------------------------------------------------------------------


@strides
@sizes
@pools
def test_constants_survive(backend, pool, size, stride):
    y = pool2d(pool, torch.full((2, *size), 3.5, dtype=DOUBLE), stride)
    assert_close(y, torch.full((2, *outputs(size, stride)), 3.5, dtype=DOUBLE), DOUBLE)


def test_the_published_flc_breaks_constants_at_14_and_the_centered_one_does_not(backend):
    """Section 2.2 of the design: ones come back between -0.90 and 1.00 at the 14 -> 7 stage of every ResNet."""
    ones = torch.ones(14, 14, dtype=DOUBLE)
    broken = alias_ops.flc_pool2d(ones, variant="upstream")
    assert round(broken.min().item(), 2) == -0.90
    assert round(broken.max().item(), 2) == 1.00
    assert_close(alias_ops.flc_pool2d(ones), torch.ones(7, 7, dtype=DOUBLE), DOUBLE)


@strides
@sizes
def test_flc_resamples_waves_below_the_cut_off_exactly(backend, size, stride):
    kept = outputs(size, stride)
    for u, v in itertools.product(*(bins_below(n) for n in kept)):
        y = alias_ops.flc_pool2d(wave(size, u, v), stride)
        assert_close(y, wave(kept, u, v), DOUBLE, scale=torch.ones(kept))


@strides
@sizes
def test_asap_weighs_waves_below_the_cut_off_by_its_window(backend, size, stride):
    kept = outputs(size, stride)
    for u, v in itertools.product(*(bins_below(n) for n in kept)):
        gain = np.prod([np.sqrt(0.54 + 0.46 * np.cos(2 * np.pi * f / n)) for f, n in zip((u, v), size, strict=True)])
        y = alias_ops.asap_pool2d(wave(size, u, v), stride)
        assert_close(y, gain * wave(kept, u, v), DOUBLE, scale=torch.ones(kept))


@pytest.mark.parametrize("stride", [2, 3, 4])
@sizes
@pools
def test_waves_above_the_cut_off_vanish(backend, pool, size, stride):
    kept = outputs(size, stride)
    above = [
        (u, v)
        for u, v in itertools.product(*(range(-(n // 2), n // 2 + 1) for n in size))
        if any(2 * abs(f) > n for f, n in zip((u, v), kept, strict=True))
    ]
    assert above
    x = torch.stack([wave(size, u, v) for u, v in above])
    y = pool2d(pool, x, stride)
    assert_close(y, torch.zeros_like(y), DOUBLE, scale=x)


@pools
@pytest.mark.parametrize(
    ("size", "stride"), [((12, 20), 2), ((14, 10), 2), ((9, 15), 3), ((16, 8), 4), ((6, 8), (3, 2))]
)
def test_circular_shifts_by_the_stride_commute_with_pooling(backend, pool, size, stride):
    x = randn(2, *size)
    step = (stride, stride) if isinstance(stride, int) else stride
    for shift in ((1, 0), (0, 1), (2, -1)):
        moved = x.roll([s * n for s, n in zip(step, shift, strict=True)], (-2, -1))
        assert_close(pool2d(pool, moved, stride), pool2d(pool, x, stride).roll(shift, (-2, -1)), DOUBLE)


@pools
@pytest.mark.parametrize("size", [(16, 16), (14, 18), (15, 9)], ids=str)
def test_any_circular_shift_of_a_band_limited_map_only_moves_what_comes_out(backend, pool, size):
    """By one sample, half a step of the output grid: the spectrum's magnitudes stay, only phases turn."""
    x = band_limited(size, 2)
    still, moved = (torch.fft.fft2(pool2d(pool, t)).abs() for t in (x, x.roll((1, 1), (-2, -1))))
    assert_close(moved, still, DOUBLE)


@pytest.mark.parametrize("size", [(4, 4), (8, 12), (16, 4), (28, 56)], ids=str)
def test_centered_flc_is_the_published_one_where_4_divides_the_size(backend, size):
    x = randn(3, *size)
    assert_close(alias_ops.flc_pool2d(x), alias_ops.flc_pool2d(x, variant="upstream"), DOUBLE)


@pytest.mark.parametrize("size", [(6, 8), (8, 10), (14, 14)], ids=str)
def test_centered_flc_is_not_the_published_one_where_a_size_is_2_mod_4(backend, size):
    x = randn(3, *size)
    difference = alias_ops.flc_pool2d(x) - alias_ops.flc_pool2d(x, variant="upstream")
    assert difference.norm() > 0.1 * alias_ops.flc_pool2d(x).norm()


@strides
@sizes
def test_asap_is_flc_of_the_windowed_map(backend, size, stride):
    x = randn(2, *size)
    window_h, window_w = (np.sqrt(0.54 + 0.46 * np.cos(2 * np.pi * np.fft.fftfreq(n))) for n in size)
    windowed = torch.fft.ifft2(torch.fft.fft2(x) * torch.from_numpy(np.outer(window_h, window_w))).real
    assert_close(alias_ops.asap_pool2d(x, stride), alias_ops.flc_pool2d(windowed, stride), DOUBLE)


@strides
@sizes
@pools
def test_poolings_are_the_sums_of_the_design(backend, pool, size, stride):
    """Section 2.2 as it stands: Re of the kept frequencies, weighed, at the new sampling rate."""
    x = randn(*size)
    matrices = []
    for n, m in zip(size, outputs(size, stride), strict=True):
        k = np.arange(-(m // 2), m - m // 2)
        window = np.sqrt(0.54 + 0.46 * np.cos(2 * np.pi * k / n)) if pool == "asap" else np.ones(m)
        forward = np.exp(-2j * np.pi * np.outer(k, np.arange(n)) / n) / n
        matrices.append(np.exp(2j * np.pi * np.outer(np.arange(m), k) / m) * window @ forward)
    expected = (matrices[0] @ x.numpy() @ matrices[1].T).real
    assert_close(pool2d(pool, x, stride), expected, DOUBLE)


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_poolings_are_linear(backend, pool, variant):
    x, y = randn(2, 14, 15), randn(2, 14, 15, seed=1)
    together = pool2d(pool, 2.5 * x - y, 2, variant)
    assert_close(together, 2.5 * pool2d(pool, x, 2, variant) - pool2d(pool, y, 2, variant), DOUBLE)


# ---- aliasing measure ------------------------------------------------------------------------------------------------


@strides
@sizes
def test_constants_alias_nothing(backend, size, stride):
    """At odd sizes too: that is what the replication is for."""
    x = torch.full((3, *size), 2.5, dtype=DOUBLE)
    assert_close(alias_ops.aliasing(x, stride, reduction="none"), torch.zeros(3), DOUBLE, scale=x[:, 0, 0])


@pytest.mark.parametrize(
    ("size", "stride"), [((8, 8), 2), ((14, 20), 2), ((9, 15), 3), ((16, 12), 4), ((6, 8), (3, 2))]
)
def test_band_limited_maps_alias_nothing(backend, size, stride):
    step = (stride, stride) if isinstance(stride, int) else stride
    x = torch.zeros(size, dtype=DOUBLE)
    for u, v in itertools.product(*(bins_below(n // s) for n, s in zip(size, step, strict=True))):
        x += wave(size, u, v, phase=u + 2 * v)
    assert_close(alias_ops.aliasing(x, stride), 0.0, DOUBLE, scale=spectrum_l1(x, stride))


@pytest.mark.parametrize(("size", "stride"), [((8, 8), 2), ((14, 20), 2), ((9, 15), 3), ((16, 12), 4)])
def test_a_wave_above_the_cut_off_is_all_aliasing(backend, size, stride):
    """cos folds to two bins of 1/2 each (or one of cos(phase) where they coincide); none of it was there before."""
    kept = outputs(size, stride)
    for k in range(kept[0] // 2 + 1, size[0] // 2 + 1):
        x = wave(size, k, 1)
        folded = wave(kept, k % kept[0], 1)
        expected = torch.fft.fft2(folded, norm="forward").abs().sum()
        assert expected > 0.5
        assert_close(alias_ops.aliasing(x, stride), expected, DOUBLE)


@pytest.mark.parametrize(("size", "stride"), [((9, 7), 1), ((15, 5), 1), ((1, 1), 3)])
def test_without_subsampling_nothing_aliases(backend, size, stride):
    x = randn(2, *size)
    measure = alias_ops.aliasing(x, stride, reduction="none")
    assert_close(measure, torch.zeros(2), DOUBLE, scale=spectrum_l1(x, stride))


@strides
def test_a_bias_adds_no_aliasing(backend, stride):
    x = randn(2, 3, 13, 10)
    assert_close(alias_ops.aliasing(x + 100, stride), alias_ops.aliasing(x, stride), DOUBLE, scale=x + 100)


@pytest.mark.parametrize(("size", "stride"), [((12, 20), 2), ((9, 15), 3), ((16, 8), 4)])
def test_shifts_by_the_stride_keep_the_measure(backend, size, stride):
    x = randn(2, *size)
    moved = x.roll((stride, -2 * stride), (-2, -1))
    assert_close(alias_ops.aliasing(moved, stride), alias_ops.aliasing(x, stride), DOUBLE)


def test_flipping_the_axes_keeps_the_measure(backend):
    x = randn(2, 8, 15)
    assert_close(alias_ops.aliasing(x.mT, (3, 2)), alias_ops.aliasing(x, (2, 3)), DOUBLE)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_layer_of_band_limited_input_and_no_border_aliases_nothing(backend, kernel):
    """Circular padding keeps a wave a wave: what a convolution is given decides what it aliases."""
    pad = kernel // 2
    x = torch.stack([band_limited((12, 16), 2, seed) for seed in range(3)])[None]
    padded = torch.nn.functional.pad(x, (pad,) * 4, mode="circular")
    weight = randn(4, 3, kernel, kernel)
    measure = alias_ops.conv2d_aliasing(padded, weight, stride=2)
    assert_close(measure, 0.0, DOUBLE, scale=x.norm() * weight.norm())


def test_a_pooled_map_upsampled_by_zero_filling_its_spectrum_aliases_nothing(backend):
    """FLC keeps what fits: brought back to the old size, that part can be subsampled without loss."""
    x = randn(2, 15, 21)
    low = alias_ops.flc_pool2d(x, 3)
    spectrum = torch.zeros(2, 15, 21, dtype=torch.complex128)
    rows, columns = ([f % n for f in bins_below(m)] for n, m in ((15, 5), (21, 7)))
    for r, row in zip(bins_below(5), rows, strict=True):
        for c, column in zip(bins_below(7), columns, strict=True):
            spectrum[:, row, column] = torch.fft.fft2(low, norm="forward")[:, r, c]
    upsampled = torch.fft.ifft2(spectrum, norm="forward").real
    assert_close(upsampled[:, ::3, ::3], low, DOUBLE)
    assert_close(alias_ops.aliasing(upsampled, 3, reduction="none"), torch.zeros(2), DOUBLE, scale=low)
