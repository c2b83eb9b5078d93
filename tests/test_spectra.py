"""Spectra of images: against NumPy, Parseval, sinusoids whose place is known, and what wrong calls say."""

import math

import numpy as np
import pytest
import torch
from helpers import DTYPES, randn, run_python

from alias_ops.spectra import radial_profile, spectrum

SIZES = [(8, 8), (7, 9), (6, 10), (1, 8), (5, 1), (1, 1)]


def numpy_log(x: torch.Tensor, floor: float = 1e-8) -> np.ndarray:
    """[B, C, H, W] -> centred log10 magnitudes, by NumPy alone."""
    magnitude = np.abs(np.fft.fft2(x.double().numpy())) / (x.shape[-1] * x.shape[-2])
    return np.log10(np.maximum(np.fft.fftshift(magnitude, axes=(-2, -1)), floor))


@pytest.mark.parametrize("size", SIZES)
def test_spectrum_is_numpys(size):
    x = randn(3, 2, *size)
    found = spectrum(x)
    assert found.shape == (2, *size)
    np.testing.assert_allclose(found.numpy(), numpy_log(x).mean(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_types_are_transformed_in_float32(dtype):
    x = randn(2, 3, 9, 8, dtype=dtype)
    found = spectrum(x)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.double().numpy(), numpy_log(x).mean(0), atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_parseval(size):
    x = randn(1, 3, *size)
    power = (10 ** (2 * spectrum(x, floor=1e-300))).sum((-2, -1))
    torch.testing.assert_close(power, x[0].square().mean((-2, -1)), rtol=1e-12, atol=0)


def test_a_wave_is_where_it_should_be():
    rows, cols = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    wave = torch.cos(2 * math.pi * (3 * rows / 16 + 2 * cols / 12))
    found = spectrum(wave[None])[0]
    peaks = {tuple(peak) for peak in (found > -1).nonzero().tolist()}
    assert peaks == {(8 + 3, 6 + 2), (8 - 3, 6 - 2)}
    assert found[11, 8].item() == pytest.approx(math.log10(0.5), abs=1e-6)


def test_a_constant_is_its_value_and_zero_is_the_floor():
    assert spectrum(torch.full((1, 4, 4), 10.0))[0, 2, 2].item() == pytest.approx(1)
    assert spectrum(torch.zeros(2, 1, 4, 4), floor=1e-5).unique().tolist() == [-5]


def test_scale_shifts_the_levels():
    x = randn(2, 1, 8, 8)
    torch.testing.assert_close(spectrum(1000 * x), spectrum(x) + 3)


def test_leading_dimensions_are_one_batch():
    x = randn(2, 3, 1, 6, 6)
    torch.testing.assert_close(spectrum(x), spectrum(x.flatten(0, 1)))
    torch.testing.assert_close(radial_profile(x).level, radial_profile(x.flatten(0, 1)).level)


def test_nan_and_gradients_do_not_get_lost_or_through():
    x = randn(1, 2, 4, 4).requires_grad_()
    assert not spectrum(x).requires_grad
    with torch.no_grad():
        x[0, 1, 0, 0] = math.nan
    found = spectrum(x)
    assert found[1].isnan().all()
    assert found[0].isfinite().all()


def numpy_profile(x: torch.Tensor, log: bool) -> tuple[np.ndarray, np.ndarray]:
    """Bin by bin, as the docstring has it."""
    height, width = x.shape[-2:]
    levels = numpy_log(x) if log else 10 ** numpy_log(x, 1e-300)
    rings: dict[int, list] = {}
    for i in range(height):
        for j in range(width):
            k, m = i - height // 2, j - width // 2
            ring = math.floor(max(height, width) * math.hypot(k / height, m / width) + 0.5)
            rings.setdefault(ring, []).append(levels[:, :, i, j].mean(0))
    assert sorted(rings) == list(range(len(rings))), "no ring is empty"
    return np.arange(len(rings)) / max(height, width), np.stack([np.mean(rings[r], 0) for r in sorted(rings)], -1)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("size", [*SIZES, (16, 16), (4, 31), (13, 64)])
def test_radial_profile_is_numpys(size, log):
    x = randn(3, 2, *size)
    frequency, level = numpy_profile(x, log)
    found = radial_profile(x, log=log)
    np.testing.assert_allclose(found.frequency.numpy(), frequency, rtol=1e-12)
    np.testing.assert_allclose(found.level.numpy(), level, rtol=1e-10, atol=1e-12)


def test_a_wave_is_on_its_ring_whatever_its_direction():
    n = torch.arange(32.0)
    for wave in (torch.cos(2 * math.pi * 5 * n / 32).expand(32, 32), torch.cos(2 * math.pi * 5 * n / 32)[:, None]):
        frequency, level = radial_profile(wave.expand(1, 32, 32), log=False)
        assert frequency[level[0].argmax()].item() == 5 / 32


@pytest.mark.parametrize("function", [spectrum, radial_profile])
@pytest.mark.parametrize(
    ("x", "error", "says"),
    [
        (torch.ones(4, 4), ValueError, r"x must be images \[..., C, H, W\], at least one, got \[4, 4\]"),
        (torch.ones(0, 3, 4, 4), ValueError, r"at least one, got \[0, 3, 4, 4\]"),
        (torch.ones(1, 3, 4, 4, dtype=torch.uint8), TypeError, r"x must be a floating tensor .* got uint8"),
        ([1.0], TypeError, "got list"),
    ],
)
def test_wrong_images(function, x, error, says):
    with pytest.raises(error, match=says):
        function(x)


@pytest.mark.parametrize("floor", [0, -1.0, math.nan, "a"])
def test_wrong_floor(floor):
    with pytest.raises(ValueError, match="floor must be a positive number, got"):
        spectrum(torch.ones(1, 4, 4), floor=floor)


def test_importing_the_package_imports_no_library_for_it():
    done = run_python(
        "import alias_ops, alias_ops.plots, alias_ops.spectra, sys\n"
        "print({'matplotlib', 'foolbox', 'torchattacks'} & set(sys.modules))"
    )
    assert done.stdout == "set()\n", done.stderr
