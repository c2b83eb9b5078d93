"""Low and high frequencies: against NumPy's FFT, by what is known without the code, and their sum number by number."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from helpers import DTYPES, LAYOUTS, assert_close, randn
from torch import nn

from alias_ops import frequency
from alias_ops.frequency import LowPass2d, distances, high_pass, low_pass, split, svd_split

SIZES = [(1, 1), (1, 6), (2, 2), (3, 3), (4, 5), (7, 1), (8, 8), (9, 12), (16, 15)]


def numpy_low(x: torch.Tensor, radius: float) -> torch.Tensor:
    """The definition, with a shifted spectrum and a loop over its bins."""
    shifted = np.fft.fftshift(np.fft.fft2(x.double().numpy()), axes=(-2, -1))
    height, width = x.shape[-2:]
    for i, j in itertools.product(range(height), range(width)):
        if not math.sqrt((i - height // 2) ** 2 + (j - width // 2) ** 2) < radius:
            shifted[..., i, j] = 0
    low = np.fft.ifft2(np.fft.ifftshift(shifted, axes=(-2, -1)))
    assert np.abs(low.imag).max(initial=0) < 1e-12  # nothing that a real part would drop, at odd sizes either
    return torch.from_numpy(low.real)


# ---- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_it_is_the_definition_at_every_radius(size):
    x = randn(2, 3, *size)
    for radius in [*distances(*size).tolist(), 0.5, 2.0, 2.5, 100.0]:
        assert_close(low_pass(x, radius), numpy_low(x, radius), torch.float64, scale=x)
        assert_close(high_pass(x, radius), x - numpy_low(x, radius), torch.float64, scale=x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_its_own(dtype):
    x = randn(2, 3, 10, 13, dtype=dtype)
    for radius in (3, 4.5):
        low, high = split(x, radius)
        assert low.dtype == high.dtype == dtype
        assert_close(low, numpy_low(x, radius), dtype)
        assert_close(high, x.double() - numpy_low(x, radius), dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_and_channels_last_stays(layout):
    x = LAYOUTS[layout](2, 3, 6, 8)
    low, high = split(x, 3)
    assert_close(low, numpy_low(x.contiguous(), 3), torch.float64)
    assert_close(high, x - low, torch.float64)
    if layout == "channels_last":
        assert low.is_contiguous(memory_format=torch.channels_last)
        assert high.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (4, 4), (2, 1, 3, 4, 4)])
def test_any_leading_dimensions(shape):
    x = randn(*shape)
    for part in (*split(x, 2), *svd_split(x, 2)):
        assert part.shape == x.shape
    if x.numel():
        assert_close(low_pass(x, 2), numpy_low(x, 2), torch.float64)


def test_one_bin_at_a_time():
    """A sinusoid of signed frequency (k, m) passes where sqrt(k^2 + m^2) is below the radius, and not at it."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
    for k, m in itertools.product((0, 1, 3, 4, 5), (0, 2, 4)):  # rows 5 is -3
        x = torch.cos(2 * math.pi * (k * rows / 8 + m * columns / 9)).double()
        distance = math.hypot(min(k, 8 - k), m)
        assert low_pass(x, distance).norm() < 1e-5
        assert (low_pass(x, math.nextafter(distance, math.inf)) - x).norm() < 1e-5


def test_distances_are_all_there_are_and_none_twice():
    for height, width in [(1, 1), (5, 4), (8, 8), (7, 30)]:
        rows, columns = np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width)
        every = {round(a * a + b * b) for a in rows for b in columns}
        assert distances(height, width).tolist() == sorted(math.sqrt(d) for d in every)
    # Between two of them nothing changes, and at each something does.
    x, radii = randn(6, 7), distances(6, 7)
    lows = [low_pass(x, r) for r in radii]
    assert all((a - b).norm() > 1e-3 for a, b in itertools.pairwise([*lows, x]))
    for low, r, after in zip(lows[1:], radii, radii[1:]):
        assert torch.equal(low, low_pass(x, (r + after) / 2))


def test_radii_of_any_dtype_are_strict_at_the_distances_themselves():
    x = randn(12, 12)
    for r in distances(12, 12):
        low = low_pass(x, float(r))
        for radius in (r, r.float(), np.float64(r.item())):
            assert torch.equal(low_pass(x, radius), low)
    assert torch.equal(low_pass(x, torch.tensor(4)), low_pass(x, 4))


