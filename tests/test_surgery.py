"""replace_downsampling on networks: what stays as it was, which layers are left alone and why, the report."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import randn, vision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm

import alias_ops
from alias_ops import ASAPPool2d, FLCPool2d, replace_downsampling


class OwnForward(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class Subclass(nn.Conv2d):
    pass


class Block(nn.Module):
    """A residual block whose two branches must stay of one size."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 2 * channels, 3, 2, 1)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, 2)

    def forward(self, x):
        return F.relu(self.conv1(x)) + self.shortcut(x)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1), Block(), nn.AvgPool2d(7)
    )


def left(layer, **kwargs):
    """The reason why the layer stays, and that it does."""
    model = nn.Sequential(layer)
    (row,) = replace_downsampling(model, **kwargs)
    assert model[0] is layer
    assert row.after is None
    return row.reason


@pytest.mark.parametrize("size", [32, 33, 47])
@pytest.mark.parametrize("pool", ["flc", "asap"])
def test_a_network_keeps_its_sizes_and_trains(pool, size):
    model = network()
    x = randn(2, 3, 64, size, dtype=torch.float32)
    strided = model[:-1](x).shape
    report = replace_downsampling(model, pool, stem=True)
    assert [row.name for row in report.replaced] == ["0", "2", "3.conv1", "3.shortcut"]
    assert model[:-1](x).shape == strided
    model[:-1](x).square().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert type(model[3].conv1.pool) is {"flc": FLCPool2d, "asap": ASAPPool2d}[pool]
    assert model[3].conv1.pool.channels == 8


def test_asap_is_the_default():
    replace_downsampling(model := network())
    assert type(model[3].conv1.pool) is ASAPPool2d
    assert model[3].conv1.pool.variant == "centered"


def test_nothing_is_left_for_a_monitor_or_a_second_call():
    model = nn.Sequential(Block(), nn.MaxPool2d(2))
    assert len(replace_downsampling(model, "flc").replaced) == 3
    assert replace_downsampling(model, "flc") == ()
    with pytest.raises(ValueError, match="no downsampling layer to measure"):
        alias_ops.AliasingMonitor(model)


def test_parameters_are_the_same_objects_under_the_same_names():
    model, x = network(), randn(2, 3, 64, 64, dtype=torch.float32)
    before, state = dict(model.named_parameters()), copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    generator = torch.get_rng_state()
    replace_downsampling(model, stem=True)
    assert torch.equal(torch.get_rng_state(), generator)
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)
    model(x).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model[3].conv1.weight, state["3.conv1.weight"])


@pytest.mark.parametrize("training", [True, False])
def test_mode_dtype_and_frozen_weights_stay(training):
    model = network().to(torch.bfloat16).train(training)
    model[3].conv1.weight.requires_grad_(False)
    replace_downsampling(model)
    assert {module.training for module in model.modules()} == {training}
    assert not model[3].conv1.weight.requires_grad
    assert model[3].conv1.bias.requires_grad
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16}
    assert model(randn(2, 3, 64, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_on_the_meta_device():
    model = network().to("meta")
    replace_downsampling(model, stem=True)
    assert model(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 16, 1, 1)


def test_channels_last_stays():
    model = network().to(memory_format=torch.channels_last)
    replace_downsampling(model, stem=True)
    x = randn(2, 3, 64, 64, dtype=torch.float32).to(memory_format=torch.channels_last)
    assert model[:-1](x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_do_the_same(copied):
    model, x = network(), randn(2, 3, 64, 64, dtype=torch.float32)
    replace_downsampling(model, stem=True)
    assert torch.equal(copied(model)(x), model(x))


def test_compiles():
    model, x = Block(), randn(2, 8, 16, 16, dtype=torch.float32)
    replace_downsampling(model, "flc")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))


def test_a_module_in_two_places_is_replaced_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(8, 8, 3, 2, 1)
            self.block = nn.ModuleDict({"again": self.first})
            self.wrapped = nn.Sequential(self.first)

    model = Twice()
    report = replace_downsampling(model)
    assert [row.name for row in report] == ["first"]
    assert model.first is model.block["again"] is model.wrapped[0]
    assert type(model.first).__name__ == "PooledConv2d"
    report = replace_downsampling(twin := Twice(), layers=["wrapped.0"])  # any of its names will do
    assert (report[0].name, twin.first) == ("first", twin.wrapped[0])
    assert twin.first.stride == (1, 1)


def lazy():
    return nn.LazyConv2d(8, 3, 2)


def pruned():
    return prune.l1_unstructured(nn.Conv2d(8, 8, 3, 2, 1), "weight", amount=0.5)


def hooked():
    layer = nn.Conv2d(8, 8, 3, 2, 1)
    layer.register_forward_hook(lambda *call: None)
    return layer


def watched():
    layer = nn.MaxPool2d(2)
    layer.monitor = alias_ops.AliasingMonitor(nn.Sequential(layer))  # keeps it attached
    return layer


def with_a_gain():
    layer = nn.Conv2d(8, 8, 3, 2, 1)
    layer.gain = nn.Parameter(torch.ones(1))
    return layer


OBSTACLES = [
    (lambda: OwnForward(8, 8, 3, 2, 1), "OwnForward has a forward of its own"),
    (lazy, "its weight is not initialised yet; run a forward first"),
    (lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3, 2, 1)), "it is parametrized; remove the par"),
    (lambda: spectral_norm(nn.Conv2d(8, 8, 3, 2, 1)), "it has hooks, as of a monitor, of weight_norm or of pruning"),
    (pruned, "it has hooks"),
    (hooked, "it has hooks"),
    (watched, "it has hooks"),
    (with_a_gain, "it has parameters, buffers or modules of its own: gain"),
    (lambda: nn.Conv2d(8, 8, 3, 2, 1, dtype=torch.complex64), "its weight is complex64"),
    (lambda: nn.MaxPool2d(2, return_indices=True), "it returns indices, which a pool does not have"),
]
IDS = "own-forward lazy parametrized spectral-norm pruned hooked monitored gain complex indices".split()


