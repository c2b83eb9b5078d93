"""What the op ``conv2d_alias_l1`` promises beyond its values: gradients by finite differences, opcheck, extremes."""

import pytest
import torch
from helpers import DTYPES, assert_close, randn
from test_conv2d_alias_l1 import BACKWARD, OP, aliasing, expected_aliasing, layer, operands, some_cases

import alias_ops
from alias_ops import designs

DOUBLE = torch.float64
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def op_geometry(x, weight, stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1):
    tables = [
        designs.conv_tables(x.shape[d - 2], weight.shape[d - 2], stride[d], padding[d], dilation[d]) for d in (0, 1)
    ]
    return *tables, stride, padding, dilation, groups


@pytest.mark.parametrize(
    "geometry",
    [
        {"kernel": (3, 3), "padding": 1},
        {"kernel": (1, 1)},
        {"kernel": (2, 3), "stride": (3, 2), "padding": (1, 0), "dilation": (1, 2)},
        {"kernel": (3, 3), "padding": 1, "groups": 2},
    ],
    ids=str,
)
def test_gradcheck(backend, geometry):
    kernel, groups = geometry["kernel"], geometry.get("groups", 1)
    geometry = {key: value for key, value in geometry.items() if key != "kernel"}
    x, weight = randn(2, 2, 6, 7).requires_grad_(), randn(2, 2 // groups, *kernel, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda *leaves: aliasing(*leaves, **geometry), (x, weight))


@dtypes
@pytest.mark.parametrize("kernel", [1, 3])
def test_where_nothing_aliases_the_gradient_is_zero_and_not_nan(backend, kernel, dtype):
    x = torch.zeros(2, 3, 8, 9, dtype=dtype, requires_grad=True)
    weight = randn(4, 3, kernel, kernel, dtype=dtype).requires_grad_()
    value = alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2)
    assert value == 0
    for leaf, gradient in zip((x, weight), torch.autograd.grad(value, (x, weight)), strict=True):
        assert torch.equal(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("given", ["nothing", "output", "output and bias"])
def test_opcheck(given, kernel, dtype):
    x = randn(2, 4, 8, 7, dtype=dtype).requires_grad_()
    weight = randn(6, 2, kernel, kernel, dtype=dtype, seed=1).requires_grad_()
    padding, groups = kernel // 2, 2
    bias = randn(6, dtype=dtype) if "bias" in given else None
    output = layer(x, weight, bias, padding=padding, groups=groups).detach() if "output" in given else None
    geometry = op_geometry(x, weight, padding=(padding, padding), groups=groups)
    torch.library.opcheck(OP, (x, weight, bias, output, *geometry))


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, torch.float16], ids=str)
def test_opcheck_backward(dtype):
    x, weight = randn(2, 3, 8, 7, dtype=dtype), randn(5, 3, 3, 3, dtype=dtype, seed=1)
    grad = randn(2, 5, dtype=DOUBLE if dtype == DOUBLE else torch.float32)
    torch.library.opcheck(BACKWARD, (grad, x, weight, *op_geometry(x, weight)))


@pytest.mark.parametrize("factor", [1e-25, 1e-12, 1e12, 1e25])
@some_cases
def test_measure_is_proportional_to_the_input_and_to_the_weight(backend, name, factor):
    x, weight, geometry = operands(name, torch.float32)
    for scaled in ((x * factor, weight), (x, weight * factor)):
        assert_close(aliasing(*scaled, **geometry), expected_aliasing(*scaled, **geometry), torch.float32)
        output = layer(*scaled, **geometry)
        assert_close(
            aliasing(*scaled, output=output, **geometry), expected_aliasing(*scaled, **geometry), torch.float32
        )


@dtypes
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_nan_and_inf_in_x_stay_in_their_image(backend, kernel, value, dtype):
    x, weight = randn(5, 3, 9, 8, dtype=dtype), randn(7, 3, kernel, kernel, dtype=dtype, seed=1)
    padding = kernel // 2
    clean = aliasing(x, weight, padding=padding)
    x[2, 1, 4, 4] = value
    for output in (None, layer(x, weight, padding=padding)):
        maps = aliasing(x, weight, padding=padding, output=output)
        assert not maps[2].isfinite().any()
        others = [0, 1, 3, 4]
        assert_close(maps[others], clean[others], dtype)
        assert not alias_ops.conv2d_aliasing(x, weight, padding=padding, output=output).isfinite()


@dtypes
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("groups", [1, 3])
def test_nan_in_a_weight_stays_in_its_output_channel(backend, groups, kernel, dtype):
    x, weight = randn(2, 6, 9, 8, dtype=dtype), randn(21, 6 // groups, kernel, kernel, dtype=dtype, seed=1)
    geometry = {"padding": kernel // 2, "groups": groups}
    clean = aliasing(x, weight, **geometry)
    weight[20, 0, 0, 0] = float("nan")
    maps = aliasing(x, weight, **geometry)
    assert maps[:, 20].isnan().all()
    assert_close(maps[:, :20], clean[:, :20], dtype)


@dtypes
def test_nan_in_the_given_output_stays_in_its_map(backend, dtype):
    x, weight = randn(3, 4, 9, 8, dtype=dtype), randn(5, 4, 3, 3, dtype=dtype, seed=1)
    output = layer(x, weight)
    clean = aliasing(x, weight, output=output)
    output[1, 2, 0, 0] = float("nan")
    maps = aliasing(x, weight, output=output)
    bad = torch.zeros(3, 5, dtype=torch.bool)
    bad[1, 2] = True
    assert torch.equal(maps.isnan(), bad)
    assert_close(maps[~bad], clean[~bad], dtype)


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(19, 9, 40), (2, 33, 17), (40, 3, 5)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_results_do_not_depend_on_repetition_or_threads(backend, threads, kernel, batch, inputs, outputs):
    for dtype in DTYPES:
        x = randn(batch, inputs, 14, 13, dtype=dtype)
        weight = randn(outputs, inputs, kernel, kernel, dtype=dtype, seed=1)
        # The output is given: what F.conv2d returns is PyTorch's to promise.
        output = layer(x, weight)
        threads(1)
        first = aliasing(x, weight, output=output)
        assert torch.equal(aliasing(x, weight, output=output), first)
        threads(2)
        assert torch.equal(aliasing(x, weight, output=output), first)


def test_a_batch_is_measured_image_by_image(backend, threads):
    """Tiles of images and blocks of threads: more images than any of them holds."""
    threads(2)
    x, weight = randn(70, 24, 30, 28, dtype=torch.float32), randn(18, 24, 3, 3, dtype=torch.float32, seed=1)
    whole = aliasing(x, weight, padding=1)
    parts = torch.cat([aliasing(part, weight, padding=1) for part in x.split([1, 30, 7, 32])])
    assert_close(whole, parts, torch.float32)
    assert_close(whole[[0, 35, 69]], expected_aliasing(x[[0, 35, 69]], weight, padding=1), torch.float32)
