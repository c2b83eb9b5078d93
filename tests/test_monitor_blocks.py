"""Which block a layer belongs to, and what monitors say by block, by channel and by step."""

import math

import pytest
import torch
from helpers import randn, vision
from torch import nn

from alias_ops import AliasingMonitor, reference


def conv(inputs, outputs, kernel=3, stride=2):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class PreActBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1, self.conv2 = conv(inputs, outputs, 3, stride), conv(outputs, outputs, 3, 1)
        self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride)) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.bn1(x).relu()
        return self.conv2(self.bn2(self.conv1(y)).relu()) + self.shortcut(y)


class Bottleneck(nn.Module):
    """torchvision's and timm's; ``pooled`` is the shortcut of ResNet-D."""

    def __init__(self, inputs, outputs, stride, pooled=False):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = conv(inputs, 4, 1, 1), conv(4, 4, 3, stride), conv(4, outputs, 1, 1)
        parts = [nn.AvgPool2d(2, 2), conv(inputs, outputs, 1, 1)] if pooled else [conv(inputs, outputs, 1, stride)]
        self.downsample = nn.Sequential(*parts, nn.BatchNorm2d(outputs)) if stride > 1 else None

    def forward(self, x):
        return self.conv3(self.conv2(self.conv1(x))) + (x if self.downsample is None else self.downsample(x))


class ResNet(nn.Module):
    def __init__(self, make, width=8):
        super().__init__()
        self.conv1, self.maxpool = conv(3, width, 7), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(make(width, width, 1))
        self.layer2 = nn.Sequential(make(width, width, 2), make(width, width, 1))
        self.layer3 = nn.Sequential(make(width, 2 * width, 2))
        self.fc = nn.Linear(2 * width, 4)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.maxpool(self.conv1(x)))))
        return self.fc(x.mean((-2, -1)))


STEM = {"conv1": ["conv1"], "maxpool": ["maxpool"]}


def in_blocks(*names):
    return {f"layer{i}.0": [f"layer{i}.0.{name}" for name in names] for i in (2, 3)}


