"""Smoothed kernels: the theorem behind them, the published form, what changes in a model and how it comes back."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, assert_close, randn
from torch import nn
from torch.nn.utils import prune

from alias_ops.frequency import low_pass, smooth_kernels_
from alias_ops.frequency.smoothing import _neighbours


def network(**kwargs) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, **kwargs),
        nn.ReLU(),
        nn.Conv2d(4, 4, 5, groups=2, **kwargs),
        nn.Sequential(nn.Conv2d(4, 6, 1, **kwargs), nn.Conv2d(6, 2, (1, 7), stride=2, **kwargs)),
    )


def circular(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Circular convolution of maps [H, W] with a kernel of their size, from its definition."""
    total = torch.zeros_like(x)
    for i in range(kernel.shape[0]):
        for j in range(kernel.shape[1]):
            total += kernel[i, j] * x.roll((i, j), (0, 1))
    return total


# ---- the theorem -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kernel"), [((8, 8), 3), ((9, 7), 5), ((3, 3), 3), ((6, 5), (6, 5))])
@pytest.mark.parametrize("radius", [1, 1.2, 2.5, 3])
def test_smoothing_the_kernel_is_smoothing_the_image(size, kernel, radius):
    """On circular convolutions, of kernels padded to the image's size: LFC(x) * w = x * LFC(w) = LFC(x * w)."""
    kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    x, w = randn(*size), randn(*kernel, seed=1)
    padded = F.pad(w, (0, size[1] - kernel[1], 0, size[0] - kernel[0]))
    expected = low_pass(circular(x, padded), radius)
    assert_close(circular(low_pass(x, radius), padded), expected, torch.float64)
    assert_close(circular(x, low_pass(padded, radius)), expected, torch.float64)


def test_on_maps_of_the_kernels_own_size_it_is_exact():
    """There a layer's kernel, smoothed by the function, is the theorem: a layer that wraps around, and a 3x3 map."""
    layer = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False).double()
    x = randn(4, 2, 3, 3)
    expected = layer(low_pass(x, 1.2))
    smooth_kernels_(layer, 1.2)
    assert_close(layer(x), expected, torch.float64)


def test_where_it_stops_being_exact():
    """What the docstring says: larger maps and borders. A kernel of bin 0 alone is a mean, which passes others."""
    x = randn(1, 1, 16, 16)
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double()
    expected = layer(low_pass(x, 16 / 3))
    with smooth_kernels_(layer, 1):
        assert (layer(x) - expected).norm() > 0.05 * expected.norm()
    zeros = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    zeros.weight = layer.weight
    difference = (zeros(x) - layer(x)).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-12
    assert difference.max() > 1e-3


def test_distances_off_dc_would_lose_something_to_the_real_part():
    """The published mask at an odd size, for which the product of the theorem does not hold."""
    w = randn(3, 3)
    shifted = np.fft.fftshift(np.fft.fft2(w.numpy()))
    i, j = np.indices((3, 3))
    low = np.fft.ifft2(np.fft.ifftshift(shifted * (np.hypot(i - 1.5, j - 1.5) < 1)))
    assert np.abs(low.imag).max() > 1e-2


# ---- values ----------------------------------------------------------------------------------------------------------


def test_every_kernel_becomes_its_low_frequencies():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    report = smooth_kernels_(model, 1.2, layers=4)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for module, old in zip(convolutions, before[::2], strict=True):
        for a, b in np.ndindex(*old.shape[:2]):
            assert_close(module.weight[a, b], low_pass(old[a, b].double(), 1.2), torch.float32)
    assert all(torch.equal(m.bias, old) for m, old in zip(convolutions, before[1::2], strict=True))
    assert [row.name for row in report] == ["0", "2", "3.0", "3.1"]
    assert [row.layer for row in report] == ["conv 3x3 /1", "conv 5x5 /1 groups 2", "conv 1x1 /1", "conv 1x7 /2"]
    for row, module, old in zip(report, convolutions, before[::2], strict=True):
        assert row.change.shape == old.shape[:2]
        expected = (module.weight - old).norm(dim=(2, 3)) / old.norm(dim=(2, 3))
        torch.testing.assert_close(row.change, expected.detach())
    assert not report[2].change.any()


