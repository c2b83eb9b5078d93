"""AliasingMonitor in the course of a training: resuming, checkpointing, compiling late, shared activations, memory."""

import io
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from alias_ops import AliasingMonitor, reference


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)
    )


def images(batch=4, seed=0):
    return randn(batch, 3, 28, 28, seed=seed, dtype=torch.float32)


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(per_channel):
    model, batches = net().eval(), [images(2 + seed, seed) for seed in range(7)]
    arguments = {"every": 2, "per_channel": per_channel}
    with AliasingMonitor(model, **arguments) as monitor:
        for x in batches:
            model(x)
    first = AliasingMonitor(model, **arguments)
    for x in batches[:3]:
        model(x)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first.detach()
    file.seek(0)
    with AliasingMonitor(model, **arguments) as second:
        model(batches[0])
        second.load_state_dict(torch.load(file, weights_only=True))
        assert all(map(math.isnan, second.last().values()))
        for x in batches[3:]:
            model(x)
    assert second.compute() == monitor.compute()
    assert second.mean() == monitor.mean() > 0
    assert second.state_dict()["forwards"] == monitor.state_dict()["forwards"] == 7
    assert second.last() == monitor.last()
    if per_channel:
        assert all(map(torch.equal, second.compute("channel").values(), monitor.compute("channel").values()))


def test_a_state_is_not_changed_by_what_follows():
    model = net()
    with AliasingMonitor(model) as monitor:
        empty = monitor.state_dict()
        model(images())
        state, values = monitor.state_dict(), monitor.compute()
        model(10 * images())
        assert monitor.compute() != values
        monitor.load_state_dict(state)
        assert monitor.compute() == values
        monitor.load_state_dict(empty)
        assert math.isnan(monitor.mean())


def test_states_that_do_not_fit():
    model = net()
    with AliasingMonitor(model) as monitor:
        model(images())
    state, values = monitor.state_dict(), monitor.compute()
    with pytest.raises(ValueError, match=r"state is of other layers: lacks \['0'\], has \['3', '4'\] in their place"):
        AliasingMonitor(model, layers=["0"]).load_state_dict({**state, "totals": {"3": None, "4": None}})
    with pytest.raises(ValueError, match="state has sums over all channels of '0', but per_channel is True"):
        AliasingMonitor(model, per_channel=True).load_state_dict(state)
    with pytest.raises(TypeError, match="state must be what state_dict returns, got list"):
        monitor.load_state_dict([])
    with pytest.raises(TypeError, match="state must be what state_dict returns, got OrderedDict"):
        monitor.load_state_dict(model.state_dict())
    assert monitor.compute() == values