class Wrapper(nn.Module):
    """As DDP, a compiled module or a LightningModule hold a network."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


class ConvNormAct(nn.Module):
    def __init__(self, inputs, outputs, kernel, stride):
        super().__init__()
        self.conv, self.bn = conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)


def branches():
    block = Wrapper(
        conv1_1x1=ConvNormAct(8, 4, 1, 1), conv2_kxk=ConvNormAct(4, 4, 3, 2), shortcut=ConvNormAct(8, 8, 1, 2)
    )
    return Wrapper(stem=ConvNormAct(3, 8, 3, 2), stages=nn.Sequential(nn.Sequential(block)), head=nn.Linear(8, 2))


def prefixed(blocks, prefix):
    return {f"{prefix}.{block}": [f"{prefix}.{layer}" for layer in layers] for block, layers in blocks.items()}


def option_a():
    """A residual network whose shortcuts are slices: one layer in each block."""
    return ResNet(
        lambda inputs, outputs, stride: Wrapper(conv1=conv(inputs, outputs, 3, stride), bn1=nn.BatchNorm2d(8))
    )


def own(*names):
    return {name: [name] for name in names}


VGG = Wrapper(features=nn.Sequential(conv(3, 4, 3, 1), nn.MaxPool2d(2), conv(4, 4, 3, 1), nn.MaxPool2d(2)))
MODELS = {
    "pre-activation": (ResNet(PreActBlock), STEM | in_blocks("conv1", "shortcut.0")),
    "bottleneck": (ResNet(Bottleneck), STEM | in_blocks("conv2", "downsample.0")),
    "ResNet-D": (ResNet(lambda *size: Bottleneck(*size, pooled=True)), STEM | in_blocks("conv2", "downsample.0")),
    "data-parallel": (
        Wrapper(module=ResNet(PreActBlock)),
        prefixed(STEM | in_blocks("conv1", "shortcut.0"), "module"),
    ),
    "in a training module": (
        Wrapper(criterion=nn.CrossEntropyLoss(), model=Wrapper(module=ResNet(Bottleneck))),
        prefixed(STEM | in_blocks("conv2", "downsample.0"), "model.module"),
    ),
    "with a head of its own": (
        Wrapper(backbone=ResNet(Bottleneck), head=nn.Sequential(conv(8, 8), nn.Linear(2, 2))),
        prefixed(STEM | in_blocks("conv2", "downsample.0"), "backbone") | own("head.0"),
    ),
    "in layers of convolution and norm": (
        branches(),
        {"stem": ["stem.conv"], "stages.0.0": ["stages.0.0.conv2_kxk.conv", "stages.0.0.shortcut.conv"]},
    ),
    "shortcuts without a layer": (option_a(), STEM | in_blocks("conv1")),
    "plain sequence": (
        nn.Sequential(conv(3, 4), nn.ReLU(), nn.Sequential(conv(4, 4)), nn.MaxPool2d(2)),
        own("0", "2.0", "3"),
    ),
    "nested sequence": (nn.Sequential(VGG, conv(4, 4)), own("0.features.1", "0.features.3", "1")),
    "one behind the other": (Wrapper(a=conv(3, 4), b=conv(4, 4), fc=nn.Linear(2, 2)), own("a", "b")),
    "the same, wrapped": (Wrapper(module=Wrapper(a=conv(3, 4), b=conv(4, 4))), own("module.a", "module.b")),
    "list": (Wrapper(parts=nn.ModuleList([conv(3, 4), conv(4, 4)]), fc=nn.Linear(2, 2)), own("parts.0", "parts.1")),
    "one block": (
        nn.Sequential(conv(3, 8, 3, 1), PreActBlock(8, 8, 2), nn.Linear(2, 2)),
        {"1": ["1.conv1", "1.shortcut.0"]},
    ),
    "one layer": (nn.MaxPool2d(2), {"": [""]}),
}


@pytest.mark.parametrize("name", MODELS)
def test_blocks_of_every_kind_of_network(name):
    model, expected = MODELS[name]
    assert AliasingMonitor(model).blocks == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", STEM | {f"layer{i}.0": [f"layer{i}.0.{n}" for n in ("conv1", "downsample.0")] for i in (2, 3, 4)}),
        (
            "regnety_002",
            {"stem": ["stem.conv"]}
            | {f"s{i}.b1": [f"s{i}.b1.{n}.conv" for n in ("conv2", "downsample")] for i in (1, 2, 3, 4)},
        ),
        ("vgg11", own(*(f"features.{i}" for i in (2, 5, 10, 15, 20)))),
    ],
)
def test_blocks_of_timm(name, expected):
    timm = vision("timm")
    assert AliasingMonitor(timm.create_model(name)).blocks == expected


def test_a_selection_of_layers_leaves_blocks_as_they_are():
    monitor = AliasingMonitor(ResNet(PreActBlock), layers=lambda name, module: "shortcut" in name or name == "maxpool")
    assert monitor.blocks == own("maxpool") | in_blocks("shortcut.0")


def test_a_block_is_the_mean_of_its_branches_and_the_mean_is_over_blocks():
    torch.manual_seed(0)
    model, x = ResNet(PreActBlock), randn(2, 3, 64, 64, dtype=torch.float32)
    with AliasingMonitor(model) as monitor:
        model(x)
    layers, blocks = monitor.compute(), monitor.compute(by="block")
    assert list(blocks) == ["conv1", "maxpool", "layer2.0", "layer3.0"]
    assert blocks["conv1"] == layers["conv1"]
    for block in ("layer2.0", "layer3.0"):
        assert blocks[block] == pytest.approx((layers[f"{block}.conv1"] + layers[f"{block}.shortcut.0"]) / 2)
        assert layers[f"{block}.conv1"] != pytest.approx(layers[f"{block}.shortcut.0"], rel=0.01)
    assert monitor.mean() == pytest.approx(sum(blocks.values()) / 4)


class Switch(nn.Module):
    """One of two paths."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Sequential(nn.MaxPool2d(2)), nn.Sequential(nn.AvgPool2d(2))
        self.path = self.first

    def forward(self, x):
        return self.path(x)


def test_what_was_not_measured_is_nan_and_not_in_the_mean():
    model, x = Switch(), randn(2, 3, 12, 12)
    with AliasingMonitor(model) as monitor:
        assert math.isnan(monitor.mean())
        assert all(map(math.isnan, monitor.compute("block").values()))
        model(x)
        assert monitor.mean() == monitor.compute()["first.0"] > 0
        assert math.isnan(monitor.compute("block")["second.0"])
        model.path = model.second
        model(x)
        assert monitor.mean() == pytest.approx(sum(monitor.compute().values()) / 2)
        model(x / 0)
        # What was measured, and is not a number, is no reason to leave it out.
        assert math.isnan(monitor.mean())


