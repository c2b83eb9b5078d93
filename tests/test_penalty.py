"""AliasingPenalty: its value and gradients by the definition, what it holds, and that a network learns from it."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import alias_ops
from alias_ops import AliasingMonitor, AliasingPenalty, functional, reference
from alias_ops._downsampling import layer_aliasing

DOUBLE = torch.float64


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False))

    def forward(self, x):
        return F.relu(self.conv(x)) + self.shortcut(x)


def net(dtype=torch.float32, in_place=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(3, 2, 1),
        Residual(6, 8),
        nn.ReLU(inplace=in_place),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LazyLinear(4),
    ).to(dtype)


def images(batch=4, size=20, dtype=torch.float32, seed=0):
    return randn(batch, 3, size, size, dtype=dtype, seed=seed)


def by_definition(model, x, samples=None):
    """Mean over the three blocks, by the reference and PyTorch's autograd alone."""
    values, calls = {}, {}
    hooks = [
        module.register_forward_hook(lambda module, args, output, name=name: calls.update({name: (args[0], output)}))
        for name, module in model.named_modules()
        if name in AliasingPenalty(model).layers
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    for name, (given, output) in calls.items():
        module = model.get_submodule(name)
        values[name] = layer_aliasing(module, given[:samples], output[:samples], reference).mean()
    assert list(values) == ["2", "3.conv", "3.shortcut.0", "5"]
    return (values["2"] + (values["3.conv"] + values["3.shortcut.0"]) / 2 + values["5"]) / 3


def gradients(model):
    result = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return result


@pytest.mark.parametrize("samples", [None, 2])
def test_value_and_gradients_are_those_of_the_definition(samples, backend):
    model, x = net(DOUBLE), images(dtype=DOUBLE)
    model(x)
    expected = by_definition(model, x, samples)
    expected.backward()
    expected_gradients = gradients(model)
    with AliasingPenalty(model, max_samples=samples) as penalty:
        model(x)
        value = penalty()
        value.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    for name, gradient in gradients(model).items():
        if expected_gradients[name] is None:
            assert gradient is None or not gradient.any(), name
            continue
        scale = expected_gradients[name].norm()
        assert scale > 0 or name.endswith("bias")
        assert (gradient - expected_gradients[name]).norm() <= 1e-9 * scale + 1e-12, name


def test_value_is_the_monitors_mean():
    model, x = net(), images()
    with AliasingMonitor(model) as monitor, AliasingPenalty(model) as penalty:
        model(x)
        assert penalty().item() == pytest.approx(monitor.mean(), rel=1e-6)


def test_exported_where_it_is_looked_for():
    assert alias_ops.nn.AliasingPenalty is alias_ops.AliasingPenalty is AliasingPenalty


def test_gradients_reach_a_weight_through_its_parametrization():
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3, 2)))
    with AliasingPenalty(model) as penalty:
        model(images())
        value = penalty()
    magnitude = model[0].parametrizations.weight.original0
    value.backward()
    # AM is proportional to the weight, and so to its magnitude: Euler's rule, channel by channel.
    assert (magnitude.grad * magnitude).sum().item() == pytest.approx(value.item(), rel=1e-4)


def test_what_follows_a_layer_may_work_in_place():
    outcomes = []
    for in_place in (False, True):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(inplace=in_place), nn.MaxPool2d(2), nn.ReLU(in_place))
        for relative in (False, True):
            with AliasingPenalty(model, relative=relative) as penalty:
                y = model(images())
                (y.square().mean() + penalty()).backward()
            outcomes.append(gradients(model)["0.weight"])
    assert torch.equal(outcomes[0], outcomes[2])
    assert torch.equal(outcomes[1], outcomes[3])
    assert not torch.allclose(outcomes[0], outcomes[1])


def test_relative_is_blind_to_the_size_of_the_output():
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False)), images()
    with AliasingPenalty(model) as plain, AliasingPenalty(model, relative=True) as relative:
        before = model(x) is not None and (plain(), relative())
        with torch.no_grad():
            model[0].weight *= 7
        after = model(x) is not None and (plain(), relative())
    assert after[0].item() == pytest.approx(7 * before[0].item(), rel=1e-5)
    assert after[1].item() == pytest.approx(before[1].item(), rel=1e-3)
    (gradient,) = torch.autograd.grad(after[1], model[0].weight)
    assert (gradient * model[0].weight).sum().abs() < 1e-3
    assert gradient.norm() * model[0].weight.norm() > 0.1


def test_relative_of_an_output_that_is_constant():
    model = nn.Sequential(nn.Conv2d(3, 1, 3, 2))
    nn.init.zeros_(model[0].weight)
    with AliasingPenalty(model, relative=True) as penalty:
        model(images())
        value = penalty()
    value.backward()
    assert value < 1e-3
    assert model[0].weight.grad.isfinite().all()


def test_autocast_measures_in_float32(backend):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2)), images()
    with AliasingPenalty(model, layers=["0"]) as penalty:
        model(x)
        expected = penalty()
        expected.backward()
        expected_gradient = gradients(model)["0.weight"]
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).dtype == torch.bfloat16
            value = penalty()
        value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(model[0].weight.grad, expected_gradient)


