"""AliasingMonitor around a model in use: what it must leave alone, and how it is told what to watch."""

import copy
import gc
import io
import math
import pickle
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from alias_ops import AliasingMonitor, reference


def small_net(reparametrize=lambda conv: conv):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.MaxPool2d(2),
        nn.Sequential(reparametrize(nn.Conv2d(8, 8, 3, stride=2)), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 4),
    )


NAMES = ["0", "4", "5.0"]


def images(batch=6, seed=0):
    return randn(batch, 3, 28, 28, seed=seed, dtype=torch.float32)


def nothing_measured(monitor):
    return all(map(math.isnan, monitor.compute().values()))


def test_a_layer_called_by_itself_is_not_measured():
    model = small_net()
    with AliasingMonitor(model) as monitor:
        model[0](images())
        assert nothing_measured(monitor)
        model(images())
        values = monitor.compute()
        model[0](2 * images())
    assert monitor.compute() == values


def test_reset_forgets():
    model = small_net()
    with AliasingMonitor(model) as monitor:
        assert list(monitor.compute()) == NAMES
        assert nothing_measured(monitor)
        model(images())
        assert all(value > 0 for value in monitor.compute().values())
        monitor.reset()
        assert nothing_measured(monitor)


def test_autocast_measures_the_layer_as_autocast_ran_it(backend):
    model, x = small_net(), images()
    halved = [model[0].weight.to(torch.bfloat16).float(), model[0].bias]
    expected = reference.aliasing(F.conv2d(x.to(torch.bfloat16).float(), *halved, 1, 1), 2).item()
    with AliasingMonitor(model) as monitor, torch.autocast("cpu", torch.bfloat16):
        loss = model(x).sum()
    assert monitor.compute()["0"] == pytest.approx(expected, rel=0.01)
    assert all(value > 0 for value in monitor.compute().values())
    loss.backward()
    assert model[0].weight.grad is not None


def test_inference_mode_then_training():
    model, x = small_net().eval(), images()
    with AliasingMonitor(model) as monitor:
        with torch.inference_mode():
            model(x)
        first = monitor.compute()
        model(x).sum().backward()
        with torch.inference_mode():
            model(x)
    assert monitor.compute() == pytest.approx(first)


def test_tracing_sees_no_monitor():
    model, x = small_net().eval(), images()
    with AliasingMonitor(model), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        watched = torch.jit.trace(model, x)
    assert "alias_ops" not in str(watched.inlined_graph)


def test_checkpointed_forward_is_measured_once():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, x):
            return checkpoint(self.conv, x, use_reentrant=False)

    model, x = Checkpointed(), images(2)
    with AliasingMonitor(model) as monitor:
        model(x).sum().backward()
    assert monitor._sums["conv"].maps == 2 * 4


def test_compiled_model():
    model, x = small_net().eval(), images()
    with AliasingMonitor(model) as monitor:
        model(x)
        expected = monitor.compute()
        monitor.reset()
        compiled = torch.compile(model, backend="eager")
        compiled(x)
        compiled(x)
    assert monitor.compute() == pytest.approx(expected, rel=1e-5)
    assert monitor._sums["0"].maps == 2 * 8 * len(x)


def test_counting_forwards_compiles_nothing_anew():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model, x = small_net().eval(), images()
    with AliasingMonitor(model, every=3):
        compiled = torch.compile(model, backend=backend)
        for _ in range(3):
            compiled(x)
        first = len(graphs)
        for _ in range(9):
            compiled(x)
    assert len(graphs) == first > 0
    assert all("alias_ops" not in graph.code for graph in graphs)


@pytest.mark.parametrize("strict", [False, True])
def test_export_sees_no_monitor(strict):
    model, x = small_net().eval(), images()
    plain = torch.export.export(model, (x,), strict=strict)
    with AliasingMonitor(model) as monitor:
        watched = torch.export.export(model, (x,), strict=strict)
        assert [n.target for n in watched.graph.nodes] == [n.target for n in plain.graph.nodes]
        assert nothing_measured(monitor)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_model_moved_while_watched():
    model, x = small_net().eval(), images()
    with AliasingMonitor(model) as monitor:
        model(x)
        expected = monitor.compute()
        model.cuda()(x.cuda())
    assert monitor.compute() == pytest.approx(expected, rel=1e-4)