def test_radii_by_sample():
    for shape in [(4, 3, 9, 8), (4, 9, 8)]:
        x, radii = randn(*shape), torch.tensor([0.0, 2.0, 3.5, 90.0])
        together = split(x, radii)
        for i, radius in enumerate(radii.tolist()):
            assert_close(together.low[i], low_pass(x[i], radius), torch.float64)
            assert_close(together.high[i], high_pass(x[i], radius), torch.float64, scale=x[i])


def test_nothing_and_everything():
    x = randn(3, 8, 9, dtype=torch.float32)
    for radius in (0, 0.0, torch.tensor(0.0), torch.tensor(math.nan)):
        assert torch.equal(high_pass(x, radius), x)
        assert not low_pass(x, radius).any()
    for radius in (100, math.inf, torch.tensor(6.0)):
        assert torch.equal(low_pass(x, radius), x)
        assert low_pass(x, radius).data_ptr() != x.data_ptr()
        assert not high_pass(x, radius).any()


def test_nan_stays_in_its_map():
    x = randn(2, 8, 8)
    x[0, 3, 3] = math.nan
    low = low_pass(x, 3)
    assert low[0].isnan().all()
    assert_close(low[1], numpy_low(x[1], 3), torch.float64)


def test_float16_keeps_its_low_frequencies_where_the_high_ones_overflow():
    x = torch.full((4, 4), 60000.0, dtype=torch.float16)
    x[0, 0] = -60000.0
    low, high = split(x, 1)
    assert high[0, 0].isneginf()
    assert_close(low, torch.full((4, 4), 52500.0), torch.float16)


# ---- energy and the sum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_parseval(size):
    """The two parts are orthogonal: their energies make the energy of x; more radius, more of it below."""
    x = randn(5, *size)
    last = torch.zeros(5, dtype=torch.float64)
    for radius in [*distances(*size).tolist(), 99.0]:
        low, high = split(x, radius)
        energies = [part.square().sum((-2, -1)) for part in (low, high, x)]
        torch.testing.assert_close(energies[0] + energies[1], energies[2], rtol=1e-12, atol=1e-12)
        assert (energies[0] >= last - 1e-12).all()
        last = energies[0]


def images(dtype: torch.dtype) -> torch.Tensor:
    """Photograph-like maps: 8-bit levels, dark regions with edges, zeros, both signs, many orders of magnitude."""
    levels = (randn(4, 24, 24).abs() * 60).clamp(0, 255).round() / 255
    dark = levels.clone()
    dark[:, :, 8:] *= 1e-3
    dark[:, 20:] = 0
    normalised = (levels - 0.45) / 0.22
    wild = randn(4, 24, 24, seed=1) * 2.0 ** randn(4, 24, 24, seed=2).mul(4)
    return torch.cat([levels, dark, normalised, wild]).to(dtype)


@pytest.mark.parametrize("function", [split, svd_split])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_sum_is_x_as_exactly_as_it_is_promised(dtype, function):
    x = images(dtype)
    for parameter in (1, 2, 5, 9):
        low, high = (part.double() for part in function(x, parameter))
        wide = x.double()
        error = (low + high - wide).abs()  # float64 adds these without rounding, but for the smallest of them
        promised = (low.abs() <= wide.abs()) | ((low * wide > 0) & (low.abs() <= 2 * wide.abs()))
        assert promised.float().mean() > 0.3
        assert not error[promised].any()
        _, exponent = torch.frexp(low)
        about = torch.finfo(dtype)
        ulp = torch.ldexp(torch.full_like(low, about.eps), exponent - 1).clamp(min=about.smallest_normal * about.eps)
        assert (error <= ulp / 2).all()
        total = sum(function(x, parameter))
        assert torch.equal(total[promised], x[promised])