@pytest.mark.parametrize("how", ["whole", "parts"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_training_is_measured_as_any_other(how, reentrant):
    model, x = net(), images().requires_grad_()
    with AliasingMonitor(model) as monitor:
        model(x).sum().backward()
        expected = monitor.compute()
        monitor.reset()
        if how == "whole":
            y = checkpoint(model, x, use_reentrant=reentrant)
        else:
            model.forward = lambda x: checkpoint_sequential(list(model), 2, x, use_reentrant=reentrant)
            y = model(x)
        y.sum().backward()
    assert x.grad.abs().sum() > 0
    assert monitor.compute() == expected
    assert monitor._sums["0"].maps == 6 * len(x)
    assert monitor.state_dict()["forwards"] == 1


@pytest.mark.parametrize("watched", ["the model", "its wrapper"])
def test_attached_between_compiling_and_the_first_forward(watched):
    model, x = net().eval(), images()
    with AliasingMonitor(model) as monitor:
        model(x)
    compiled = torch.compile(model, backend="eager")
    with AliasingMonitor(model if watched == "the model" else compiled) as late:
        compiled(x)
    assert list(late.compute().values()) == pytest.approx(list(monitor.compute().values()), rel=1e-5)
    assert [name.removeprefix("_orig_mod.") for name in late.layers] == list(monitor.layers)
    torch.compiler.reset()


@pytest.mark.parametrize("watched", ["the model", "its wrapper"])
def test_attached_to_what_runs_compiled_already(watched):
    model, x = net().eval(), images()
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    with AliasingMonitor(model if watched == "the model" else compiled) as late:
        if watched == "its wrapper":
            with pytest.raises(RuntimeError, match=r"sees no layer of a model that was compiled .*compiler\.reset\(\)"):
                compiled(x)
        else:
            compiled(x)
            assert math.isnan(late.mean())
        torch.compiler.reset()
        compiled(x)
        assert late.mean() > 0
    torch.compiler.reset()


def test_compiled_in_place():
    model, x = net().eval(), images()
    model.compile(backend="eager")
    model(x)
    with AliasingMonitor(model) as monitor:
        model(x)
    assert monitor.compute()["0"] > 0
    assert monitor._sums["0"].maps == 6 * len(x)
    torch.compiler.reset()


class Shared(nn.Module):
    """One activation into two branches, then overwritten; an output overwritten, too."""

    def __init__(self):
        super().__init__()
        self.main, self.shortcut, self.pool = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(3, 4, 1, 2), nn.AvgPool2d(2)

    def forward(self, x):
        main, shortcut = self.main(x), self.shortcut(x)
        pooled = self.pool(x)
        x.zero_()
        return F.relu_(main) + shortcut.add_(1) + pooled.mul_(0).mean()


def test_shared_and_overwritten_activations():
    model, x = Shared(), images()
    with AliasingMonitor(model) as monitor, torch.no_grad():
        model(x.clone())
    expected = {
        "main": reference.conv2d_aliasing(x, model.main.weight, None, 2, 1),
        "shortcut": reference.conv2d_aliasing(x, model.shortcut.weight, None, 2),
        "pool": reference.aliasing(F.avg_pool2d(x, 2, 1), 2),
    }
    assert monitor.compute() == pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-5)


def test_channels_last():
    model, x = net().eval(), images()
    with AliasingMonitor(model) as monitor:
        model(x)
        expected = monitor.compute()
        monitor.reset()
        model.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert monitor.compute() == pytest.approx(expected, rel=1e-5)


def test_a_model_that_moves_takes_its_sums_along():
    """To another dtype, as to another device, of which there may be none."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2)), images()
    with AliasingMonitor(model) as monitor:
        model(x)
        single = monitor.compute()["0"]
        model.double()(x.double())
        assert monitor.compute()["0"] == pytest.approx(single, rel=1e-5)
        model.bfloat16()(x.bfloat16())
    assert monitor.compute()["0"] == pytest.approx(single, rel=0.02)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1)], ids=str)
def test_poolings_some_maps_at_a_time(pool, monkeypatch):
    x = randn(5, 7, 18, 20)
    expected = reference.aliasing(type(pool)(3, 1, 1)(x), 2).item()
    for few in (1, 18 * 20, 3 * 18 * 20, 2 * 7 * 18 * 20, 2**20):
        monkeypatch.setattr("alias_ops._downsampling.SAMPLES_AT_A_TIME", few)
        with AliasingMonitor(pool) as monitor:
            pool(x)
        assert monitor.compute()[""] == pytest.approx(expected, rel=1e-12)
        assert monitor._sums[""].maps == 5 * 7


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(7, 4, 3, 2, 1), nn.Conv2d(7, 4, 3, 2, 1, padding_mode="circular")], ids=str
)
def test_convolutions_some_images_at_a_time(layer, backend, monkeypatch):
    model, x = nn.Sequential(layer.double()), randn(5, 7, 18, 20)
    values = []
    for few in (1, 2 * 7 * 18 * 20 + 2 * 4 * 9 * 10, 2**20):
        monkeypatch.setattr("alias_ops._downsampling.SAMPLES_AT_A_TIME", few)
        with AliasingMonitor(model) as monitor:
            model(x)
        values.append(monitor.compute()["0"])
        assert monitor._sums["0"].maps == 5 * 4
    assert values == pytest.approx([values[-1]] * 3, rel=1e-12)


def peak(model, x):
    """Most bytes that PyTorch had allocated at a time in the second of two training steps, beyond those before it."""
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
                model(x).square().mean().backward()
        model.zero_grad()
    now = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def test_measuring_takes_next_to_no_memory(backend, monkeypatch):
    if backend == "reference":
        # What this form keeps is a few times this much, and the model a small one.
        monkeypatch.setattr("alias_ops._downsampling.SAMPLES_AT_A_TIME", 2**17)
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    body = [nn.Conv2d(32, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
    model, x = nn.Sequential(*stem, *body), torch.randn(32, 3, 160, 160)
    plain = peak(model, x)
    assert plain > 2 * 32 * 32 * 80 * 80 * 4
    with AliasingMonitor(model) as monitor:
        watched = peak(model, x)
        assert monitor.mean() > 0
    assert watched - plain <= 0.01 * plain