def train(model, steps=50):
    torch.manual_seed(7)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    outputs = []
    for step in range(steps):
        optimizer.zero_grad()
        y = model(images(seed=step))
        y.square().mean().backward()
        optimizer.step()
        outputs.append(y.detach())
    return outputs, torch.rand(3)


def test_training_is_the_same_bit_for_bit():
    plain, watched = small_net(parametrizations.spectral_norm), small_net(parametrizations.spectral_norm)
    expected, random = train(plain)
    with AliasingMonitor(watched, max_samples=4) as monitor:
        outputs, random_watched = train(watched)
    assert all(value > 0 for value in monitor.compute().values())
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs, strict=True))
    assert torch.equal(random, random_watched)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_parametrized_weight_is_measured_as_used_and_keeps_its_mode():
    conv = parametrizations.spectral_norm(nn.Conv2d(3, 4, 3, stride=2))
    chain = conv.parametrizations.weight
    model, x = nn.Sequential(conv), images()
    with AliasingMonitor(model) as monitor:
        model(x)
    assert chain.training
    assert chain[0].training
    conv.eval()
    expected = reference.conv2d_aliasing(x, conv.weight, None, 2).item()
    assert monitor.compute()["0"] == pytest.approx(expected, rel=1e-5)


def test_measuring_keeps_no_graph_and_no_activation():
    model, x = small_net(), images()
    activations = []
    model[0].register_forward_hook(lambda module, args, output: activations.append(weakref.ref(output)))
    with AliasingMonitor(model) as monitor:
        model(x).sum().backward()
        assert all(not layer.total.requires_grad for layer in monitor._sums.values())
        gc.collect()
        assert len(activations) == 1
        assert activations[0]() is None


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called")
    return [(name, kind, list(getattr(module, kind))) for name, module in model.named_modules() for kind in kinds]


def test_detaching_leaves_the_model_as_found():
    model = small_net()
    model[0].register_forward_hook(lambda *call: None)
    before, keys = hooks_of(model), list(model.state_dict())
    monitor = AliasingMonitor(model)
    assert hooks_of(model) != before
    assert list(model.state_dict()) == keys
    assert monitor.attached
    monitor.detach()
    monitor.detach()
    assert hooks_of(model) == before
    assert not monitor.attached
    with pytest.raises(KeyError), AliasingMonitor(model):
        raise KeyError
    assert hooks_of(model) == before


def test_neither_keeps_the_other_alive():
    model = small_net()
    before = hooks_of(model)
    monitor = AliasingMonitor(model)
    monitor.update(images())
    gone = weakref.ref(monitor)
    del monitor
    assert gone() is None
    assert hooks_of(model) == before
    monitor, gone = AliasingMonitor(model), weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    with pytest.raises(RuntimeError, match="detached"):
        monitor.update(images())


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    assert b"alias_ops" not in file.getvalue()
    file.seek(0)
    return torch.load(file, weights_only=False)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved_and_loaded])
def test_a_copied_model_is_not_monitored(duplicate):
    model, x = small_net().eval(), images()
    with AliasingMonitor(model) as monitor:
        twin = duplicate(model)
        y = twin(x)
        assert nothing_measured(monitor)
        assert torch.equal(y, model(x))
        values = monitor.compute()
    assert torch.equal(twin(x), y)
    with AliasingMonitor(twin) as monitor:
        twin(x)
    assert monitor.compute() == values


def test_a_copied_monitor_keeps_results_and_is_detached():
    model = small_net()
    model.monitor = AliasingMonitor(model, layers=["0"])
    model(images())
    twin = copy.deepcopy(model)
    assert not twin.monitor.attached
    assert twin.monitor.compute() == model.monitor.compute()
    twin(images(seed=1))
    assert twin.monitor.compute() == model.monitor.compute()
    assert pickle.loads(pickle.dumps(model.monitor)).layers == {"0": "conv 3x3 /2"}
    with pytest.raises(RuntimeError, match="detached"):
        twin.monitor.update(images())


