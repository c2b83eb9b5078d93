"""Gradients of ``conv2d_aliasing``: every geometry in float32, layouts, zeros, NaN, threads, memory, autocast."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import DTYPES, LAYOUTS, SINGLE_AND_DOUBLE, aliases, assert_close, randn, run_python
from test_conv2d_alias_l1 import CASES, aliasing, expected_aliasing, layer, operands, some_cases, stride_1_size

from alias_ops import _backend, designs

DOUBLE = torch.float64
KERNELS = torch.ops.alias_ops
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
needs_kernels = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])


def gradients(maps, leaves):
    """Of a sum in which every map counts differently, some of them negatively."""
    return torch.autograd.grad((maps * randn(*maps.shape, dtype=maps.dtype, seed=5)).sum(), leaves)


def assert_gradients(leaves, geometry, dtype, **kwargs):
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = gradients(expected_aliasing(*exact, **geometry), exact)
    for gradient, wanted, leaf in zip(
        gradients(aliasing(*leaves, **geometry, **kwargs), leaves), expected, leaves, strict=True
    ):
        assert gradient.dtype == leaf.dtype
        assert_close(gradient, wanted, dtype)


def leaves_of(*tensors):
    return tuple(t.detach().requires_grad_() for t in tensors)


# ---- geometry, layouts, scale ----------------------------------------------------------------------------------------


# With these seeds no |D| is so small that D/|D| magnifies rounding beyond the tolerance, in either backend.
SEEDS = {"x": 2, "weight": 102}


@pytest.mark.parametrize("name", CASES)
def test_gradients_in_single_precision(backend, name):
    """Vectors are twice as wide as in double precision: other groups span them, other channels fill none."""
    x_shape, weight_shape, geometry = CASES[name]
    x = randn(*x_shape, dtype=torch.float32, seed=SEEDS["x"])
    weight = randn(*weight_shape, dtype=torch.float32, seed=SEEDS["weight"])
    geometry = {"stride": 2, **geometry}
    if not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
        pytest.skip("D is 0, and the direction of D/|D| rounding noise")
    assert_gradients(leaves_of(x, weight), geometry, torch.float32)


# Constant rows alias nothing: D/|D| would be noise.
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded columns"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_of_any_layout(backend, layout, kernel):
    make = LAYOUTS[layout]
    for channels, groups in (((5, 6), 1), ((16, 17), 1), ((18, 36), 9)):
        for dtype in SINGLE_AND_DOUBLE:
            x = make(2, channels[0], 10, 9, dtype=dtype, seed=SEEDS["x"])
            weight = randn(channels[1], channels[0] // groups, kernel, kernel, dtype=dtype, seed=SEEDS["weight"])
            geometry = {"stride": 2, "padding": kernel // 2, "groups": groups}
            assert_gradients(leaves_of(x, weight), geometry, dtype)


@pytest.mark.parametrize("form", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_gradients_of_a_channels_last_weight(backend, kernel, form):
    x, weight = randn(3, 18, 9, 8), randn(20, 18, kernel, kernel, seed=1)
    leaves = leaves_of(x.to(memory_format=form), weight.to(memory_format=torch.channels_last))
    assert_gradients(leaves, {"stride": 2, "padding": kernel // 2}, DOUBLE)


@pytest.mark.parametrize("factor", [1e-25, 1e-12, 1e12, 1e25])
@some_cases
def test_directions_do_not_depend_on_the_scale(backend, name, factor):
    """D/|D| where squares under- and overflow."""
    x, weight, geometry = operands(name, torch.float32)
    assert_gradients(leaves_of(x * factor, weight), geometry, torch.float32)
    assert_gradients(leaves_of(x, weight * factor), geometry, torch.float32)


def test_more_images_than_a_tile_holds(backend, threads):
    x, weight = randn(70, 24, 30, 28), randn(18, 24, 3, 3, seed=1)
    for count in (1, 2):
        threads(count)
        assert_gradients(leaves_of(x, weight), {"stride": 2, "padding": 1}, DOUBLE)


# ---- zeros and NaN ---------------------------------------------------------------------------------------------------


@dtypes
@some_cases
def test_an_image_and_a_channel_without_aliasing_have_no_gradient(backend, name, dtype):
    x, weight, geometry = operands(name, dtype)
    x[1], weight[0] = 0, 0
    x, weight = leaves_of(x, weight)
    dx, dweight = gradients(aliasing(x, weight, **geometry), (x, weight))
    alone, first = leaves_of(x, weight)
    maps = aliasing(alone, first, **geometry)
    weights = randn(*maps.shape, dtype=maps.dtype, seed=5)
    dx_rest, dweight_rest = torch.autograd.grad((maps * weights)[[0, *range(2, len(x))]][:, 1:].sum(), (alone, first))
    assert torch.equal(dx[1], torch.zeros_like(dx[1]))
    assert torch.equal(dweight[0], torch.zeros_like(dweight[0]))
    assert_close(dx, dx_rest, dtype)
    assert_close(dweight, dweight_rest, dtype)


@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_and_inf_stay_in_the_gradient_of_their_image(backend, kernel, value, dtype):
    x, weight = randn(5, 3, 9, 8, dtype=dtype), randn(7, 3, kernel, kernel, dtype=dtype, seed=1)
    padding = kernel // 2
    clean, _ = gradients(aliasing(*(leaves := leaves_of(x, weight)), padding=padding), leaves)
    x[2, 1, 4, 4] = value
    leaves = leaves_of(x, weight)
    dx, dweight = gradients(aliasing(*leaves, padding=padding), leaves)
    assert dx[2].isnan().all()
    assert dweight.isnan().all()
    others = [0, 1, 3, 4]
    assert_close(dx[others], clean[others], dtype)


@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_in_the_incoming_gradient_arrives(backend, kernel):
    x, weight = leaves_of(randn(3, 4, 9, 8), randn(5, 4, kernel, kernel, seed=1))
    maps = aliasing(x, weight)
    weights = torch.ones_like(maps)
    weights[1, 2] = float("nan")
    dx, dweight = torch.autograd.grad(maps, (x, weight), weights)
    assert dx.flatten(1).isnan().all(1).tolist() == [False, True, False]
    assert dweight.flatten(1).isnan().all(1).tolist() == [False, False, True, False, False]


# ---- the kernels themselves ------------------------------------------------------------------------------------------


def tables(x, weight, padding=1):
    each = [designs.conv_tables(x.shape[d], weight.shape[d], 2, padding, 1, designs.factor_dtype(x)) for d in (-2, -1)]
    return *each, (2, 2), (padding, padding), (1, 1), x.shape[1] // weight.shape[1]


def kernel_gradients(x, weight, output, grad):
    """The kernels' part of the gradients, with zeros for that of the strided convolution."""
    geometry = tables(x, weight)
    dx, dweight = torch.zeros_like(x), torch.zeros_like(weight)
    d_output = KERNELS._conv2d_alias_l1_training(x, weight, None, output, *geometry)[1] * grad[:, :, None, None]
    KERNELS._conv2d_alias_l1_low_gradient(d_output, x, weight, dx, dweight, *geometry)
    return d_output, dx, dweight


