"""``conv2d_aliasing(through_output=True)``: the same gradients in sum, part of them by way of the layer's output."""

import pytest
import torch
from helpers import LAYOUTS, SINGLE_AND_DOUBLE, aliases, assert_close, randn
from test_conv2d_alias_l1 import CASES, aliasing, expected_aliasing, layer, stride_1_size
from test_conv2d_alias_l1_backward import SEEDS, gradients, leaves_of, needs_kernels, tables
from torch.utils._python_dispatch import TorchDispatchMode

import alias_ops
from alias_ops import AliasingPenalty
from alias_ops.ops import conv2d_alias_l1_training
from alias_ops.ops._taps import low_band_is_cheaper

DOUBLE = torch.float64
KERNELS = torch.ops.alias_ops
THROUGH, WHOLE = KERNELS._conv2d_alias_l1_through_output_backward, KERNELS._conv2d_alias_l1_training_backward


class Calls(TorchDispatchMode):
    """The ops of this package that are called."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "alias_ops":
            self.ops.append(func.overloadpacket)
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[True, False], ids=["low band alone", "whole"])
def way(request, monkeypatch):
    """Both ways for every layer, whichever is faster for it."""
    monkeypatch.setattr(conv2d_alias_l1_training, "low_band_is_cheaper", lambda *layer: request.param)
    return request.param


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_definitions(backend, way, name):
    x_shape, weight_shape, geometry = CASES[name]
    geometry = {"stride": 2, **geometry}
    for dtype in SINGLE_AND_DOUBLE:
        x, weight = leaves_of(
            randn(*x_shape, dtype=dtype, seed=SEEDS["x"]), randn(*weight_shape, dtype=dtype, seed=SEEDS["weight"])
        )
        if not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
            pytest.skip("D is 0, and the direction of D/|D| rounding noise")
        exact = leaves_of(x.double(), weight.double())
        expected = gradients(expected_aliasing(*exact, **geometry), exact)
        maps = aliasing(x, weight, output=layer(x, weight, **geometry), through_output=True, **geometry)
        for gradient, wanted in zip(gradients(maps, (x, weight)), expected, strict=True):
            assert_close(gradient, wanted, dtype)


# Constant rows alias nothing: D/|D| would be noise.
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded columns"])
def test_any_layout(backend, layout):
    for channels, groups in (((5, 6), 1), ((16, 17), 1), ((18, 36), 9)):
        x = LAYOUTS[layout](2, channels[0], 10, 9, dtype=DOUBLE, seed=2)
        x, weight = leaves_of(x, randn(channels[1], channels[0] // groups, 3, 3, seed=102))
        geometry = {"stride": 2, "padding": 1, "groups": groups}
        expected = gradients(expected_aliasing(x, weight, **geometry), (x, weight))
        maps = aliasing(x, weight, output=layer(x, weight, **geometry), through_output=True, **geometry)
        for gradient, wanted in zip(gradients(maps, (x, weight)), expected, strict=True):
            assert_close(gradient, wanted, DOUBLE)


@needs_kernels
def test_each_part_by_itself(monkeypatch):
    """dx and dweight are those of the low band alone, the output's is that of its own spectrum."""
    monkeypatch.setattr(conv2d_alias_l1_training, "low_band_is_cheaper", lambda *layer: True)
    x, weight = randn(3, 4, 10, 8), randn(6, 4, 3, 3, seed=1)

    def definition(x, weight, output):
        """Stride-1 maps 8 x 6, whose low band is taken off an output of 4 x 3 that is no sample of theirs."""
        low = torch.fft.fft2(layer(x, weight, stride=1), norm="forward")[..., [0, 1, 2, -1], :][..., [0, 1, -1]]
        aliased = torch.fft.fft2(output, norm="forward") - low * torch.tensor([1, 1, 0, 1])[:, None]
        return aliased.abs().sum((-1, -2))

    leaves = leaves_of(x, weight, layer(x, weight) + randn(3, 6, 4, 3, seed=2))
    maps, expected = aliasing(*leaves[:2], output=leaves[2], through_output=True), definition(*leaves)
    assert_close(maps.detach(), expected.detach(), DOUBLE)
    for part, wanted in zip(gradients(maps, leaves), gradients(expected, leaves), strict=True):
        assert part.any()
        assert_close(part, wanted, DOUBLE)