def test_blocks_by_the_user():
    model = ResNet(PreActBlock)
    stem = AliasingMonitor(model, blocks={"conv1": "stem", "maxpool": "stem"})
    assert stem.blocks == {"stem": ["conv1", "maxpool"]} | in_blocks("conv1", "shortcut.0")
    stages = AliasingMonitor(model, blocks=lambda name: name.partition(".")[0])
    assert list(stages.blocks) == ["conv1", "maxpool", "layer2", "layer3"]


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        ({"layer2": "stem"}, ValueError, "blocks: 'layer2' is not among the layers 'conv1', 'maxpool', "),
        ({"conv1": 3}, TypeError, "blocks: the block of 'conv1' must be a str, got 3"),
        (len, TypeError, "blocks: the block of 'conv1' must be a str, got 5"),
        ("conv1", TypeError, "blocks must be a mapping, a function .* or None, got str"),
    ],
)
def test_wrong_blocks(blocks, error, message):
    with pytest.raises(error, match=message):
        AliasingMonitor(ResNet(PreActBlock), blocks=blocks)


def test_channels():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3, 2), nn.MaxPool2d(2)
    model, batches = nn.Sequential(*layers).double(), [randn(n, 3, 21, 21, seed=n) for n in (2, 4)]
    with AliasingMonitor(model, per_channel=True, max_samples=3) as monitor:
        assert [value.tolist() for value in monitor.compute("channel").values()] == [[], []]
        for x in batches:
            model(x)
        model(batches[0][0])
    x = torch.cat([batches[0], batches[1][:3], batches[0][:1]])
    expected = reference.conv2d_aliasing(x, layers[0].weight, None, 2, reduction="none").mean(0)
    channels = monitor.compute(by="channel")
    torch.testing.assert_close(channels["0"], expected.detach(), rtol=1e-10, atol=0)
    assert channels["0"].dtype == torch.float64
    assert channels["1"].shape == (5,)
    assert monitor.compute()["0"] == pytest.approx(expected.mean().item(), rel=1e-10)
    assert monitor.compute()["1"] == pytest.approx(channels["1"].mean().item(), rel=1e-10)
    last = reference.conv2d_aliasing(batches[0][:1], layers[0].weight, None, 2, reduction="none")[0]
    torch.testing.assert_close(monitor.last("channel")["0"], last.detach(), rtol=1e-10, atol=0)


def test_channels_of_a_layer_that_has_several_numbers_of_them():
    pool = nn.MaxPool2d(2)
    model, x = nn.Sequential(pool, nn.Conv2d(3, 4, 1), pool), randn(2, 3, 12, 12, dtype=torch.float32)
    with AliasingMonitor(model) as monitor:
        model(x)
    assert monitor.compute()["0"] > 0
    with AliasingMonitor(model, per_channel=True), pytest.raises(RuntimeError, match="'0' .*on 3 channels .* 4 now"):
        model(x)


def test_what_compute_does_not_know():
    monitor = AliasingMonitor(nn.MaxPool2d(2))
    with pytest.raises(ValueError, match='by must be "layer", "block" or "channel", got \'map\''):
        monitor.compute("map")
    with pytest.raises(ValueError, match=r'by="channel" needs AliasingMonitor\(\.\.\., per_channel=True\)'):
        monitor.compute("channel")


def test_last_is_of_one_step():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2))
    batches = [randn(2, 3, 16, 16, seed=seed, dtype=torch.float32) for seed in range(4)]
    with AliasingMonitor(model, every=2) as monitor:
        assert math.isnan(monitor.last()["0"])
        steps = []
        for x in batches:
            model(x)
            steps.append(monitor.last()["0"])
        expected = [reference.conv2d_aliasing(batches[i], model[0].weight, None, 2).item() for i in (0, 0, 2, 2)]
        assert steps == pytest.approx(expected, rel=1e-5)
        assert monitor.compute()["0"] == pytest.approx((steps[0] + steps[2]) / 2, rel=1e-6)
        assert monitor.last("block") == monitor.last()
        monitor.reset()
        assert math.isnan(monitor.last()["0"])
