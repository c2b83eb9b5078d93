"""The papers' networks: their forward written out, their downsampling layers, and the checkpoints they take."""

import collections
import pickle

import pytest
import torch
import torch.nn.functional as F
from helpers import randn, run_python
from torch import nn

import alias_ops
from alias_ops import AliasingMonitor, models, replace_downsampling
from alias_ops.models import PreActResNet, WideResNet, load_published, preact_resnet18, wide_resnet, wide_resnet28_10

POOLED = ("flc", "asap", "max", "avg")
ways = pytest.mark.parametrize("downsampling", ["strided", *POOLED])


def preact(downsampling="strided", blocks=(2, 1, 1, 1), **kwargs):
    torch.manual_seed(0)
    return PreActResNet(blocks, channels=4, downsampling=downsampling, **kwargs)


def wide(downsampling="strided", depth=10, **kwargs):
    torch.manual_seed(0)
    return wide_resnet(depth, 1, downsampling=downsampling, **kwargs)


small = pytest.mark.parametrize("make", [preact, wide], ids=["preact", "wide"])


def busy(model):
    """The model in evaluation mode with batch norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval().double()


def images(batch=2, size=32, dtype=torch.float64):
    return randn(batch, 3, size, size, dtype=dtype)


def pooled(downsampling, x):
    if downsampling in ("flc", "asap"):
        return getattr(alias_ops, f"{downsampling}_pool2d")(x)
    blocks = x.unfold(-2, 2, 2).unfold(-2, 2, 2)
    return blocks.amax((-2, -1)) if downsampling == "max" else blocks.mean((-2, -1))


class Definition:
    """The networks' forwards from their tensors alone, with the functions of PyTorch."""

    def __init__(self, model, downsampling):
        self.tensors, self.downsampling = model.state_dict(), downsampling

    def conv(self, name, x, stride=1):
        weight = self.tensors[f"{name}.weight"]
        if stride == 2 and self.downsampling != "strided":
            x, stride = pooled(self.downsampling, x), 1
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)

    def active(self, name, x):
        mean, var, weight, bias = (
            self.tensors[f"{name}.{tensor}"][:, None, None]
            for tensor in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / torch.sqrt(var + 1e-5) * weight + bias).clamp(min=0)

    def block(self, name, x, stride, shortcut, preactivated):
        first = self.active(f"{name}.bn1", x)
        out = self.conv(f"{name}.conv1", first, stride)
        out = self.conv(f"{name}.conv2", self.active(f"{name}.bn2", out))
        if f"{name}.{shortcut}.weight" in self.tensors:
            x = self.conv(f"{name}.{shortcut}", first if preactivated else x, stride)
        return out + x

    def head(self, x, norm, linear):
        features = self.active(norm, x).mean((2, 3))
        return features @ self.tensors[f"{linear}.weight"].T + self.tensors[f"{linear}.bias"]

    def preact(self, x, blocks):
        x = self.conv("conv1", x)
        for stage, count in enumerate(blocks, 1):
            for i in range(count):
                x = self.block(f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1, "shortcut.0", False)
        return self.head(x, "bn", "linear")

    def wide(self, x, count):
        x = self.conv("conv1", x)
        for stage in (1, 2, 3):
            for i in range(count):
                stride = 2 if stage > 1 and i == 0 else 1
                x = self.block(f"block{stage}.layer.{i}", x, stride, "convShortcut", True)
        return self.head(x, "bn1", "fc")


@ways
def test_preact_resnet(downsampling):
    model, x = busy(preact(downsampling)), images()
    torch.testing.assert_close(model(x), Definition(model, downsampling).preact(x, (2, 1, 1, 1)))


@ways
def test_wide_resnet(downsampling):
    model, x = busy(wide(downsampling, depth=16)), images()
    torch.testing.assert_close(model(x), Definition(model, downsampling).wide(x, 2))


@small
@pytest.mark.parametrize("size", [32, 30, 37])
def test_every_way_of_downsampling_keeps_the_sizes(make, size):
    shapes = []
    for downsampling in ("strided", *POOLED):
        model, x = make(downsampling).eval(), images(1, size, torch.float32)
        seen = []
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.shape))
        model(x)
        shapes.append(seen)
    assert all(seen == shapes[0] for seen in shapes)