def test_the_promise_for_any_two_numbers():
    """Whatever low is: random bits of float16, whose sums float64 takes exactly, and those near each other."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**15), 2**15, (2, 2**19), generator=generator, dtype=torch.int16)
    x, low = bits.view(torch.float16)
    near = torch.randint(-9, 10, x.shape, generator=generator, dtype=torch.int16)
    low = torch.cat([low, (bits[0] + near).view(torch.float16), -(bits[0] + near).view(torch.float16)])
    x = x.repeat(3)
    usable = x.isfinite() & low.isfinite() & (x - low).isfinite()
    x, low = x[usable], low[usable]
    got = frequency.components.parts(x, low.clone())
    wide, small, rest = (part.double() for part in (x, *got))
    error = (small + rest - wide).abs()
    assert not error[small.abs() <= wide.abs()].any()
    assert not error[(small * wide > 0) & (small.abs() <= 2 * wide.abs())].any()
    about = torch.finfo(torch.float16)
    ulp = torch.ldexp(torch.full_like(small, about.eps), torch.frexp(small)[1] - 1).clamp(min=2.0**-24)
    assert (error <= ulp / 2).all()
    larger = torch.maximum(small.abs(), rest.abs())
    unit = torch.ldexp(torch.full_like(larger, about.eps), torch.frexp(larger)[1] - 1).clamp(min=2.0**-24)
    assert ((small - low.double()).abs() <= unit).all()
    assert error.any()


def test_a_mere_difference_promises_less():
    """What the correction is for: x - low, rounded, and low unmoved miss x in places where split does not."""
    x = images(torch.float32)
    plain = low_of(x, 5)
    naive = plain + (x - plain)
    low, high = split(x, 5)
    ours = low.abs() <= x.abs()
    assert (naive != x)[ours].any()
    assert torch.equal((low + high)[ours], x[ours])
    assert ((low - plain).abs() <= torch.finfo(torch.float32).eps * torch.maximum(low.abs(), high.abs())).all()


def low_of(x, radius):
    return frequency.components.low_of_spectrum(x, frequency.components.spectrum(x), radius)


def test_parts_are_those_of_their_own_functions():
    x = images(torch.float32)
    low, high = split(x, 4)
    assert torch.equal(low, low_pass(x, 4))
    assert torch.equal(high, high_pass(x, 4))


# ---- singular values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_svd_split_is_the_nearest_of_its_rank(size):
    x = randn(2, *size)
    values = torch.linalg.svdvals(x)
    for k in range(min(size) + 2):
        low, high = svd_split(x, k)
        assert_close(low + high, x, torch.float64)
        torch.testing.assert_close(high.square().sum((-2, -1)), values[:, k:].square().sum(-1), rtol=1e-10, atol=1e-20)
        assert (torch.linalg.matrix_rank(low) <= k).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_svd_split_in_every_dtype(dtype):
    x = randn(2, 3, 8, 9, dtype=dtype)
    low, high = svd_split(x, 3)
    assert low.dtype == high.dtype == dtype
    assert_close(low, svd_split(x.double(), 3).low, dtype)


# ---- derivatives, transforms, compilers ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(4, 5), (3, 1), (6, 6)])
def test_gradients_of_any_order(size):
    x = randn(2, *size).requires_grad_()
    radii = torch.tensor([1.5, 2.5])
    for function in (lambda x: split(x, 2), lambda x: low_pass(x, radii), lambda x: high_pass(x, 1)):
        assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
        assert torch.autograd.gradgradcheck(function, x)


def test_gradients_of_the_singular_values():
    assert torch.autograd.gradcheck(lambda x: svd_split(x, 2), randn(2, 4, 5).requires_grad_())


def test_the_gradient_is_a_projection_in_every_dtype():
    for dtype in DTYPES:
        x, grad = randn(2, 9, 10, dtype=dtype).requires_grad_(), randn(2, 9, 10, dtype=dtype, seed=1)
        low_pass(x, 3).backward(grad)
        assert_close(x.grad, numpy_low(grad, 3), dtype)
        x.grad = None
        high_pass(x, 3).backward(grad)
        assert_close(x.grad, grad.double() - numpy_low(grad, 3), dtype)


def test_torch_func():
    x, radii = randn(4, 2, 6, 7), torch.tensor([1.0, 2.0, 3.0, 9.0])
    mapped = torch.func.vmap(low_pass)(x, radii)
    assert_close(mapped, low_pass(x, radii), torch.float64)
    jacobian = torch.func.jacrev(lambda x: low_pass(x, 2))(x[0, 0]).reshape(42, 42)
    assert_close(jacobian @ jacobian, jacobian, torch.float64)
    assert_close(torch.func.jacfwd(lambda x: low_pass(x, 2))(x[0, 0]).reshape(42, 42), jacobian, torch.float64)


def test_autocast_changes_nothing():
    x = randn(2, 3, 8, 8, dtype=torch.float32)
    expected = [*split(x, 3), *svd_split(x, 3)]
    with torch.autocast("cpu", torch.bfloat16):
        for part, wanted in zip([*split(x, 3), *svd_split(x, 3)], expected, strict=True):
            assert torch.equal(part, wanted)


def test_one_graph_of_any_size():
    torch.compiler.reset()
    compiled = torch.compile(split, fullgraph=True, dynamic=True, backend="eager")
    for shape, radius in [((2, 3, 8, 8), 3.0), ((5, 1, 9, 14), 2.5), ((4, 3, 8, 8), torch.tensor([1.0, 2, 3, 4]))]:
        x = randn(*shape, dtype=torch.float32).requires_grad_()
        low, high = compiled(x, radius)
        assert torch.equal(low, low_pass(x, radius))
        assert torch.equal(high, high_pass(x, radius))
        low.square().sum().backward()
        assert_close(x.grad, 2 * low_pass(low.detach(), radius), torch.float32)


# ---- the layer -------------------------------------------------------------------------------------------------------


def test_the_layer_in_front_of_a_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    layer = LowPass2d(2.5)
    defended = nn.Sequential(layer, network)
    x = randn(2, 3, 8, 8)
    assert torch.equal(defended(x), network(low_pass(x, 2.5)))
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == list(layer.buffers()) == []
    assert defended.state_dict().keys() == {f"1.{name}" for name in network.state_dict()}
    assert repr(layer) == "LowPass2d(radius=2.5)"
    assert copy.deepcopy(layer).radius == 2.5


def test_the_layer_exports(tmp_path):
    x = randn(2, 3, 8, 9, dtype=torch.float32)
    layer = LowPass2d(3).eval()
    program = torch.export.export(layer, (x,))
    assert torch.equal(program.module()(x), layer(x))
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", verbose=False)
    (y,) = runtime.InferenceSession(tmp_path / "layer.onnx").run(None, {"x": x.numpy()})
    assert_close(torch.from_numpy(y), layer(x), torch.float32)


# ---- wrong calls -----------------------------------------------------------------------------------------------------

X = torch.ones(2, 3, 8, 8)
WRONG = [
    (lambda: low_pass(X.long(), 1), TypeError, "x must be a floating tensor [..., H, W], got int64 [2, 3, 8, 8]"),
    (lambda: low_pass(X.to(torch.complex64), 1), TypeError, "x must be a floating tensor [..., H, W], got complex64"),
    (lambda: split(X[0, 0, 0], 1), ValueError, "x must be a floating tensor [..., H, W], got float32 [8]"),
    (lambda: split(X[..., :0], 1), ValueError, "x must have maps of at least 1x1"),
    (lambda: high_pass(X, -1), ValueError, "radius must be a non-negative number, got -1"),
    (lambda: high_pass(X, math.nan), ValueError, "radius must be a non-negative number, got nan"),
    (lambda: low_pass(X, True), TypeError, "radius must be a non-negative number, got True"),
    (lambda: low_pass(X, "3"), TypeError, "radius must be a non-negative number, got '3'"),
    (lambda: low_pass(X, None), TypeError, "radius must be a non-negative number, got None"),
    (lambda: low_pass(X, [1.0, 2.0]), TypeError, "radius must be a non-negative number, got [1.0, 2.0]"),
    (lambda: low_pass(X, torch.ones(3)), ValueError, "one per sample [N], got float32 [3] for an x [2, 3, 8, 8]"),
    (lambda: low_pass(X, torch.ones(2, 1)), ValueError, "one per sample [N], got float32 [2, 1]"),
    (lambda: low_pass(X[0, 0], torch.ones(8)), ValueError, "one per sample [N], got float32 [8] for an x [8, 8]"),
    (lambda: low_pass(X, torch.ones(2) > 0), TypeError, "one per sample [N], got bool [2]"),
    (lambda: svd_split(X.int(), 1), TypeError, "x must be a floating tensor [..., H, W], got int32"),
    (lambda: svd_split(X, 1.0), TypeError, "k must be a non-negative int, got 1.0"),
    (lambda: svd_split(X, True), TypeError, "k must be a non-negative int, got True"),
    (lambda: svd_split(X, -1), ValueError, "k must be a non-negative int, got -1"),
    (lambda: distances(0, 4), ValueError, "height must be a positive int, got 0"),
    (lambda: distances(4, 2.0), TypeError, "width must be a positive int, got 2.0"),
    (lambda: LowPass2d(-2), ValueError, "radius must be a non-negative number, got -2"),
    (lambda: LowPass2d("a"), TypeError, "radius must be a non-negative number, got 'a'"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[case[2][:70] for case in WRONG])
def test_wrong_calls_say_what_is_wrong(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)
