"""replace_downsampling: what each layer becomes, against its definition, whatever its geometry."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from alias_ops import FLCPool2d, flc_pool2d, replace_downsampling

DOUBLE = torch.float64
few = settings(max_examples=150, deadline=None)
pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
sizes = st.tuples(st.integers(1, 17), st.integers(1, 17))


class Sliced(nn.Module):
    """A pool that aliases as a strided layer does: with it a stride-1 layer and its pool are the strided layer."""

    def __init__(self, channels, stride):
        super().__init__()
        self.channels, self.stride = channels, (stride, stride) if isinstance(stride, int) else stride

    def forward(self, x):
        return x[..., :: self.stride[0], :: self.stride[1]]


def replaced(layer, pool="flc", **kwargs):
    """The module that takes the layer's place."""
    model = nn.Sequential(copy.deepcopy(layer))
    report = replace_downsampling(model, pool, stem=True, **kwargs)
    assert [row.reason for row in report] == [""]
    return model[0]


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    return nn.Conv2d(
        4,
        8,
        draw(pairs),
        draw(pairs.filter(lambda stride: max(stride) > 1)),
        draw(st.one_of(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.just("valid"))),
        draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups,
        bias=draw(st.booleans()),
        dtype=DOUBLE,
    )


@few
@given(convolutions(), sizes)
def test_convolutions(layer, size):
    """Of the size of the strided layer whatever its geometry, and the composition it says it is."""
    x = randn(2, 4, *size)
    new = replaced(layer)
    try:
        expected = layer(x)
    except RuntimeError:
        assume(False)  # the kernel does not fit
    padding = (0, 0) if layer.padding == "valid" else layer.padding

    def at_stride_1(x):
        return F.conv2d(x, layer.weight, layer.bias, 1, padding, layer.dilation, layer.groups)

    pool_first = all(
        s == 1 or 2 * p == d * (k - 1) for k, s, p, d in zip(layer.kernel_size, layer.stride, padding, layer.dilation)
    )
    assert new.pool_first == pool_first
    actual = new(x)
    assert actual.shape == expected.shape
    step = layer.stride
    torch.testing.assert_close(
        actual, at_stride_1(flc_pool2d(x, step)) if pool_first else flc_pool2d(at_stride_1(x), step)
    )
    if not pool_first or layer.kernel_size == (1, 1):
        torch.testing.assert_close(replaced(layer, Sliced)(x), expected)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, 2])
def test_padding_modes(mode, padding):
    layer = nn.Conv2d(4, 4, 3, 2, padding, padding_mode=mode, dtype=DOUBLE)
    x, twin = randn(2, 4, 12, 11), copy.deepcopy(layer)
    twin.stride = (1, 1)
    expected = twin(flc_pool2d(x)) if padding == 1 else flc_pool2d(twin(x))
    torch.testing.assert_close(replaced(layer)(x), expected)
    assert expected.shape == layer(x).shape


@st.composite
def poolings(draw):
    kernel = draw(pairs)
    stride = draw(pairs.filter(lambda stride: max(stride) > 1))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    ceil_mode = draw(st.booleans())
    if draw(st.booleans()):
        dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
        return nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    divisor = draw(st.sampled_from([None, None, 3]))
    return nn.AvgPool2d(kernel, stride, padding, ceil_mode, draw(st.booleans()), divisor)


@few
@given(poolings(), sizes)
def test_poolings(layer, size):
    x = randn(2, 3, *size)
    try:
        expected = layer(x)
    except RuntimeError:
        assume(False)
    model = nn.Sequential(layer)
    replace_downsampling(model, "flc", layers=["0"])
    assert model[0](x).shape == expected.shape
    model = nn.Sequential(layer)
    replace_downsampling(model, Sliced, layers=["0"])
    pool_alone = not hasattr(model[0], "replaced_stride")
    assert pool_alone <= isinstance(layer, nn.AvgPool2d)
    if pool_alone:
        replace_downsampling(again := nn.Sequential(layer), "flc", layers=["0"])
        kept = x[..., : expected.shape[-2] * layer.stride[0], : expected.shape[-1] * layer.stride[1]]
        torch.testing.assert_close(again(x), flc_pool2d(kept, layer.stride))
    else:
        # Every window of the strided layer, and none of the others, is in the stride-1 map where it should be.
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), FLCPool2d),
        (nn.AvgPool2d(3, 2, 1), FLCPool2d),
        (nn.AvgPool2d(1, (2, 2)), FLCPool2d),
        (nn.AvgPool2d((3, 1), (2, 1), (1, 0)), FLCPool2d),
    ],
)
def test_an_average_pooling_becomes_the_pool_itself(layer, kind):
    assert type(replaced(layer)) is kind


def test_an_average_pooling_of_blocks_drops_the_rest_as_before():
    x = randn(2, 3, 9, 7)
    torch.testing.assert_close(replaced(nn.AvgPool2d(2))(x), flc_pool2d(x[..., :8, :6]))
    assert type(replaced(nn.AvgPool2d(2)).pool) is FLCPool2d


@pytest.mark.parametrize("window", [((2, 3), (2, 1), (0, 1)), (3, (2, 1), 1), ((1, 2), (2, 1), 0)], ids=str)
def test_an_average_along_an_axis_that_is_not_strided_is_kept(window):
    kernel, stride, padding = window
    x = randn(2, 3, 8, 8)
    expected = flc_pool2d(F.avg_pool2d(x, kernel, 1, padding), stride)
    torch.testing.assert_close(replaced(nn.AvgPool2d(kernel, stride, padding))(x), expected)


def test_variants():
    x = randn(1, 8, 14, 14)
    model = nn.Sequential(nn.Conv2d(8, 8, 1, 2, dtype=DOUBLE), nn.Conv2d(8, 8, 1, (2, 1), dtype=DOUBLE))
    report = replace_downsampling(model, "flc", variant="upstream")
    assert [row.reason for row in report] == ["", "variant 'upstream' knows stride 2 alone"]
    expected = F.conv2d(flc_pool2d(x, variant="upstream"), model[0].weight, model[0].bias)
    torch.testing.assert_close(model[0](x), expected)


def test_a_patch_embedding_convolves_first():
    layer = nn.Conv2d(3, 8, 4, 4, dtype=DOUBLE)
    x = randn(2, 3, 16, 20)
    expected = flc_pool2d(F.conv2d(x, layer.weight, layer.bias), 4)
    torch.testing.assert_close(replaced(layer)(x), expected)
    assert expected.shape == layer(x).shape


def test_the_new_layer_says_what_it_does():
    assert "pool_first=True" in repr(replaced(nn.Conv2d(8, 8, 3, 2, 1)))
    assert "pool_first=False" in repr(replaced(nn.Conv2d(8, 8, 2, 2)))
    assert "(pool): FLCPool2d(stride=2, variant='centered')" in repr(replaced(nn.MaxPool2d(2)))


def test_the_pooled_network_does_not_alias():
    """A grating above half of the new rate, which a strided layer folds onto a low frequency, is gone."""
    columns = torch.cos(2 * math.pi * 12 / 32 * torch.arange(32, dtype=DOUBLE)).expand(1, 8, 32, 32)
    layer = nn.Conv2d(8, 8, 1, 2, bias=False, dtype=DOUBLE)
    assert layer(columns).abs().amax() > 0.1
    assert replaced(layer)(columns).abs().amax() < 1e-12