def test_two_monitors_on_one_model():
    model, x = small_net().eval(), images()
    with AliasingMonitor(model) as first, AliasingMonitor(model, layers=["4"]) as second:
        model(x)
    assert second.compute() == {"4": first.compute()["4"]}


def test_a_hook_that_changes_the_output_is_not_measured():
    layer, x = nn.Conv2d(3, 4, 3, stride=2), images()
    layer.register_forward_hook(lambda module, args, output: 100 * output)
    model = nn.Sequential(layer)
    with AliasingMonitor(model) as monitor:
        model(x)
    expected = reference.conv2d_aliasing(x, layer.weight, layer.bias, 2).item()
    assert monitor.compute()["0"] == pytest.approx(expected, rel=1e-5)


class Standardized(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_layers_by_name_and_by_predicate():
    model = small_net()
    assert list(AliasingMonitor(model, layers=["5.0", "0"]).layers) == ["0", "5.0"]
    assert list(AliasingMonitor(model, layers=lambda name, module: isinstance(module, nn.MaxPool2d)).layers) == ["4"]
    assert list(AliasingMonitor(model, layers=lambda name, module: "." in name).layers) == ["5.0"]


def test_a_forward_of_its_own_is_left_out_loudly():
    model = nn.Sequential(nn.MaxPool2d(2), Standardized(3, 4, 3, stride=2))
    with pytest.warns(UserWarning, match="leaves out '1'") as caught:
        monitor = AliasingMonitor(model)
    assert caught[0].filename == __file__
    assert list(monitor.layers) == ["0"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": ["5.1", "0"]}, ValueError, r"'5\.1' does not downsample; nearest downsampling layers: '5\.0'"),
        ({"layers": ["5.9"]}, ValueError, r"'5\.9' is not a module of the model; nearest downsampling layers: '5\.0'"),
        ({"layers": "0"}, TypeError, "got the str '0'"),
        ({"layers": 3}, TypeError, "got int"),
        ({"layers": []}, ValueError, "Sequential has no downsampling layer"),
        ({"layers": lambda name, module: False}, ValueError, "Sequential has no downsampling layer"),
        ({"max_samples": 0}, ValueError, "max_samples must be a positive int, got 0"),
        ({"max_samples": 1.0}, TypeError, r"max_samples must be a positive int, got 1\.0"),
        ({"every": -1}, ValueError, "every must be a positive int, got -1"),
        ({"every": True}, TypeError, "every must be a positive int, got True"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    model = small_net()
    before = hooks_of(model)
    with pytest.raises(error, match=message):
        AliasingMonitor(model, **arguments)
    assert hooks_of(model) == before


def test_wrong_models():
    with pytest.raises(TypeError, match="model must be an nn.Module, got type"):
        AliasingMonitor(nn.Sequential)
    with pytest.raises(ValueError, match="Linear has no downsampling layer"):
        AliasingMonitor(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'0' is a Standardized with a forward of its own"):
        AliasingMonitor(nn.Sequential(Standardized(3, 4, 3, stride=2)), layers=["0"])


def test_what_cannot_be_measured_raises_with_the_name_and_the_next_forward_works():
    model = nn.Sequential(nn.Sequential(nn.MaxPool2d(2)))
    whole = torch.ones(1, 1, 8, 8, dtype=torch.int64)
    with AliasingMonitor(model) as monitor:
        with pytest.raises(RuntimeError, match=r"layer '0\.0' \(max pool 2x2 /2\): .*int64"):
            model(whole)
        model[0][0](whole)
        model(images())
    assert monitor.compute()["0.0"] > 0


def test_repr():
    monitor = AliasingMonitor(small_net(), every=5)
    assert repr(monitor) == "AliasingMonitor(3 layers, max_samples=100, every=5)"
    monitor.detach()
    assert repr(monitor) == "AliasingMonitor(3 layers, max_samples=100, every=5, detached)"
    assert repr(AliasingMonitor(nn.MaxPool2d(2))).startswith("AliasingMonitor(1 layer, ")