@needs_kernels
@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "groups", "size"),
    [(130, 24, 18, 1, (30, 28)), (3, 33, 17, 1, (9, 8)), (70, 40, 40, 40, (15, 14)), (5, 6, 51, 3, (8, 7))],
)
def test_gradients_do_not_depend_on_repetition_or_threads(threads, batch, inputs, outputs, groups, size):
    for dtype in SINGLE_AND_DOUBLE:
        x, weight = (
            randn(batch, inputs, *size, dtype=dtype),
            randn(outputs, inputs // groups, 3, 3, dtype=dtype, seed=1),
        )
        output = F.conv2d(x, weight, None, 2, 1, 1, groups)
        grad = randn(batch, outputs, dtype=dtype, seed=2)
        threads(1)
        first = kernel_gradients(x, weight, output, grad)
        for count in (1, 2, 3, 7):
            threads(count)
            for again, once in zip(kernel_gradients(x, weight, output, grad), first, strict=True):
                assert torch.equal(again, once)


@needs_kernels
def test_output_gradient_keeps_what_the_low_gradient_reads_back():
    """The bins are recovered from the samples: in relative terms for each map, however different their weights."""
    x, weight = randn(3, 5, 12, 10, dtype=torch.float32), randn(4, 5, 3, 3, dtype=torch.float32, seed=1)
    scale = torch.logspace(-12, 12, 12).view(3, 4)
    output = F.conv2d(x, weight, None, 2, 1)
    whole = kernel_gradients(x, weight, output, scale)[0]
    plain = kernel_gradients(x, weight, output, torch.ones(3, 4))[0]
    for map_of_scale, map_of_one, factor in zip(whole.flatten(0, 1), plain.flatten(0, 1), scale.flatten(), strict=True):
        assert_close(map_of_scale / factor, map_of_one, torch.float32)


@needs_kernels
@pytest.mark.parametrize("wrong", ["output", "dx", "dweight", "dtype", "layout"])
def test_what_does_not_fit_is_refused(wrong):
    x, weight = randn(2, 3, 9, 8), randn(4, 3, 3, 3, seed=1)
    output = F.conv2d(x, weight, None, 2, 1)
    dx, dweight = torch.zeros_like(x), torch.zeros_like(weight)
    if wrong == "output":
        output = output[:, :, :4]
    elif wrong == "dx":
        dx = dx[..., :7]
    elif wrong == "dweight":
        dweight = dweight[:3]
    elif wrong == "dtype":
        output, dx = output.half(), dx.half()
    else:
        dweight = dweight.to(memory_format=torch.channels_last)
    geometry = tables(x, weight)
    if wrong == "dtype":
        with pytest.raises(RuntimeError, match="must"):
            KERNELS._conv2d_alias_l1_training(x.half(), weight.half(), None, None, *tables(x.half(), weight.half()))
    if wrong in ("output", "dtype"):
        with pytest.raises(RuntimeError, match="must"):
            KERNELS._conv2d_alias_l1_training(x, weight, None, output, *geometry)
    with pytest.raises(RuntimeError, match="must"):
        KERNELS._conv2d_alias_l1_low_gradient(output, x, weight, dx, dweight, *geometry)


def peak_of_the_kernels():
    """Runs in a process of its own: bytes that each kernel takes beyond operands and results, of 42 MB of x."""

    def resident(field):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
        raise LookupError(field)

    def taken(call):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        results = call() or ()
        return resident("VmHWM") - before - sum(t.nbytes for t in results)

    torch.set_num_threads(1)
    x, weight = torch.rand(160, 64, 32, 32), torch.rand(128, 64, 3, 3)
    output, grad = F.conv2d(x, weight, None, 2, 1), torch.rand(160, 128)
    dx, dweight = torch.zeros_like(x).add_(1), torch.zeros_like(weight).add_(1)
    geometry = tables(x, weight)
    kernel_gradients(x[:2], weight, output[:2].clone(), grad[:2])
    print(taken(lambda: KERNELS._conv2d_alias_l1_training(x, weight, None, output, *geometry)))
    print(taken(lambda: KERNELS._conv2d_alias_l1_low_gradient(output, x, weight, dx, dweight, *geometry)))
    axes = [designs.conv_tables_with_taps(x.shape[d], weight.shape[d], 2, 1, 1) for d in (2, 3)]
    KERNELS._conv2d_alias_l1_tap_gradient(grad[:2], output[:2].clone(), x[:2], weight, *axes, *geometry[2:])
    print(taken(lambda: KERNELS._conv2d_alias_l1_tap_gradient(grad, output, x, weight, *axes, *geometry[2:])))
    print(taken(lambda: [KERNELS.conv2d_alias_l1(x, weight, None, None, *axes, *geometry[2:])]))
    print(taken(lambda: KERNELS._conv2d_alias_l1_training(x, weight, None, None, *axes, *geometry[2:])))


@needs_kernels
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak from Linux's /proc")
def test_the_kernels_need_a_few_megabytes_whatever_the_batch():
    process = run_python("import test_conv2d_alias_l1_backward as test; test.peak_of_the_kernels()")
    peaks = [int(line) for line in process.stdout.split()]
    assert len(peaks) == 5, process.stderr[-2000:]
    assert max(peaks) < 8 << 20


# ---- in use ----------------------------------------------------------------------------------------------------------


@needs_kernels
@pytest.mark.parametrize("kernel", [1, 3])
def test_backward_under_autocast_is_not_in_sixteen_bits(kernel):
    leaves = leaves_of(randn(2, 3, 9, 8, dtype=torch.float32), randn(4, 3, kernel, kernel, dtype=torch.float32, seed=1))
    maps = aliasing(*leaves)
    plain = torch.autograd.grad(maps.sum(), leaves, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        inside = torch.autograd.grad(maps.sum(), leaves)
    for gradient, expected in zip(inside, plain, strict=True):
        assert_close(gradient, expected, torch.float32)


def test_the_output_given_is_not_written_over(backend):
    x, weight = leaves_of(randn(2, 3, 9, 8), randn(4, 3, 3, 3, seed=1))
    output = layer(x, weight).detach()
    before = output.clone()
    gradients(aliasing(x, weight, output=output), (x, weight))
    assert torch.equal(output, before)


@pytest.mark.parametrize("channels_last", [False, True])
def test_an_output_written_over_behind_the_measure(backend, channels_last):
    """As by an activation in place, which most networks have behind a layer; and the gradients can be taken twice."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = leaves_of(randn(2, 17, 9, 8).to(memory_format=form), randn(18, 17, 3, 3, seed=1))
    expected = torch.autograd.grad(aliasing(x, weight).sum(), (x, weight))
    output = layer(x, weight)
    maps = aliasing(x, weight, output=output)
    torch.relu_(output)
    for retain in (True, False):
        actual = torch.autograd.grad(maps.sum(), (x, weight), retain_graph=retain)
        for gradient, wanted in zip(actual, expected, strict=True):
            assert_close(gradient, wanted, DOUBLE)


@needs_kernels
@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE)
@pytest.mark.parametrize("batch", [0, 3])
def test_the_ops_for_training_are_registered_as_pytorch_wants_it(dtype, batch):
    x, weight = randn(batch, 4, 9, 8, dtype=dtype), randn(6, 2, 3, 3, dtype=dtype, seed=1)
    geometry = tables(x, weight)
    norms, d_output = KERNELS._conv2d_alias_l1_training(x, weight, None, None, *geometry)
    leaves = leaves_of(x, weight)
    torch.library.opcheck(KERNELS._conv2d_alias_l1_training.default, (*leaves, None, None, *geometry))
    operands = torch.ones_like(norms), d_output, x, weight
    torch.library.opcheck(KERNELS._conv2d_alias_l1_training_backward.default, (*operands, *geometry))


@pytest.mark.filterwarnings("ignore:.*an autograd kernel was not registered:UserWarning")
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_graph_of_the_gradients_leads_to_second_derivatives(backend, kernel):
    """Not promised, but where they come they are right: the kernels write in place and record nothing."""
    x, weight = leaves_of(randn(2, 3, 8, 9), randn(4, 3, kernel, kernel, seed=1))

    def second(function):
        dx, dweight = torch.autograd.grad(function(x, weight).square().sum(), (x, weight), create_graph=True)
        return torch.autograd.grad(dx.square().sum() + dweight.square().sum(), (x, weight))

    geometry = {"stride": 2, "padding": kernel // 2}
    expected = second(lambda *leaves: expected_aliasing(*leaves, **geometry))
    for actual, wanted in zip(second(lambda *leaves: aliasing(*leaves, **geometry)), expected, strict=True):
        assert_close(actual, wanted, DOUBLE)
