"""Pooling layers: the functional form in a module, which copies, pickles and prints as torch's own do."""

import copy
import pickle

import pytest
import torch
from helpers import ALL_POOLS, assert_close, pool2d, randn, reference_pool2d
from torch import nn

import alias_ops
from alias_ops import ASAPPool2d, FLCPool2d

LAYERS = {"flc": FLCPool2d, "asap": ASAPPool2d}
pools = pytest.mark.parametrize("pool", LAYERS)


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_forward_is_the_functional_form(backend, pool, variant):
    x = randn(2, 3, 14, 15)
    assert torch.equal(LAYERS[pool](variant=variant)(x), pool2d(pool, x, 2, variant))


@pytest.mark.parametrize("stride", [1, 3, (1, 2), [3, 2]], ids=str)
@pools
def test_strides(backend, pool, stride):
    x = randn(2, 3, 14, 15)
    assert_close(LAYERS[pool](stride=stride)(x), reference_pool2d(pool, x, stride), torch.float64)


def test_defaults():
    for pool, layer in LAYERS.items():
        x = randn(3, 8, 8)
        assert torch.equal(layer()(x), pool2d(pool, x, 2, "centered"))


@pools
def test_fits_what_timm_calls_an_antialiasing_layer(pool):
    """timm builds ``aa_layer(channels=..., stride=...)``, or with the factory's device and dtype on top."""
    layer = LAYERS[pool](channels=64, stride=2)
    assert layer.channels == 64
    assert layer(torch.ones(1, 64, 8, 8)).shape == (1, 64, 4, 4)
    LAYERS[pool](channels=64, stride=2, device="meta", dtype=torch.float16)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (FLCPool2d(), "FLCPool2d(stride=2, variant='centered')"),
        (FLCPool2d(64, 3), "FLCPool2d(channels=64, stride=3, variant='centered')"),
        (ASAPPool2d(stride=(1, 2)), "ASAPPool2d(stride=(1, 2), variant='centered')"),
        (ASAPPool2d(8, variant="upstream_pad1"), "ASAPPool2d(channels=8, stride=2, variant='upstream_pad1')"),
    ],
)
def test_repr(layer, text):
    assert repr(layer) == text


@pools
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_do_the_same(pool, copied):
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), LAYERS[pool](4, (2, 3), variant="centered")).double()
    twin, x = copied(layer), randn(2, 3, 12, 12)
    assert repr(twin) == repr(layer)
    assert torch.equal(twin(x), layer(x))


@pools
def test_no_state(pool):
    """So that a checkpoint of a network with another pooling loads."""
    layer = LAYERS[pool](16)
    assert layer.state_dict() == {}
    assert list(layer.parameters()) == list(layer.buffers()) == []
    assert str(layer.load_state_dict({})) == "<All keys matched successfully>"
    with_max_pool = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2))
    with_pool = nn.Sequential(nn.Conv2d(3, 4, 3), LAYERS[pool]())
    with_pool.load_state_dict(with_max_pool.state_dict(), strict=True)


@pools
def test_layers_move_between_dtypes_and_modes(backend, pool):
    layer = LAYERS[pool]()
    for dtype in (torch.float16, torch.float64, torch.float32):
        assert layer.to(dtype)(randn(2, 8, 8, dtype=dtype)).dtype == dtype
    x = randn(2, 8, 8)
    assert torch.equal(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
def test_gradients_reach_the_layers_before_and_after(backend, pool, variant):
    class Definition(nn.Module):
        def forward(self, x):
            return reference_pool2d(pool, x, 2, variant)

    gradients = []
    for layer in (LAYERS[pool](variant=variant), Definition()):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), layer, nn.Conv2d(4, 3, 2)).double()
        network(randn(5, 2, 16, 14)).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for actual, expected in zip(*gradients, strict=True):
        assert_close(actual, expected, torch.float64)


def test_layers_are_exported():
    assert alias_ops.nn.__all__ == sorted(alias_ops.nn.__all__)
    for name in alias_ops.nn.__all__:
        assert getattr(alias_ops, name) is getattr(alias_ops.nn, name)