@pytest.mark.parametrize(("make", "reason"), OBSTACLES, ids=IDS)
def test_layers_that_stay(make, reason):
    assert left(make()).startswith(reason)


@pytest.mark.parametrize(("make", "reason"), OBSTACLES, ids=IDS)
def test_naming_a_layer_that_cannot_be_replaced_raises_and_changes_nothing(make, reason):
    model = nn.Sequential(nn.MaxPool2d(2), make())
    before = list(model)
    with pytest.raises(ValueError, match=r"layers: '1' (cannot be replaced: it|is a OwnForward with a forward)"):
        replace_downsampling(model, layers=["0", "1"])
    assert list(model) == before


def test_a_lazy_layer_is_replaced_after_its_first_forward():
    model = nn.Sequential(lazy())
    model(torch.rand(1, 8, 8, 8))
    assert len(replace_downsampling(model).replaced) == 1


def test_a_subclass_without_a_forward_of_its_own_is_replaced():
    assert len(replace_downsampling(nn.Sequential(Subclass(8, 8, 3, 2, 1))).replaced) == 1


def test_the_model_itself_cannot_be_replaced():
    report = replace_downsampling(nn.MaxPool2d(2))
    assert report[0].reason.startswith("it is the model itself")
    assert "(model)" in str(report)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_stem_stays_unless_asked_for(channels):
    layer = nn.Conv2d(channels, 8, 3, 2, 1)
    assert left(layer) == f"stem: {channels} input channels are an image; stem=True replaces it"
    assert left(layer, layers=lambda name, module: True).startswith("stem")
    for kwargs in ({"stem": True}, {"layers": ["0"]}):
        assert len(replace_downsampling(nn.Sequential(layer), **kwargs).replaced) == 1
    assert len(replace_downsampling(nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1))).replaced) == 1


def test_a_mean_over_the_map_stays_unless_named():
    for kernel in (4, 7, (8, 4)):
        assert left(nn.AvgPool2d(kernel), stem=True).startswith("taken for a mean over the whole map")
    x = randn(2, 3, 7, 7)
    for pool in ("flc", "asap"):
        replace_downsampling(model := nn.Sequential(nn.AvgPool2d(7)), pool, layers=["0"])
        torch.testing.assert_close(model(x), x.mean((-2, -1), keepdim=True))  # and would have changed nothing


def test_names_and_predicates():
    for layers in (["3.conv1", "2"], ("2", "3.conv1"), lambda name, module: name in ("2", "3.conv1")):
        report = replace_downsampling(network(), layers=layers)
        assert [row.name for row in report.replaced] == ["2", "3.conv1"]
        assert {row.reason for row in report.left} == {"not among layers"}
    asked = []
    replace_downsampling(network(), layers=lambda name, module: asked.append((name, type(module).__name__)))
    assert asked == [
        ("0", "Conv2d"),
        ("2", "MaxPool2d"),
        ("3.conv1", "Conv2d"),
        ("3.shortcut", "Conv2d"),
        ("4", "AvgPool2d"),
    ]
    assert replace_downsampling(network(), layers=[]).replaced == ()