def test_one_forward_one_call():
    model, x = net(), images()
    model(x)
    with AliasingPenalty(model) as penalty:
        with pytest.raises(RuntimeError, match="nothing to return: call it once after each forward of the model"):
            penalty()
        model(100 * x)
        model(x)
        with AliasingMonitor(model) as monitor:
            model(x)
        assert penalty().item() == pytest.approx(monitor.mean(), rel=1e-6)
        with pytest.raises(RuntimeError, match="nothing to return"):
            penalty()
        model(x[:0])
        with pytest.raises(RuntimeError, match="on at least one image"):
            penalty()
        model[2](x)
        with pytest.raises(RuntimeError, match="nothing to return"):
            penalty()
    model(x)
    with pytest.raises(RuntimeError, match="before it is detached"):
        penalty()


def test_without_gradients_it_costs_nothing_and_says_so(monkeypatch):
    model, x = net(), images()
    model(x)

    def measured(*args, **kwargs):
        raise AssertionError

    with AliasingPenalty(model) as penalty:
        model(x)
        monkeypatch.setattr(functional, "conv2d_aliasing", measured)
        with torch.no_grad():
            model(x)
        assert not penalty._maps
        with pytest.raises(RuntimeError, match=r"no gradients for '2', '3\.conv', '3\.shortcut\.0', '5'"):
            penalty()


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.body = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU(inplace=True), nn.AvgPool2d(2))
        self.reentrant = reentrant

    def forward(self, x):
        x = self.stem(x)
        if self.reentrant is None:
            return self.body(x)
        return checkpoint(self.body, x, use_reentrant=self.reentrant)


def test_checkpointing(backend):
    results, x = [], images()
    for reentrant in (None, False):
        torch.manual_seed(0)
        model = Checkpointed(reentrant)
        with AliasingPenalty(model) as penalty:
            y = model(x)
            value = penalty()
            (y.square().mean() + value).backward()
            # What the backward repeats is no forward of the model.
            with pytest.raises(RuntimeError, match="nothing to return"):
                penalty()
        results.append((value.detach(), gradients(model)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, gradient in results[0][1].items():
        assert gradient.abs().sum() > 0
        assert torch.equal(gradient, results[1][1][name]), name
    model = Checkpointed(True)
    with AliasingPenalty(model) as penalty:
        model(x)
        with pytest.raises(RuntimeError, match=r"'body\.0', 'body\.2', which ran under .* reentrant checkpoint"):
            penalty()


def test_compiled(backend):
    model, x = net(), images()
    model(x)
    with AliasingPenalty(model) as penalty:
        (model(x).square().mean() + penalty()).backward()
        expected = gradients(model)
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(2):
            (compiled(x).square().mean() + penalty()).backward()
            for name, gradient in gradients(model).items():
                torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_holds_the_model_and_its_activations_no_longer_than_needed():
    model, x = net(), images()
    keys, parameters = list(model.state_dict()), len(list(model.parameters()))
    activations = []
    model[3].conv.register_forward_hook(lambda module, args, output: activations.append(weakref.ref(args[0])))
    penalty = AliasingPenalty(model)
    assert list(model.state_dict()) == keys
    assert len(list(model.parameters())) == parameters
    y = model(x)
    value = penalty()
    (y.sum() + value).backward()
    del y, value
    gc.collect()
    assert activations[0]() is None
    model(x)
    twin = copy.deepcopy(penalty)
    assert not twin._maps
    assert not twin.attached
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert penalty.attached is False or penalty._model() is None


def test_repr_and_arguments():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2))
    assert repr(AliasingPenalty(model)) == "AliasingPenalty(1 layer, max_samples=None)"
    for wrong, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"max_samples must be a positive int, got {wrong}"):
            AliasingPenalty(model, max_samples=wrong)
    with pytest.raises(ValueError, match="Linear has no downsampling layer"):
        AliasingPenalty(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'1' is not a module of the model"):
        AliasingPenalty(model, layers=["1"])


def learn(weight, relative, steps=150):
    """AM and the cross-entropy, first and last, of a network trained on stripes of four directions.

    With BatchNorm behind the layer where AM is taken relative to its output, without where it is not.
    """
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8) if relative else nn.Identity()
    model = nn.Sequential(nn.Conv2d(1, 8, 5, 2, 2, bias=False), norm, nn.ReLU(), nn.AdaptiveAvgPool2d(4))
    model.extend([nn.Flatten(), nn.Linear(128, 4)])
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(64) % 4
    i, j = torch.arange(16.0)[:, None], torch.arange(16.0)
    waves = torch.stack([0.9 * i + 0 * j, 0.9 * j + 0 * i, 0.7 * (i + j), 0.7 * (i - j)])
    x = torch.sin(waves[labels] + 6 * torch.rand(64, 1, 1, generator=generator))[:, None]
    x = x + 0.5 * torch.randn(x.shape, generator=generator)
    penalty = AliasingPenalty(model, relative=relative)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + weight * penalty()).backward()
        optimizer.step()
    model(x)
    return penalty().item(), losses[0], losses[-1]


@pytest.mark.parametrize("relative", [False, True])
def test_a_network_learns_to_alias_less_and_its_task(relative):
    without, first, _ = learn(0.0, relative)
    am, first_penalised, final = learn(0.3, relative)
    assert am < 0.5 * without
    assert first_penalised == first
    assert final < 0.2 * first
