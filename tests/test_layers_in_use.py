"""The layers where networks live: mixed precision, other dtypes, tensors without numbers, several processes."""

import pickle
import sys

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import TOLERANCE, assert_close, randn, run_two_ranks
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode

import alias_ops
from alias_ops import reference

SINGLE, DOUBLE = torch.float32, torch.float64
HALVES = (torch.bfloat16, torch.float16)
POOLS = {"flc": alias_ops.FLCPool2d, "asap": alias_ops.ASAPPool2d}
pools = pytest.mark.parametrize("pool", POOLS)


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), alias_ops.FLCPool2d(8)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), alias_ops.ASAPPool2d(8, (2, 3))),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    )


def data(dtype=SINGLE):
    """Images of four classes, of which three have a brighter channel."""
    labels = torch.arange(16) % 4
    brighter = 2 * F.one_hot(labels, 4)[:, :3, None, None]
    return (randn(16, 3, 14, 12) + brighter).to(dtype), labels


def dtypes_of(model):
    """{kind: (received, returned)} of the poolings in the next forward."""
    seen = {}
    for module in model:
        if isinstance(module, tuple(POOLS.values())):
            kind = type(module).__name__
            module.register_forward_hook(lambda m, args, y, kind=kind: seen.update({kind: (args[0].dtype, y.dtype)}))
    return seen


# ---- mixed precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_training_under_autocast_with_scaled_gradients(backend, dtype):
    model, exact = net(), net()
    seen = dtypes_of(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype is torch.float16)
    optimizer, (x, labels) = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9), data()
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype):
            y = model(x)
            loss = F.cross_entropy(y, labels)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert all(p.grad.isfinite().all() for p in model.parameters())
        if step == 0:
            expected = exact(x)
            F.cross_entropy(expected, labels).backward()
            # Every layer before rounds as well, some of the 16 bits' errors over.
            torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=4 * TOLERANCE[dtype])
            for p, q in zip(model.parameters(), exact.parameters()):
                assert (p.grad - q.grad).norm() <= 0.1 * q.grad.norm() + 1e-6
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert seen == {"FLCPool2d": (dtype, dtype), "ASAPPool2d": (dtype, dtype)}


@pytest.mark.parametrize("dtype", [torch.bfloat16, DOUBLE], ids=str)
def test_networks_of_other_dtypes_train(backend, dtype):
    model, (x, labels) = net().to(dtype), data(dtype)
    seen = dtypes_of(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.dtype == p.grad.dtype == dtype for p in model.parameters())
    assert losses[-1] < 0.9 * losses[0]
    assert seen == {"FLCPool2d": (dtype, dtype), "ASAPPool2d": (dtype, dtype)}


# ---- tensors of other kinds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [2, (3, 1)], ids=str)
@pools
def test_an_image_by_itself(backend, pool, stride):
    """As F.max_pool2d takes one: [C, H, W] is the only image of a batch; a map alone is the only channel of that."""
    layer, x = POOLS[pool](stride=stride), randn(3, 10, 7)
    y = layer(x[None])
    assert_close(layer(x), y[0], DOUBLE)
    assert_close(layer(x[1]), y[0, 1], DOUBLE)
    assert layer(x).shape[:1] == F.max_pool2d(x, 2).shape[:1]


@pools
def test_maps_without_numbers(backend, pool):
    """Fake ones, as tools take that count memory before anything runs; test_errors.py has the meta device."""
    layer = POOLS[pool](stride=(2, 3))
    for x in (torch.empty(2, 3, 9, 8), torch.empty(2, 3, 9, 8).to(memory_format=torch.channels_last)):
        expected = layer(x)
        with FakeTensorMode() as mode:
            inside = layer(mode.from_tensor(x))
        for y in (inside, layer(mode.from_tensor(x))):
            assert (y.shape, y.stride(), y.dtype) == (expected.shape, expected.stride(), x.dtype)
            assert y.device.type == "cpu"


def test_training_without_numbers(backend):
    """And the numbers are right afterwards: nothing fake is remembered."""
    with FakeTensorMode():
        model, x = net(), torch.empty(5, 3, 23, 21)
        measure = alias_ops.aliasing(x) + alias_ops.conv2d_aliasing(x, model[0].weight, padding=1)
        (model(x).sum() + measure).backward()
        assert isinstance(model[0].weight.grad, FakeTensor)
        assert all(p.grad.shape == p.shape for p in model.parameters())
    x = randn(2, 3, 23, 21)
    assert_close(alias_ops.flc_pool2d(x), reference.flc_pool2d(x), DOUBLE)
    assert_close(alias_ops.aliasing(x), reference.aliasing(x), DOUBLE)


@pools
def test_no_images_but_gradients(backend, pool):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), POOLS[pool](4), nn.Flatten(), nn.Linear(4 * 4 * 3, 2))
    model(torch.empty(0, 3, 10, 8)).sum().backward()
    assert all((p.grad == 0).all() for p in model.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 0, 8), (3, 8, 0), (0, 0)], ids=str)
@pools
def test_maps_of_no_pixels_are_refused(backend, pool, shape):
    with pytest.raises(ValueError, match=r"x must have maps of at least 1x1 .*, got float32 \["):
        POOLS[pool]()(torch.empty(shape))


def test_a_network_keeps_its_keys_and_goes_through_a_file(tmp_path):
    model, (x, _) = net().eval(), data()
    assert {key.split(".")[0] for key in model.state_dict()} == {"0", "1", "4", "9"}  # none of a pooling
    y = model(x)  # what calls leave behind must not go along either
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(x), y)
    assert len(pickle.dumps(alias_ops.FLCPool2d())) < 2000


# ---- several processes -----------------------------------------------------------------------------------------------

gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()) or sys.platform == "win32", reason="needs gloo"
)
SHARDED = [(name, place) for name in ("flc", "asap", "aliasing", "maps") for place in ("batch", "channels", "rows")]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_two_ranks("distributed_layers.py", folder)
    return torch.load(folder / "results.pt")


@gloo
@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_ranks_train_as_one_process_does(found, how):
    import distributed_layers

    model, start = distributed_layers.net(), distributed_layers.net()
    distributed_layers.train(model)
    for (name, p), q in zip(model.named_parameters(), start.parameters()):
        ranks = found[how][name]
        assert torch.equal(ranks[0], ranks[1])
        assert_close(ranks[0], p, DOUBLE)
        assert not torch.equal(p, q)


@gloo
@pytest.mark.parametrize(("name", "place"), [*SHARDED, ("flc", "none"), ("aliasing", "none")])
def test_dtensors(found, name, place):
    """Sharded along leading dimensions they stay so; maps that are cut are put together."""
    import distributed_layers

    x = distributed_layers.maps().requires_grad_()
    expected = distributed_layers.FUNCTIONS[name](x)
    expected.square().sum().backward()
    y, placement, strides, gradient = found[name, place]
    assert_close(y, expected, DOUBLE)
    assert_close(gradient, x.grad, DOUBLE)
    assert strides == expected.stride()
    if name != "aliasing":
        assert placement == {"batch": "S(0)", "channels": "S(1)"}.get(place, "R")


@gloo
def test_dtensors_are_refused_in_a_sentence(found):
    assert found["refused"] == (
        "x must be a plain tensor [..., H, W], got a DTensor; to_local() or full_tensor() is one"
    )