def test_a_pool_of_ones_own_is_called_as_timm_does():
    calls = []

    def pool(channels, stride):
        calls.append((channels, stride))
        return nn.Conv2d(channels, channels, 1) if channels else FLCPool2d(None, stride)

    model = nn.Sequential(
        nn.Conv2d(8, 6, 3, 2, 1), nn.Conv2d(6, 5, 2, (2, 1)), nn.MaxPool2d(2, 3), nn.AvgPool2d((3, 1), (2, 1))
    )
    model.to(torch.float16)
    replace_downsampling(model, pool)
    assert calls == [(8, 2), (5, (2, 1)), (None, 3), (None, (2, 1))]
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float16}
    assert "0.pool.weight" in model.state_dict()


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": 1}, TypeError, "model must be an nn.Module, got int"),
        ({"pool": "max"}, ValueError, "pool must be 'flc', 'asap' or a callable .*, got 'max'"),
        ({"pool": 2}, TypeError, "pool must be 'flc', 'asap' or a callable .*, got 2"),
        ({"pool": lambda channels, stride: F.relu}, TypeError, r"pool\(channels=None, stride=2\) must be an nn.Module"),
        ({"variant": "upstream_pad1", "pool": "flc"}, ValueError, "variant of flc_pool2d must be one of"),
        ({"variant": "upstream", "pool": FLCPool2d}, ValueError, "variant is for a pool by name, got 'upstream'"),
        ({"layers": "2"}, TypeError, "layers must be an iterable of names, .* got the str '2'"),
        ({"layers": 2}, TypeError, "layers must be an iterable of names, .* got int"),
        ({"layers": ["3.conv"]}, ValueError, "layers: '3.conv' is not a module .* nearest .* '3.conv1'"),
        ({"layers": ["2", "1"]}, ValueError, "layers: '1' does not downsample"),
    ],
)
def test_wrong_calls_change_nothing(arguments, error, said):
    model = network()
    before = list(model.modules())
    with pytest.raises(error, match=said):
        replace_downsampling(**{"model": model, **arguments})
    assert list(model.modules()) == before


def test_the_report_is_a_table():
    report = replace_downsampling(network(), "flc", layers=lambda name, module: name != "3.shortcut")
    assert str(report).splitlines() == [
        "layer       before           after",
        "0           conv 7x7 /2      left: stem: 3 input channels are an image; stem=True replaces it",
        "2           max pool 3x3 /2  max pool 3x3 /1, FLCPool2d /2",
        "3.conv1     conv 3x3 /2      FLCPool2d /2, conv 3x3 /1",
        "3.shortcut  conv 1x1 /2      left: not among layers",
        "4           avg pool 7x7 /7  left: taken for a mean over the whole map; name it in layers to replace it",
        "2 replaced, 3 left",
    ]
    assert len(report) == 5
    assert report[2] == ("3.conv1", "conv 3x3 /2", "FLCPool2d /2, conv 3x3 /1", "")
    assert report.replaced + report.left == (report[1], report[2], report[0], report[3], report[4])
    row = replace_downsampling(nn.Sequential(nn.Conv2d(8, 8, (2, 3), (2, 1), groups=2)), "asap")[0]
    assert row.after == "conv 2x3 /1 groups 2, ASAPPool2d /2x1"


TIMM = [  # name, layers replaced, layers left
    ("resnet18", 7, 1),
    ("resnet50", 7, 1),
    ("resnet50d", 7, 1),
    ("convnext_tiny", 3, 1),
    ("mobilenetv2_100", 4, 1),
    ("efficientnet_b0", 4, 1),
    ("densenet121", 4, 1),
    ("regnety_002", 8, 1),
    ("tf_efficientnet_b0", 0, 5),  # convolutions with a "same" padding of their own
    ("nfnet_l0", 3, 5),  # convolutions with standardised weights
]


@pytest.mark.parametrize(("name", "count", "stay"), TIMM)
def test_networks_of_timm(name, count, stay):
    timm = vision("timm")
    model, x = timm.create_model(name, pretrained=False, num_classes=2), torch.rand(2, 3, 65, 97)
    state = model.state_dict()
    shape = model.forward_features(x).shape
    report = replace_downsampling(model, "flc")
    assert (len(report.replaced), len(report.left)) == (count, stay)
    assert model.forward_features(x).shape == shape
    assert model.state_dict().keys() == state.keys()
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("pool", [FLCPool2d, ASAPPool2d])
def test_the_layers_as_timms_aa_layer(pool):
    timm = vision("timm")
    model = timm.create_model("resnet18", pretrained=False, num_classes=2, aa_layer=pool)
    pools = [module for module in model.modules() if isinstance(module, pool)]
    assert len(pools) == 4  # behind the max pooling and in three stages
    x = torch.rand(2, 3, 64, 64)
    model(x).sum().backward()
    assert model.forward_features(x).shape == (2, 512, 2, 2)


def test_timms_own_pool_as_the_callable():
    timm = vision("timm")
    model = timm.create_model("resnet18", pretrained=False, num_classes=2)
    assert len(replace_downsampling(model, timm.layers.BlurPool2d).replaced) == 7
    assert model.forward_features(torch.rand(2, 3, 64, 64)).shape == (2, 512, 2, 2)


@pytest.mark.parametrize(("stem", "count"), [(False, 7), (True, 8)])
def test_resnet_of_torchvision(stem, count):
    torchvision = vision("torchvision")
    model = torchvision.models.resnet18(num_classes=2)
    state = model.state_dict()
    report = replace_downsampling(model, stem=stem)
    assert len(report.replaced) == count
    model.load_state_dict(state)
    model(torch.rand(2, 3, 65, 97)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