def test_the_bias_has_no_gradient(backend, way):
    """The measure does not change with it, whatever its output's gradient sums to."""
    x, weight, bias = leaves_of(randn(2, 3, 8, 9), randn(4, 3, 3, 3, seed=1), randn(4, seed=2))
    maps = aliasing(x, weight, bias, output=layer(x, weight, bias), through_output=True)
    (gradient,) = torch.autograd.grad(maps.sum(), bias, allow_unused=True)
    assert gradient is None or gradient.abs().max() < 1e-14


@pytest.mark.parametrize("unbatched", [False, True])
def test_an_activation_in_place_behind_the_layer(backend, way, unbatched):
    x, weight = leaves_of(randn(2, 17, 9, 8)[0] if unbatched else randn(2, 17, 9, 8), randn(18, 17, 3, 3, seed=1))
    expected = torch.autograd.grad(aliasing(x, weight).sum(), (x, weight))
    output = layer(x, weight)
    maps = aliasing(x, weight, output=output, through_output=True)
    torch.relu_(output)
    for retain in (True, False):
        for gradient, wanted in zip(
            torch.autograd.grad(maps.sum(), (x, weight), retain_graph=retain), expected, strict=True
        ):
            assert_close(gradient, wanted, DOUBLE)


@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
def test_a_graph_of_the_gradients_has_the_same_values(backend, way):
    x, weight = leaves_of(randn(2, 3, 8, 9), randn(4, 3, 3, 3, seed=1))
    expected = torch.autograd.grad(aliasing(x, weight).sum(), (x, weight))
    maps = aliasing(x, weight, output=layer(x, weight), through_output=True)
    for gradient, wanted in zip(torch.autograd.grad(maps.sum(), (x, weight), create_graph=True), expected, strict=True):
        assert_close(gradient, wanted, DOUBLE)


