"""AliasingMonitor against the definition: every kind of layer, and which forwards and images count."""

import copy
import math

import pytest
import torch
from helpers import randn
from torch import nn

from alias_ops import AliasingMonitor, functional, reference

DOUBLE = torch.float64


def at_stride_1(layer):
    """The same layer with stride 1, for layers whose stride-1 form torch itself can run."""
    twin = copy.deepcopy(layer)
    twin.stride = (1, 1)
    return twin


def definition(layer, x, **kwargs):
    with torch.no_grad():
        return reference.aliasing(at_stride_1(layer)(x), layer.stride, **kwargs)


def images(batch=6, size=28, seed=0, dtype=torch.float32):
    return randn(batch, 3, size, size, seed=seed, dtype=dtype)


def nothing_measured(monitor):
    return all(map(math.isnan, monitor.compute().values()))


LAYERS = {
    "conv": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "conv without bias": nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "conv without padding": nn.Conv2d(4, 6, 5, stride=2, padding="valid"),
    "conv, shortcut": nn.Conv2d(4, 6, 1, stride=2),
    "conv, stride 3": nn.Conv2d(4, 6, 3, stride=3, padding=1),
    "conv, patches": nn.Conv2d(4, 6, 4, stride=4),
    "conv, stride above kernel": nn.Conv2d(4, 6, 2, stride=4),
    "conv, one axis": nn.Conv2d(4, 6, (3, 5), stride=(1, 2), padding=(0, 2)),
    "conv, grouped": nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "conv, depthwise": nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
    "conv, dilated": nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2),
    "conv, reflect": nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), padding_mode="reflect"),
    "conv, replicate": nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), padding_mode="replicate"),
    "conv, circular": nn.Conv2d(4, 6, 3, stride=2, padding=(2, 1), padding_mode="circular"),
    "conv, circular without padding": nn.Conv2d(4, 6, 3, stride=2, padding="valid", padding_mode="circular"),
    "conv, stride above map": nn.Conv2d(4, 6, 3, stride=40, padding=1),
    "max pool": nn.MaxPool2d(2),
    "max pool, overlapping": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool, dilated": nn.MaxPool2d((2, 3), stride=(2, 3), padding=(1, 0), dilation=2),
    "avg pool": nn.AvgPool2d(2),
    "avg pool, overlapping": nn.AvgPool2d(3, stride=2, padding=1),
    "avg pool, padding not counted": nn.AvgPool2d((5, 3), stride=(2, 3), padding=(2, 1), count_include_pad=False),
    "avg pool, divisor": nn.AvgPool2d(3, stride=2, padding=1, divisor_override=5),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_layer_is_measured_by_the_definition(name, size, backend):
    layer = copy.deepcopy(LAYERS[name]).to(DOUBLE)
    x = randn(3, 4, *size)
    expected = definition(layer, x)
    model = nn.Sequential(layer)
    with AliasingMonitor(model) as monitor:
        model(x)
    assert expected > 0
    assert monitor.compute()["0"] == pytest.approx(expected.item(), rel=1e-10)


def window_starts(size, kernel, stride, padding, dilation, outputs):
    """Every stride-1 window start from 0 to the layer's last one, with the samples each window meets."""
    count = max((outputs - 1) * stride + 1, size + 2 * padding - dilation * (kernel - 1))
    return [
        ([start - padding + t * dilation for t in range(kernel)], min(start + kernel, size + 2 * padding) - start)
        for start in range(count)
    ]


def pool_one_by_one(layer, x):
    """Stride-1 map of a pooling layer from one window at a time."""
    y = layer(x)
    pairs = [
        (v, v) if isinstance(v, int) else v
        for v in (layer.kernel_size, layer.stride, layer.padding, getattr(layer, "dilation", 1))
    ]
    rows, cols = (window_starts(x.shape[d - 2], *[p[d] for p in pairs], y.shape[d - 2]) for d in (0, 1))
    stride_1 = x.new_empty(*x.shape[:2], len(rows), len(cols))
    for i, (row_samples, row_extent) in enumerate(rows):
        for j, (col_samples, col_extent) in enumerate(cols):
            inside = [[t for t in s if 0 <= t < x.shape[d - 2]] for d, s in enumerate((row_samples, col_samples))]
            window = x[:, :, inside[0]][:, :, :, inside[1]].flatten(2)
            if isinstance(layer, nn.MaxPool2d):
                stride_1[:, :, i, j] = window.amax(-1)
                continue
            divisor = row_extent * col_extent if layer.count_include_pad else window.shape[-1]
            stride_1[:, :, i, j] = window.sum(-1) / (layer.divisor_override or divisor)
    torch.testing.assert_close(stride_1[..., :: pairs[1][0], :: pairs[1][1]], y, rtol=1e-12, atol=1e-12)
    return stride_1


