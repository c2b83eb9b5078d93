"""What each layer folds: the sum is AM, the pictures are those of the definition, the model is as before."""

import pytest
import torch
import torch.nn.functional as F
from helpers import randn
from torch import nn

from alias_ops import AliasingMonitor, reference
from alias_ops.spectra import layer_spectra


def net(**first) -> nn.Sequential:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3, stride=2, padding=1, **first), nn.BatchNorm2d(4), nn.MaxPool2d(3, (2, 1), 1)]
    return nn.Sequential(*parts, nn.AvgPool2d(2, ceil_mode=True)).double()


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_the_sum_of_what_folded_is_the_measure(size, mode):
    model, x = net(padding_mode=mode), randn(5, 3, *size)
    with AliasingMonitor(model.eval()) as monitor:
        monitor.update(x)
        expected = monitor.compute()
    found = {layer.name: layer for layer in layer_spectra(model, x, batch_size=2)}
    assert {name: layer.aliasing for name, layer in found.items()} == pytest.approx(expected, rel=1e-10)
    assert {name: layer.kind for name, layer in found.items()} == monitor.layers
    assert [layer.images for layer in found.values()] == [5, 5, 5]
    assert found["2"].stride == (2, 1)


def test_the_spectra_are_those_of_the_definition():
    model, x = net(), randn(4, 3, 16, 16)
    layer = layer_spectra(model, x)[0]
    g = F.conv2d(x, model[0].weight, model[0].bias, 1, 1)
    centred = torch.fft.fftshift(torch.fft.fft2(g, norm="forward"), dim=(-2, -1))
    torch.testing.assert_close(layer.before, centred.abs().mean((0, 1)).detach())
    strided = torch.fft.fftshift(torch.fft.fft2(g[..., ::2, ::2], norm="forward"), dim=(-2, -1))
    low = centred[..., 4:12, 4:12].clone()
    low[..., 0, :] = low[..., 0] = 0
    torch.testing.assert_close(layer.folded, (strided - low).abs().mean((0, 1)).detach())
    assert layer.aliasing == pytest.approx(reference.aliasing(g).item())


def test_the_model_is_as_it_was():
    model = net().train()
    model[1].eval()
    mean = model[1].running_mean.clone()
    layer_spectra(model, iter([randn(2, 3, 8, 8), randn(1, 3, 8, 8)]))
    assert [part.training for part in model] == [True, False, True, True]
    assert torch.equal(model[1].running_mean, mean)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_hooks
    assert not model[0]._forward_hooks


def test_layers_are_chosen_and_those_that_did_not_run_are_left_out():
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.MaxPool2d(2), nn.AvgPool2d(2)

        def forward(self, x):
            return self.used(x)

    assert [layer.name for layer in layer_spectra(Skips(), randn(1, 1, 4, 4))] == ["used"]
    assert [layer.name for layer in layer_spectra(net(), randn(1, 3, 8, 8), layers=["2"])] == ["2"]


def test_half_precision_is_measured_in_float32():
    rounded, x = net().bfloat16(), randn(3, 3, 8, 8, dtype=torch.bfloat16)
    exact = net()
    exact.load_state_dict(rounded.state_dict())
    found, expected = (layer_spectra(m, im, layers=["0"])[0] for m, im in ((rounded, x), (exact, x.double())))
    assert found.aliasing == pytest.approx(expected.aliasing, rel=1e-5)


def test_wrong_calls():
    with pytest.raises(ValueError, match="no downsampling layer"):
        layer_spectra(nn.Sequential(nn.ReLU()), randn(1, 3, 4, 4))
    with pytest.raises(TypeError, match="model must be an nn.Module, got int"):
        layer_spectra(1, randn(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"images must be images \[..., C, H, W\]"):
        layer_spectra(net(), randn(4, 4))
    with pytest.raises(ValueError, match="batch_size must be a positive int, got 0"):
        layer_spectra(net(), randn(1, 3, 8, 8), batch_size=0)
    with pytest.raises(RuntimeError, match=r"'0' .* maps of \[8, 8\] and of \[6, 6\] have no mean"):
        layer_spectra(net(), [randn(1, 3, 8, 8), randn(1, 3, 6, 6)])


def test_a_layer_with_a_forward_of_its_own_is_warned_of_where_it_was_called():
    class Own(nn.AvgPool2d):
        def forward(self, x):
            return x

    with pytest.warns(UserWarning, match="layer_spectra leaves out '1'") as caught:
        layer_spectra(nn.Sequential(nn.AvgPool2d(2), Own(2)), randn(1, 1, 4, 4))
    assert caught[0].filename == __file__