def test_without_it_the_output_is_a_constant(backend):
    x, weight = randn(2, 3, 8, 9).requires_grad_(), randn(4, 3, 3, 3, seed=1)
    output = layer(x, weight).detach().requires_grad_()
    maps = aliasing(x, weight, output=output)
    assert torch.autograd.grad(maps.sum(), output, allow_unused=True) == (None,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_takes_the_whole(backend, dtype):
    """A rounded output says little of its small bins."""
    x, weight = leaves_of(randn(2, 3, 8, 9, dtype=dtype), randn(4, 3, 3, 3, dtype=dtype, seed=1))
    expected = torch.autograd.grad(aliasing(x, weight).sum(), (x, weight))
    output = layer(x, weight)
    maps = aliasing(x, weight, output=output, through_output=True)
    actual = torch.autograd.grad(maps.sum(), (x, weight))
    for gradient, wanted in zip(actual, expected, strict=True):
        assert torch.equal(gradient, wanted)


# ---- who takes which way ---------------------------------------------------------------------------------------------


def layer_of(batch, inputs, outputs, size, kernel, groups=1):
    weight = torch.empty(outputs, inputs // groups, kernel, kernel, device="meta")
    return torch.empty(batch, inputs, size, size, device="meta"), weight, groups, (size // 2, size // 2)


@pytest.mark.parametrize(
    ("one", "cheaper"),
    [
        ((100, 128, 256, 16, 3), True),
        ((16, 64, 128, 56, 3), True),
        ((8, 3, 64, 224, 7), True),
        ((1, 128, 256, 16, 3), False),  # a weight's spectrum for one image
        ((2, 64, 128, 224, 3), False),  # and where more do not fit
        ((16, 384, 768, 14, 2), False),  # four taps are few
        ((100, 128, 256, 16, 3, 64), True),  # identity 4 does not serve it
    ],
)
def test_the_low_band_is_cheaper(one, cheaper):
    assert low_band_is_cheaper(*layer_of(*one)) is cheaper


@needs_kernels
@pytest.mark.parametrize("batch", [1, 16])
def test_the_way_is_the_cheaper_one(batch):
    x, weight = leaves_of(randn(batch, 16, 8, 8), randn(16, 16, 3, 3, seed=1))
    maps = aliasing(x, weight, output=layer(x, weight), through_output=True)
    with Calls() as calls:
        gradients(maps, (x, weight))
    assert calls.ops[0] is (THROUGH if low_band_is_cheaper(x, weight, 1, (3, 3)) else WHOLE)
    assert (calls.ops[0] is THROUGH) == (batch == 16)


@needs_kernels
def test_the_penalty_takes_it():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2), torch.nn.ReLU(inplace=True))
    with AliasingPenalty(model) as penalty:
        loss = model(randn(16, 3, 20, 20, dtype=torch.float32)).mean() + penalty()
    with Calls() as calls:
        loss.backward()
    assert THROUGH in calls.ops
    assert WHOLE not in calls.ops


# ---- the kernels -----------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE)
@pytest.mark.parametrize("batch", [0, 3])
def test_the_ops_are_registered_as_pytorch_wants_it(dtype, batch):
    x, weight = randn(batch, 4, 9, 8, dtype=dtype), randn(6, 2, 3, 3, dtype=dtype, seed=1)
    geometry = tables(x, weight)
    norms, d_output = KERNELS._conv2d_alias_l1_training(x, weight, None, None, *geometry)
    torch.library.opcheck(THROUGH.default, (torch.ones_like(norms), d_output, x, weight, *geometry))
    leaves = *leaves_of(x, weight), None, d_output.detach().requires_grad_()
    torch.library.opcheck(KERNELS._conv2d_alias_l1_training.default, (*leaves, *geometry))


@needs_kernels
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE)
def test_written_or_added_the_low_part_is_the_same(dtype, form):
    x, weight = randn(5, 18, 9, 8, dtype=dtype).to(memory_format=form), randn(20, 9, 3, 3, dtype=dtype, seed=1)
    geometry, d_output = tables(x, weight), randn(5, 20, 5, 4, dtype=dtype, seed=2)
    written = KERNELS._conv2d_alias_l1_low_part(d_output, x, weight, *geometry)
    added = torch.zeros_like(x), torch.zeros_like(weight)
    KERNELS._conv2d_alias_l1_low_gradient(d_output, x, weight, *added, *geometry)
    for one, other in zip(written, added, strict=True):
        assert one.stride() == other.stride()
        assert torch.equal(one, other)


@needs_kernels
def test_nothing_comes_of_nothing():
    geometry = tables(randn(2, 3, 8, 8), weight := randn(4, 3, 3, 3))
    dx, dweight = KERNELS._conv2d_alias_l1_low_part(randn(0, 4, 4, 4), randn(0, 3, 8, 8), weight, *geometry)
    assert dx.shape == (0, 3, 8, 8)
    assert not dweight.any()


@pytest.mark.parametrize("kernel", [1, 3])
def test_compiled(backend, kernel):
    x, weight = leaves_of(randn(16, 3, 12, 12), randn(4, 3, kernel, kernel, seed=1))

    def loss(x, weight):
        output = torch.nn.functional.conv2d(x, weight, None, 2, 1)
        measure = alias_ops.conv2d_aliasing(x, weight, padding=1, output=output, through_output=True)
        return output.square().mean() + measure

    expected = torch.autograd.grad(loss(x, weight), (x, weight))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for gradient, wanted in zip(torch.autograd.grad(compiled(x, weight), (x, weight)), expected, strict=True):
        assert_close(gradient, wanted, DOUBLE)