@pytest.mark.parametrize("size", [(2, 8), (7, 8), (8, 11), (12, 13)])
@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.MaxPool2d(2, (2, 3), 1, ceil_mode=True),
        nn.MaxPool2d((1, 2), 4, (0, 1), 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, (2, 5), 1, ceil_mode=True, count_include_pad=False),
        nn.AvgPool2d((2, 3), 2, (0, 1), ceil_mode=True, divisor_override=7),
    ],
    ids=str,
)
def test_ceil_mode_goes_on_to_the_start_of_the_last_window(layer, size):
    x = randn(2, 3, *size)
    expected = reference.aliasing(pool_one_by_one(layer, x), layer.stride).item()
    model = nn.Sequential(layer)
    with AliasingMonitor(model) as monitor:
        model(x)
    assert monitor.compute()["0"] == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_ceil_mode_cases_do_have_an_overhanging_window():
    x = torch.zeros(1, 1, 8, 8)
    assert nn.MaxPool2d(3, 2, ceil_mode=True)(x).shape[-1] == nn.MaxPool2d(3, 2)(x).shape[-1] + 1


def test_finds_every_layer_and_describes_it():
    model = nn.Module()
    model.stem = nn.Conv2d(3, 32, 7, stride=2, padding=3)
    model.same_size = nn.Conv2d(3, 32, 3, padding=1)
    model.pool = nn.MaxPool2d(3, stride=2)
    model.blocks = nn.ModuleList([nn.Conv2d(32, 32, 3, stride=(2, 1), groups=4), nn.AvgPool2d(2), nn.MaxPool2d(3, 1)])
    assert AliasingMonitor(model).layers == {
        "stem": "conv 7x7 /2",
        "pool": "max pool 3x3 /2",
        "blocks.0": "conv 3x3 /2x1 groups 4",
        "blocks.1": "avg pool 2x2 /2",
    }


def test_a_layer_that_is_the_whole_model_has_the_empty_name():
    layer, x = nn.Conv2d(3, 4, 3, 2), images()
    with AliasingMonitor(layer) as monitor:
        layer(x)
    assert monitor.compute() == {"": pytest.approx(definition(layer, x).item(), rel=1e-5)}


def test_mean_is_over_maps_not_over_batches():
    layer = nn.Conv2d(3, 4, 3, stride=2).to(DOUBLE)
    model = nn.Sequential(layer)
    batches = [images(1, dtype=DOUBLE), 5 * images(4, seed=1, dtype=DOUBLE)]
    with AliasingMonitor(model) as monitor:
        for x in batches:
            model(x)
    assert monitor.compute()["0"] == pytest.approx(definition(layer, torch.cat(batches)).item(), rel=1e-10)


def test_max_samples_takes_the_first_images():
    layer, x = nn.Conv2d(3, 4, 3, stride=2), images(5)
    model = nn.Sequential(layer, nn.MaxPool2d(2))
    x[3:] = float("nan")
    with AliasingMonitor(model, max_samples=3) as monitor:
        model(x)
    assert monitor.compute()["0"] == pytest.approx(definition(layer, x[:3]).item(), rel=1e-5)
    assert monitor.compute()["1"] > 0


def test_every_measures_the_first_forward_and_then_each_nth():
    layer = nn.Conv2d(3, 4, 3, stride=2)
    model = nn.Sequential(layer)
    batches = [images(2, seed=seed) for seed in range(5)]
    with AliasingMonitor(model, every=3) as monitor:
        for x in batches:
            model(x)
        expected = definition(layer, torch.cat([batches[0], batches[3]])).item()
        assert monitor.compute()["0"] == pytest.approx(expected, rel=1e-5)
        monitor.reset()
        model(batches[1])
        assert monitor.compute()["0"] == pytest.approx(definition(layer, batches[1]).item(), rel=1e-5)