def test_radii_of_a_3x3_kernel_as_they_are_told():
    for radius in (0.5, 1):
        layer = nn.Conv2d(1, 1, 3)
        mean = layer.weight.mean().item()
        smooth_kernels_(layer, radius)
        assert_close(layer.weight, torch.full((1, 1, 3, 3), mean), torch.float32)
    layer = nn.Conv2d(1, 1, 3)
    before = layer.weight.detach().clone()
    smooth_kernels_(layer, math.sqrt(2) + 1e-9)
    assert torch.equal(layer.weight, before)
    smooth_kernels_(layer, math.sqrt(2))
    spectrum = torch.fft.fft2(layer.weight[0, 0].double()).abs()
    assert spectrum[1:, 1:].max() < 1e-6
    assert spectrum[0].min() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 3), (5, 5), (4, 2)])
def test_the_published_form_is_scipys_convolution(size):
    signal = pytest.importorskip("scipy.signal")
    w, mask = randn(3, 2, *size), np.full((3, 3), 0.3)
    mask[1, 1] = 1
    expected = [[signal.convolve2d(k, mask, boundary="symm", mode="same") for k in row] for row in w.numpy()]
    assert_close(_neighbours(w, 0.3), np.array(expected), torch.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for arguments in ({"radius": 1.2}, {"rho": 0.3}):
        model, wide = network(dtype=dtype), network(dtype=dtype).double()
        report = smooth_kernels_(model, **arguments)
        smooth_kernels_(wide, **arguments)
        assert model[0].weight.dtype == dtype
        assert_close(model[0].weight, wide[0].weight.detach(), dtype)
        assert report[0].change.dtype == (dtype if dtype == torch.float64 else torch.float32)


# ---- which layers ----------------------------------------------------------------------------------------------------


def changed(model: nn.Module) -> list[str]:
    before = network().state_dict()
    return [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]


@pytest.mark.parametrize(
    ("arguments", "names", "by"),
    [
        ({"radius": 0.5}, ["0.weight"], ["radius 0.5"]),
        ({"radius": 0.5, "layers": 2}, ["0.weight", "2.weight"], ["radius 0.5"] * 2),
        ({"radius": 1, "layers": ["3.1"]}, ["3.1.weight"], ["radius 1"]),
        ({"rho": 0.5, "layers": {"2", "0"}}, ["0.weight", "2.weight"], ["rho 0.5"] * 2),
        ({"layers": {"2": 1.2, "3.1": 2}}, ["2.weight", "3.1.weight"], ["radius 1.2", "radius 2"]),
    ],
)
def test_layers(arguments, names, by):
    model = network()
    report = smooth_kernels_(model, **arguments)
    assert changed(model) == names
    assert [row.by for row in report] == by


def test_a_weight_that_two_layers_share_is_smoothed_once():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3))
    model[1].weight = model[0].weight
    model.append(model[0])
    before = model[0].weight.detach().clone()
    report = smooth_kernels_(model, rho=0.5, layers=["0", "1", "2"])
    assert len(report) == 1
    assert torch.equal(model[0].weight, _neighbours(before, 0.5))


# ---- and back --------------------------------------------------------------------------------------------------------


def test_restoring_is_bit_for_bit_and_of_the_same_parameters():
    model = network()
    parameters = [id(p) for p in model.parameters()]
    report = smooth_kernels_(model, 1, layers=4)
    assert changed(model)
    with torch.no_grad():
        model[0].weight.add_(1)
    report.restore()
    assert changed(model) == []
    assert [id(p) for p in model.parameters()] == parameters
    with torch.no_grad():
        model[0].weight.zero_()
    report.restore()  # there is nothing left to put back
    assert not model[0].weight.any()


def test_as_a_context_also_where_it_fails():
    model = network()
    with smooth_kernels_(model, 1) as report:
        assert changed(model) == ["0.weight"]
        assert report[0].name == "0"
    assert changed(model) == []
    with pytest.raises(RuntimeError, match="mine"), smooth_kernels_(model, rho=0.5):
        raise RuntimeError("mine")
    assert changed(model) == []


