"""Gradients of ``conv2d_alias_l1`` in Triton: how the work is cut, what it takes, and on a GPU in graphs."""

import pytest
import torch
from helpers import assert_close, randn
from kernels import captured, configuration, module
from test_conv2d_alias_l1 import layer
from test_conv2d_alias_l1_backward import leaves_of
from test_kernels_conv2d_alias_l1 import assert_measures, described
from test_kernels_conv2d_alias_l1_backward import SINGLE, arguments, assert_gradients, found, made

import alias_ops

pytest.importorskip("triton")

from alias_ops.kernels import conv2d_alias_l1_backward as kernels
from alias_ops.kernels import conv2d_alias_l1_backward_plan as plan
from alias_ops.kernels import conv2d_alias_l1_backward_products as on_panels
from alias_ops.kernels import conv2d_alias_l1_plan as forward_plan


@pytest.mark.parametrize("name", ["batch of 3", "groups", "stride 3, kernel 1"])
def test_images_in_chunks(device, monkeypatch, name):
    x, weight, geometry = made(name, device=device)
    at_once = found(*leaves_of(x, weight), geometry)
    if device == "cpu":
        again = found(*leaves_of(x, weight), geometry)
        assert all(torch.equal(a, b) for a, b in zip(at_once, again))
    for images in (1, 2):
        monkeypatch.setattr(kernels, "images_at_once", lambda *args, n=images: n)
        for actual, wanted in zip(assert_gradients(device, x, weight, geometry), at_once, strict=True):
            assert_close(actual.cpu(), wanted.cpu(), SINGLE)


@pytest.mark.parametrize("name", ["kernel 3", "groups"])
def test_every_candidate(device, monkeypatch, name):
    x, weight, geometry = made(name, device=device)
    for place in (0, 1):
        with configuration(monkeypatch, module("conv2d_alias_l1_launch"), place) as names:
            assert_gradients(device, x, weight, geometry)
            assert_measures(device, x, weight, geometry, layer(x, weight, **geometry))
        assert "conv2d_alias_l1_sign_bins" in names
        assert "conv2d_alias_l1_measure_bins" in names


@pytest.mark.parametrize("name", ["kernel 1", "kernel 3"])
def test_offsets_of_64_bits(device, monkeypatch, name):
    monkeypatch.setattr(kernels, "wide", lambda *args: True)
    assert_gradients(device, *made(name, device=device))


def test_more_matrices_than_a_launch_has_room_for(device, monkeypatch):
    monkeypatch.setattr(on_panels, "MOST_MATRICES", 3)
    assert_gradients(device, *made("groups", device=device))


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("outputs", [1, 2])
def test_products_of_bins(inputs, groups, outputs):
    """Of one group, of several, and of one input channel to each, where no matrix product is worth its name."""
    bins, rows = 5, 6
    x, signs = randn(bins, rows, groups, inputs), randn(bins, rows, groups, 2 * outputs, seed=1)
    spectrum = randn(bins, inputs, groups, 2 * outputs, seed=2)
    out, total = (
        torch.full((bins, rows, groups * inputs), torch.nan),
        torch.full((bins * groups, inputs, 2 * outputs), torch.nan),
    )
    flat_x, flat_signs = x.flatten(2).float(), signs.flatten(2).float()
    on_panels.input_bins_of(flat_signs, spectrum.flatten(2).float(), out, groups)
    assert_close(out, torch.einsum("brgo,bigo->brgi", signs, spectrum).flatten(2), SINGLE)
    expected = torch.einsum("brgi,brgo->bgio", x, signs).flatten(0, 1)
    for times in (1, 2):
        on_panels.add_weight_bins(flat_x, flat_signs, total, groups, times == 1)
        assert_close(total, times * expected, SINGLE)


@pytest.mark.parametrize("dtype", [SINGLE, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["kernel 7", "padding above the kernel", "a pair of everything", "groups", "kernel 1"])
def test_buffers_are_as_large_as_the_plan_says(monkeypatch, name, dtype):
    x, weight, geometry = made(name, dtype)
    about, t = described(x, weight, geometry)
    asked = 0
    new_empty, empty = torch.Tensor.new_empty, torch.empty

    def counted(make):
        def wrapped(*args, **kwargs):
            nonlocal asked
            made = make(*args, **kwargs)
            asked += made.nbytes
            return made

        return wrapped

    grad = randn(len(x), len(weight), dtype=SINGLE)
    out = torch.empty_like(x), torch.empty_like(weight)
    monkeypatch.setattr(torch.Tensor, "new_empty", counted(new_empty))
    monkeypatch.setattr(kernels.torch, "empty", counted(empty))
    kernels.conv2d_alias_l1_backward(grad, *arguments(x, weight, **geometry), out=out)
    bins = plan.bin_count(2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
    spectra = (
        0 if plan.is_pointwise(about) else 2 * 8 * bins * weight.shape[:2].numel()
    )  # the weight's and its gradient
    assert 0 < asked - spectra <= len(x) * plan.bytes_per_image(about, t, x.itemsize)


def test_chunks_are_small_beside_the_stride_1_map():
    x, weight = torch.empty(4096, 64, 32, 32, device="meta"), torch.empty(128, 64, 3, 3, device="meta")
    about, t = described(x, weight, {"padding": 1})
    images = plan.images_at_once(about, t, 4)
    assert images % 64 == 0
    assert images * plan.bytes_per_image(about, t, 4) <= 4096 * 128 * 32 * 32 * 4 / 16
    few, t = described(x[:9], weight, {"padding": 1})
    assert plan.images_at_once(few, t, 4) == 9
    with pytest.raises(ValueError, match="fewer than 2\\*\\*31 numbers"):
        forward_plan.chunk_of(few, 2**33, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [1, 3])
def test_graph_capture(kernel):
    x = torch.randn(64, 32, 28, 28, device="cuda", requires_grad=True)
    weight = torch.randn(48, 32, kernel, kernel, device="cuda", requires_grad=True)
    other = torch.randn_like(x).detach()

    def step():
        return torch.autograd.grad(alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2), (x, weight))

    with alias_ops.backend("triton"):
        graph, results = captured(step)
        with torch.no_grad():
            x.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        for actual, expected in zip(results, step(), strict=True):
            assert_close(actual.cpu(), expected.cpu(), SINGLE)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [1, 3])
def test_memory_stays_below_the_stride_1_map(kernel):
    x = torch.randn(1024, 64, 32, 32, device="cuda", requires_grad=True)
    weight = torch.randn(128, 64, kernel, kernel, device="cuda", requires_grad=True)
    with alias_ops.backend("triton"):
        maps = alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        found = torch.autograd.grad(maps, (x, weight))
        torch.cuda.synchronize()
        taken = torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in found)
    assert taken < 1024 * 128 * 32 * 32 * 4 / 2