def test_update_runs_the_model_in_its_mode_and_measures_whatever_every_is():
    layer, x = nn.Conv2d(3, 4, 3, stride=2), images()
    model = nn.Sequential(layer, nn.BatchNorm2d(4))
    with AliasingMonitor(model, every=2) as monitor:
        model(x)
        model(100 * x)
        monitor.update(x)
        monitor.update(input=x)
        model(x)
        model(100 * x)
        assert monitor.compute()["0"] == pytest.approx(definition(layer, x).item(), rel=1e-5)
        assert monitor._sums["0"].maps == 4 * 4 * len(x)
    assert model.training
    assert model[1].num_batches_tracked == 6
    with pytest.raises(RuntimeError, match="detached"):
        monitor.update(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.AvgPool2d(2)
        self.again = self.pool

    def forward(self, x):
        return {"once": self.pool(x), "twice": self.again(self.pool(x)), "words": "not a tensor"}


def test_a_module_used_twice_is_measured_twice_under_its_first_name():
    model, x = Twice(), images(dtype=DOUBLE)
    with AliasingMonitor(model) as monitor:
        model(x)
    large, small = definition(model.pool, x, reduction="none"), definition(model.pool, model.pool(x), reduction="none")
    expected = torch.cat([large, large, small]).mean().item()
    assert monitor.compute() == {"pool": pytest.approx(expected, rel=1e-10)}
    assert list(AliasingMonitor(model, layers=["again"]).layers) == ["again"]
    assert list(AliasingMonitor(model, layers=["again", "pool"]).layers) == ["pool"]


class Odd(nn.Module):
    """Calls its layers in unusual ways."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x, factor=1.0):
        return self.pool(self.conv(input=factor * x))


def test_keywords_and_tuples():
    model, x = Odd(), images()
    with AliasingMonitor(model) as monitor:
        model(x, factor=2.0)
    model.pool.return_indices = False
    assert monitor.compute()["conv"] == pytest.approx(definition(model.conv, 2 * x).item(), rel=1e-5)
    assert monitor.compute()["pool"] == pytest.approx(definition(model.pool, model.conv(2 * x)).item(), rel=1e-5)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3, stride=2), nn.MaxPool2d(2), nn.AvgPool2d(3)], ids=str)
def test_unbatched_and_empty_inputs(layer):
    model, x = nn.Sequential(layer), images()
    with AliasingMonitor(model, max_samples=2) as monitor:
        model(x[:0])
        assert nothing_measured(monitor)
        model(x[0])
    assert monitor.compute()["0"] == pytest.approx(definition(layer, x[:1]).item(), rel=1e-5)


def test_lazy_layers():
    model, x = nn.Sequential(nn.LazyConv2d(4, 3, stride=2), nn.LazyBatchNorm2d()), images()
    with AliasingMonitor(model) as monitor:
        assert monitor.layers == {"0": "conv 3x3 /2"}
        model(x)
    assert monitor.compute()["0"] == pytest.approx(definition(model[0], x).item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_model(dtype):
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.MaxPool2d(2), nn.AvgPool2d(2)).to(dtype), images().to(dtype)
    with AliasingMonitor(model) as monitor, torch.no_grad():
        model(x)
        wide = copy.deepcopy(model).float()
        expected = [definition(layer, wide[:i](x.float())).item() for i, layer in enumerate(wide)]
    assert list(monitor.compute().values()) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.AvgPool2d(3, 2, 1)], ids=str)
def test_autocast_leaves_float32_poolings_in_float32(layer, backend):
    model, x = nn.Sequential(layer), images()
    with AliasingMonitor(model) as monitor:
        model(x)
        expected = monitor.compute()
        monitor.reset()
        with torch.autocast("cpu", torch.bfloat16):
            model(x)
    assert monitor.compute() == expected


def test_the_layers_own_output_is_used(monkeypatch):
    given = []

    def spy(*args, output, **kwargs):
        given.append(output.data_ptr())
        return measure(*args, output=output, **kwargs)

    measure = functional.conv2d_aliasing
    monkeypatch.setattr(functional, "conv2d_aliasing", spy)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2))
    with AliasingMonitor(model):
        assert given == [model(images()).data_ptr()]