def test_one_inside_the_other():
    model = network()
    with smooth_kernels_(model, 1.2), smooth_kernels_(model, rho=0.5, layers=2):
        assert changed(model) == ["0.weight", "2.weight"]
    assert changed(model) == []


def test_training_goes_on():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    smooth_kernels_(model, 1)
    assert model[0].weight.requires_grad
    assert model[0].weight.is_leaf
    before = model[0].weight.detach().clone()
    model(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_the_report_reads_as_a_table():
    report = smooth_kernels_(network(), layers={"0": 1, "2": 1.2})
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "by", "change:", "mean", "largest"]
    assert lines[1].startswith("0      conv 3x3 /1           radius 1    ")
    assert float(lines[1].split()[-1]) == pytest.approx(report[0].change.max().item(), rel=1e-2)
    assert float(lines[2].split()[-2]) == pytest.approx(report[1].change.mean().item(), rel=1e-2)
    layer = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(layer.weight)
    zero = smooth_kernels_(layer, rho=1)
    assert str(zero).splitlines()[1].startswith("(model)  conv 3x3 /1  rho 1")
    assert zero[0].change.item() == 0


# ---- wrong calls -----------------------------------------------------------------------------------------------------


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyConv2d(3, 3))


def parametrized() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)))


def pruned() -> nn.Module:
    model = network()
    prune.l1_unstructured(model[2], "weight", 2)
    return model


WRONG = [
    ([3, 1], {}, TypeError, "model must be an nn.Module, got int"),
    ([network], {}, ValueError, "give one of radius, rho and a mapping of layers to radii, got radius=None, rho=None"),
    ([network, 1], {"rho": 1}, ValueError, "give one of radius, rho and a mapping"),
    ([network, 1, {"0": 1}], {}, ValueError, "give one of radius, rho and a mapping"),
    ([network, -1], {}, ValueError, "radius must be a non-negative number, got -1"),
    ([network, "1"], {}, TypeError, "radius must be a non-negative number, got '1'"),
    ([network], {"rho": "1"}, TypeError, "rho must be a number, got '1'"),
    ([network, 1, 0], {}, ValueError, "layers must be a positive int, got 0"),
    ([network, 1, 5], {}, ValueError, "layers must be at most 4, the nn.Conv2d of the model, got 5"),
    ([network, 1, True], {}, TypeError, "layers must be a positive int, an iterable of names or a mapping"),
    ([network, 1, "0"], {}, TypeError, "layers must be a positive int, an iterable of names or a mapping"),
    ([network, 1, []], {}, ValueError, "layers must name at least one nn.Conv2d, got none"),
    ([network, 1, ["0", "1"]], {}, ValueError, "layers: '1' is not an nn.Conv2d; nearest: "),
    ([network, 1, ["0", "9"]], {}, ValueError, "layers: '9' is not a module of the model; nearest: "),
    ([network], {"layers": {"0": 1, "2": -1}}, ValueError, "radius of '2' must be a non-negative number, got -1"),
    ([lambda: nn.Linear(2, 2), 1], {}, ValueError, "layers must be at most 0, the nn.Conv2d of the model, got 1"),
    ([lazy, 1], {}, ValueError, "layers: '0' cannot be smoothed: its weight is not initialised yet"),
    ([parametrized, 1], {}, ValueError, "layers: '0' cannot be smoothed: its weight is parametrized"),
    ([pruned, 1, 2], {}, ValueError, "layers: '2' cannot be smoothed: its weight is not a parameter"),
    ([lambda: network(dtype=torch.complex64), 1], {}, ValueError, "its weight is complex64, not of a floating type"),
]


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize(("arguments", "named", "error", "message"), WRONG, ids=[case[3][:70] for case in WRONG])
def test_wrong_calls_say_what_is_wrong_and_change_nothing(arguments, named, error, message):
    model, *others = arguments
    model = model() if callable(model) else model
    parameters = model.named_parameters() if isinstance(model, nn.Module) else ()
    before = {name: value.clone() for name, value in parameters if not nn.parameter.is_lazy(value)}
    with pytest.raises(error) as caught:
        smooth_kernels_(model, *others, **named)
    assert message in str(caught.value)
    for name, value in before.items():
        assert torch.equal(value, model.get_parameter(name))