@small
@ways
def test_trains(make, downsampling):
    model, x = make(downsampling), images(4, dtype=torch.float32)
    F.cross_entropy(model(x), torch.arange(4)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@small
@pytest.mark.parametrize("downsampling", POOLED)
def test_checkpoints_of_one_downsampling_load_into_another(make, downsampling):
    strided, other = make(), make(downsampling)
    assert list(strided.state_dict()) == list(other.state_dict())
    other.load_state_dict(strided.state_dict())


@small
@pytest.mark.parametrize("pool", ["flc", "asap"])
def test_replace_downsampling_makes_the_same_network(make, pool):
    replaced, made = busy(make()), make(pool).double().eval()
    replace_downsampling(replaced, pool)
    made.load_state_dict(replaced.state_dict())
    x = images()
    assert torch.equal(made(x), replaced(x))


PREACT_LAYERS = [f"layer{stage}.0.{name}" for stage in (2, 3, 4) for name in ("conv1", "shortcut.0")]
WIDE_LAYERS = [f"block{stage}.layer.0.{name}" for stage in (2, 3) for name in ("conv1", "convShortcut")]


@pytest.mark.parametrize("suffix", ["", "max", "avg"])
def test_the_number_of_downsampling_operations(suffix):
    """Six and four, as the papers count; of the pools in front of the convolutions for max and avg."""
    with torch.device("meta"):
        networks = [make(downsampling=suffix or "strided") for make in (preact_resnet18, wide_resnet28_10)]
    for model, layers in zip(networks, (PREACT_LAYERS, WIDE_LAYERS), strict=True):
        assert sorted(AliasingMonitor(model).layers) == sorted(f"{name}.pool" if suffix else name for name in layers)


@small
@pytest.mark.parametrize("downsampling", ["strided", "max", "avg"])
def test_every_downsampling_operation_is_measured(make, downsampling):
    model = make(downsampling)
    with AliasingMonitor(model) as monitor:
        model(images(dtype=torch.float32))
    assert len(monitor.compute()) == (6 if make is preact else 4)
    assert all(am > 0 for am in monitor.compute().values())


@small
@pytest.mark.parametrize("downsampling", ["flc", "asap"])
def test_alias_free_networks_have_nothing_to_measure(make, downsampling):
    with pytest.raises(ValueError, match="no downsampling layer to measure"):
        AliasingMonitor(make(downsampling))


@pytest.mark.parametrize(
    ("make", "parameters"),
    # Sums of k * k * inputs * outputs of the convolutions, two a channel of each batch norm, and the linear layer.
    [(preact_resnet18, 11_172_170), (wide_resnet28_10, 36_479_194)],
)
def test_the_papers_networks(make, parameters):
    with torch.device("meta"):
        model = make(100, downsampling="flc")
        assert model(torch.empty(2, 3, 32, 32)).shape == (2, 100)
        ten = make()
    assert sum(tensor.numel() for tensor in ten.parameters()) == parameters


def test_initialisation_of_wide_resnets():
    weight = wide(depth=16).block3.layer[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert wide().fc.bias.abs().sum() == 0


def test_dropout():
    model, x = wide(dropout=0.5), images(dtype=torch.float32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_variant_reaches_the_pools():
    model, x = busy(preact("flc", variant="upstream")), images(size=28)  # to 14, 7 and 3
    other = busy(preact("flc"))
    other.load_state_dict(model.state_dict())
    assert not torch.allclose(model(x), other(x))
    torch.testing.assert_close(model(images()), other(images()))  # 4 divides 32, 16 and 8
    layer = wide("asap", variant="upstream_pad1").block2.layer[0].conv1.pool
    assert (layer.variant, layer.channels, layer.stride) == ("upstream_pad1", 16, 2)


@pytest.mark.parametrize("downsampling", ["strided", "flc", "max"])
def test_pickles(downsampling):
    model, x = busy(preact(downsampling)), images()
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: preact_resnet18(downsampling="blur"), "downsampling must be one of 'strided', .*, got 'blur'"),
        (lambda: wide(None), "downsampling must be one of 'strided', .*, got None"),
        (lambda: wide(variant="upstream"), "variant is for downsampling 'flc' and 'asap', got 'upstream' with 'stri"),
        (lambda: preact("flc", variant="upstream_pad1"), "variant of flc_pool2d must be one of"),
        (lambda: wide_resnet(27, 10), r"depth must be 6 n \+ 4 with n of at least 1, got 27"),
        (lambda: wide_resnet(4, 10), r"depth must be 6 n \+ 4 with n of at least 1, got 4"),
        (lambda: WideResNet(10, 0), "width must be a positive int, got 0"),
        (lambda: PreActResNet((2, 2, 2)), r"blocks must be four positive ints, got \(2, 2, 2\)"),
    ],
)
def test_wrong_networks(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def published(model):
    """A state under the published names, where pool and convolution are 0 and 1 of a Sequential."""
    names = {f"{name}.weight": f"{name.removesuffix('.0')}.1.weight" for name in (*PREACT_LAYERS, *WIDE_LAYERS)}
    return collections.OrderedDict((names.get(name, name), value) for name, value in model.state_dict().items())


def test_the_published_names():
    """As the published code gives them, so that the other tests here are about those."""
    assert set(published(preact("flc"))) - set(preact("flc").state_dict()) == {
        "layer2.0.conv1.1.weight",
        "layer2.0.shortcut.1.weight",
        "layer3.0.conv1.1.weight",
        "layer3.0.shortcut.1.weight",
        "layer4.0.conv1.1.weight",
        "layer4.0.shortcut.1.weight",
    }
    assert set(published(wide("flc"))) - set(wide("flc").state_dict()) == {
        "block2.layer.0.conv1.1.weight",
        "block2.layer.0.convShortcut.1.weight",
        "block3.layer.0.conv1.1.weight",
        "block3.layer.0.convShortcut.1.weight",
    }


WRAPPERS = {
    "bare": lambda state: state,
    "data parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "compiled and parallel": lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    "with an epoch": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "in a Lightning module": lambda state: {"state_dict": {f"model.{name}": value for name, value in state.items()}},
    "twice wrapped": lambda state: {"model": {"state_dict": {f"module.{n}": value for n, value in state.items()}}},
    "old": lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    "with a block that is never run": lambda state: {**state, "sub_block1.layer.0.conv1.weight": torch.ones(1)},
}


@small
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("names", [published, nn.Module.state_dict], ids=["published", "own"])
def test_checkpoints_load(make, wrap, names):
    trained, fresh, x = busy(make("flc")), make("flc").double().eval(), images()
    assert not torch.equal(fresh(x), trained(x))
    load_published(fresh, wrap(names(trained)))
    assert torch.equal(fresh(x), trained(x))


def test_checkpoints_load_into_a_network_with_replaced_downsampling():
    trained, other, x = busy(preact("flc")), preact().double().eval(), images()
    replace_downsampling(other, "flc")
    load_published(other, published(trained))
    assert torch.equal(other(x), trained(x))


def changed(state, drop=(), **add):
    return {**{name: value for name, value in state.items() if name not in drop}, **add}


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda s: changed(s, ["bn.weight", "bn.bias"]), ValueError, "fit PreActResNet, but it lacks bn.weight, bn.b"),
        (lambda s: changed(s, extra=torch.ones(1)), ValueError, "but it has besides extra$"),
        (lambda s: changed(s, ["bn.bias"], a=torch.ones(1)), ValueError, "but it lacks bn.bias; it has besides a$"),
        (
            lambda s: changed(s, **{"linear.bias": torch.ones(100)}),
            ValueError,
            r"but it has linear.bias \[100\] instead of \[10\]",
        ),
        (lambda s: wide().state_dict(), ValueError, r"it lacks layer1.0.bn1.weight, .* and \d+ more; it has besides"),
        (
            lambda s: changed(s, **{"layer2.0.conv1.weight": torch.ones(1)}),
            ValueError,
            "one tensor for 'layer2.0.conv1.weight', got two",
        ),
        (lambda s: preact(), TypeError, r"mapping of names to tensors, got PreActResNet; pass its state_dict\(\)"),
        (lambda s: {"epoch": 3}, TypeError, "mapping of names to tensors, got int under 'epoch'"),
        (lambda s: {}, TypeError, "mapping of names to tensors, got an empty one"),
        (lambda s: None, TypeError, "mapping of names to tensors, got NoneType"),
    ],
)
def test_checkpoints_that_do_not_fit(change, error, said):
    model = preact("flc")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: value + 1 for name, value in published(model).items()}
    with pytest.raises(error, match=said):
        load_published(model, change(state))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_are_part_of_the_package():
    assert alias_ops.models is models
    done = run_python("import alias_ops, sys; print({'torchvision', 'timm', 'torch._dynamo'} & set(sys.modules))")
    assert done.stdout.strip() == "set()", done.stderr
