"""``conv2d_alias_l1`` in Triton, branch by branch against the definition in float64: interpreted, or on a GPU."""

import pytest
import torch
from helpers import ARCHIVES, LAYOUTS, aliases, assert_close, golden, golden_convolutions, randn
from kernels import captured, geometry_of
from test_conv2d_alias_l1 import CASES, expected_aliasing, layer, operands, stride_1_size

import alias_ops

pytest.importorskip("triton")

from alias_ops.kernels import conv2d_alias_l1 as kernels
from alias_ops.kernels import conv2d_alias_l1_plan as plan
from alias_ops.kernels.conv2d_alias_l1_tables import tables

BRANCHES = ("residual", "bins", "pointwise")
HALF = (torch.float16, torch.bfloat16)
GOLDEN = golden(ARCHIVES[2])

# What one interpreted program costs is paid per program: a cross-section of the geometries, small ones.
GEOMETRIES = [
    name
    for name in CASES
    if name
    in {
        "kernel 1",
        "kernel 2",
        "kernel 3",
        "kernel 7",
        "kernel 1, odd size",
        "kernel 5, odd size",
        "stride 1",
        "stride 4",
        "stride 3, kernel 1",
        "padding 3",
        "padding above the kernel",
        "padding along one axis with kernel 1",
        "padding above the map",
        "dilation with kernel 1",
        "kernel as large as the padded map",
        "stride above the map",
        "another non-square kernel",
        "a pair of everything",
        "one row",
        "one column",
        "one output",
        "batch of 17",
        "depthwise",
        "groups, kernel 1",
        "17 to 33 channels",
        "33 to 15 channels, kernel 1",
    }
]


@pytest.fixture
def force(monkeypatch):
    """force(branch): that one serves, whatever the rule says."""
    return lambda branch: monkeypatch.setattr(kernels, "served_by", lambda layer, t: branch)


def described(x, weight, geometry, output=None):
    described = kernels.layer_of(x, weight, output, *geometry_of(**geometry))
    return described, tables(described.geometry, torch.device("cpu"))


def can_serve(branch, x, weight, geometry):
    about, t = described(x, weight, geometry)
    return {"residual": plan.on_chip(about, t), "bins": not about.pointwise, "pointwise": about.pointwise}[branch]


def measured(device, x, weight, bias=None, output=None, **geometry):
    """The kernels' result of operands that are moved to the device as they lie."""

    def moved(t):
        return None if t is None else torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device).copy_(t)

    place = (lambda t: t) if device == "cpu" else moved
    maps = alias_ops.conv2d_aliasing(
        place(x), place(weight), place(bias), output=place(output), **geometry, reduction="none"
    )
    assert maps.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    return maps.cpu()


def assert_measures(device, x, weight, geometry, output=None, bias=None, scale=None):
    if scale is None and not aliases(stride_1_size(x, weight, geometry), geometry["stride"]):
        scale = layer(x.double(), weight, **geometry)
    actual = measured(device, x, weight, bias, output, **geometry)
    assert_close(actual, expected_aliasing(x, weight, **geometry), x.dtype, scale=scale)
    return actual


# ---- geometry, dtypes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("branch", BRANCHES)
def test_geometries(device, force, branch, name):
    x, weight, geometry = operands(name, torch.float32)
    if not can_serve(branch, x, weight, geometry):
        pytest.skip("not a layer of this branch")
    force(branch)
    output = layer(x, weight, **geometry) if branch == "bins" else None
    assert_measures(device, x, weight, geometry, output)


def test_every_branch_serves_a_geometry():
    layers = [operands(name, torch.float32) for name in GEOMETRIES]
    for branch in BRANCHES:
        assert sum(can_serve(branch, *each) for each in layers) >= 6


@pytest.mark.parametrize("name", ["kernel 3, odd size", "a pair of everything", "groups"])
def test_bins_of_an_output_that_is_not_at_hand(device, force, name):
    force("bins")
    assert_measures(device, *operands(name, torch.float32))


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("residual", "kernel 3, odd size"),
        ("residual", "kernel 1"),
        ("residual", "groups"),
        ("bins", "batch of 3"),
        ("bins", "a pair of everything"),
        ("bins", "groups"),
        ("pointwise", "kernel 1"),
        ("pointwise", "groups, kernel 1"),
    ],
)
def test_half_precision(device, force, branch, name, dtype):
    force(branch)
    x, weight, geometry = operands(name, dtype)
    assert_measures(device, x, weight, geometry, layer(x, weight, **geometry) if branch == "bins" else None)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_a_large_mean_stays_in_its_bin(device, force, dtype):
    """What a table's rounding leaks out of DC counts in every other bin."""
    x, weight, geometry = operands("batch of 1", dtype)
    x = (x * 0.25 + 8).to(dtype)
    for branch in ("residual", "bins"):
        force(branch)
        assert_measures(device, x, weight, geometry, layer(x.double(), weight, **geometry).to(dtype))


@pytest.mark.parametrize("factor", [1e-25, 1e25])
@pytest.mark.parametrize(
    ("branch", "name"),
    [
        ("residual", "kernel 3, odd size"),
        ("bins", "batch of 3"),
        ("pointwise", "kernel 1"),
    ],
)
def test_moduli_where_squares_under_and_overflow(device, force, branch, name, factor):
    force(branch)
    x, weight, geometry = operands(name, torch.float32)
    for scaled in ((x * factor, weight), (x, weight * factor)):
        output = layer(*scaled, **geometry) if branch == "bins" else None
        assert_measures(device, *scaled, geometry, output)


@pytest.mark.parametrize(("branch", "kernel"), [("residual", 3), ("bins", 3), ("pointwise", 1)])
def test_images_and_outputs_of_very_different_size(device, force, branch, kernel):
    """They share tiles, and must not share a scale."""
    force(branch)
    x = randn(4, 3, 7, 8) * torch.tensor([1e-20, 1.0, 1e20, 1e-12]).view(4, 1, 1, 1)
    weight = randn(3, 3, kernel, kernel, seed=1) * torch.tensor([1e-15, 1.0, 1e15]).view(3, 1, 1, 1)
    x, weight, geometry = x.float(), weight.float(), {"padding": kernel // 2, "stride": 2}
    output = layer(x, weight, **geometry) if branch == "bins" else None
    actual = measured(device, x, weight, output=output, **geometry)
    expected = expected_aliasing(x, weight, **geometry)
    assert_close(actual / expected, torch.ones_like(expected), torch.float32)


def test_float64_takes_the_form_in_pytorch(device):
    x, weight, geometry = operands("padding 1")
    assert_measures(device, x, weight, geometry)


@pytest.mark.parametrize("case", range(len(golden_convolutions())))
def test_golden_vectors(device, case):
    x, weight = (torch.from_numpy(GOLDEN[f"{case}.{key}"]).float() for key in ("x", "weight"))
    geometry = golden_convolutions()[case]
    expected = torch.from_numpy(GOLDEN[f"{case}.maps"])
    assert_close(measured(device, x, weight, **geometry), expected, torch.float32)
    output = layer(x, weight, **geometry)
    assert_close(measured(device, x, weight, output=output, **geometry), expected, torch.float32)


@pytest.mark.parametrize("size", [(66, 6), (5, 40), (3, 130)], ids=str)
@pytest.mark.parametrize(("branch", "kernel"), [("bins", 3), ("pointwise", 1)])
def test_more_bins_than_a_tile(device, force, branch, kernel, size):
    force(branch)
    x, weight = randn(1, 3, *size, dtype=torch.float32), randn(2, 3, kernel, kernel, dtype=torch.float32, seed=1)
    geometry = {"stride": 2, "padding": kernel // 2}
    assert_measures(device, x, weight, geometry, layer(x, weight, **geometry) if branch == "bins" else None)


# ---- operands --------------------------------------------------------------------------------------------------------


# The branch "bins" reads x twice and the output too; the others read x alone.
SOME_LAYOUTS = ["channels_last", "transposed maps", "batch and channels swapped", "expanded columns"]


@pytest.mark.parametrize(
    ("branch", "kernel", "layout"),
    [
        *(("bins", 3, layout) for layout in LAYOUTS),
        *((branch, k, layout) for branch, k in (("residual", 3), ("pointwise", 1)) for layout in SOME_LAYOUTS),
    ],
)
def test_layouts(device, force, branch, kernel, layout):
    force(branch)
    make = LAYOUTS[layout]
    x, weight = make(2, 5, 6, 5, dtype=torch.float32), make(6, 5, kernel, kernel, dtype=torch.float32, seed=1)
    geometry = {"stride": 2, "padding": kernel // 2}
    noise = make(2, 6, 3, 3, dtype=torch.float64, seed=2)
    output = torch.empty_like(noise, dtype=x.dtype).copy_(layer(x.double(), weight, **geometry))
    # A constant row of weights or of x may alias little: relative to what the layer returns.
    assert_measures(device, x, weight, geometry, output, scale=output)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_bias_is_taken_off_the_output(device, dtype):
    x, weight, geometry = operands("padding 1", dtype)
    bias = randn(len(weight), dtype=dtype, seed=2)
    assert_measures(device, x, weight, geometry, layer(x, weight, bias, **geometry), bias)


def test_output_is_taken_at_its_word(device):
    x, weight, geometry = operands("padding 1", torch.float32)
    output = layer(x, weight, **geometry) + randn(2, 4, 5, 7, dtype=torch.float32, seed=6)
    with alias_ops.backend("reference"):
        expected = alias_ops.conv2d_aliasing(
            x.double(), weight.double(), output=output.double(), **geometry, reduction="none"
        )
    assert_close(measured(device, x, weight, output=output, **geometry), expected, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize("kernel", [1, 3])
def test_no_images(device, kernel, dtype):
    x, weight = torch.empty(0, 3, 9, 8, dtype=dtype), randn(4, 3, kernel, kernel, dtype=dtype)
    assert measured(device, x, weight).shape == (0, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("branch", "kernel"), [("residual", 3), ("residual", 1), ("bins", 3), ("pointwise", 1)])
def test_nan_and_inf_stay_in_their_image(device, force, branch, kernel, value):
    force(branch)
    x, weight = randn(4, 2, 5, 6, dtype=torch.float32), randn(4, 2, kernel, kernel, dtype=torch.float32, seed=1)
    given = {"padding": kernel // 2, "output": layer(x, weight, padding=kernel // 2) if branch == "bins" else None}
    clean = measured(device, x, weight, **given)
    x[2, 1, 3, 4] = value
    maps = measured(device, x, weight, **given)
    assert not maps[2].isfinite().any()
    assert torch.equal(maps[[0, 1, 3]], clean[[0, 1, 3]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["batch of 3", "groups", "kernel 1, odd size"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_nothing_is_read_before_it_is_written(device, force, monkeypatch, branch, name, dtype):
    x, weight, geometry = operands(name, dtype)
    if not can_serve(branch, x, weight, geometry):
        pytest.skip("not a layer of this branch")
    force(branch)
    made = []

    def poisoned(self, *sizes, dtype=None, **kwargs):
        made.append(sizes)
        shape = sizes[0] if isinstance(sizes[0], (tuple, list)) else sizes
        floating = (dtype or self.dtype).is_floating_point
        return self.new_full(shape, float("nan") if floating else -1, dtype=dtype)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    assert_measures(device, x, weight, geometry, layer(x, weight, **geometry) if branch == "bins" else None)
    assert made


# ---- how the work is cut ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("branch", "name"), [("bins", "batch of 3"), ("pointwise", "stride 3, kernel 1")])
def test_images_in_chunks_and_bins_in_parts(device, force, monkeypatch, branch, name):
    force(branch)
    x, weight, geometry = operands(name, torch.float32)
    given = {"output": layer(x, weight, **geometry) if branch == "bins" else None, **geometry}
    at_once = measured(device, x, weight, **given)
    assert torch.equal(measured(device, x, weight, **given), at_once)
    monkeypatch.setattr(kernels, "images_at_once", lambda layer, t: 2)
    monkeypatch.setattr(plan, "PROGRAMS", 6)
    in_pieces = measured(device, x, weight, **given)
    assert_close(in_pieces, at_once, torch.float32)
    assert_close(in_pieces, expected_aliasing(x, weight, **geometry), torch.float32)


@pytest.mark.parametrize("branch", BRANCHES)
def test_offsets_of_64_bits(device, force, monkeypatch, branch):
    force(branch)
    monkeypatch.setattr(kernels, "wide", lambda *args: True)
    x, weight, geometry = operands("kernel 1" if branch == "pointwise" else "kernel 3", torch.float32)
    assert_measures(device, x, weight, geometry, layer(x, weight, **geometry) if branch == "bins" else None)


# ---- as an op --------------------------------------------------------------------------------------------------------


def test_gradients(device):
    x, weight, geometry = operands("padding 1", torch.float32)
    exact = x.double().requires_grad_(), weight.double().requires_grad_()
    leaves = x.to(device).requires_grad_(), weight.to(device).requires_grad_()
    expected = torch.autograd.grad(expected_aliasing(*exact, **geometry).sum(), exact)
    actual = torch.autograd.grad(alias_ops.conv2d_aliasing(*leaves, **geometry, reduction="sum"), leaves)
    for gradient, expected_gradient in zip(actual, expected, strict=True):
        assert_close(gradient.cpu(), expected_gradient, torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [1, 3])
def test_more_than_2_to_the_31_samples(kernel):
    images = 2**31 // (64 * 32 * 32) + 130
    x = torch.randn(images, 64, 32, 32, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(16, 64, kernel, kernel, device="cuda", dtype=torch.bfloat16)
    with alias_ops.backend("triton"):
        whole = alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2, reduction="none")
        last = alias_ops.conv2d_aliasing(x[-64:].clone(), weight, padding=kernel // 2, reduction="none")
    assert_close(whole[-64:].cpu(), last.cpu(), torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [1, 3])
def test_graphs_and_streams(kernel):
    x, other = (torch.randn(64, 32, 28, 28, device="cuda") for _ in range(2))
    weight = torch.randn(48, 32, kernel, kernel, device="cuda")

    def measure(x):
        return alias_ops.conv2d_aliasing(x, weight, padding=kernel // 2, reduction="none")

    with alias_ops.backend("triton"):
        expected, expected_other = measure(x), measure(other)
        torch.cuda.synchronize()
        graph, result = captured(lambda: measure(x))
        graph.replay()
        streams = [torch.cuda.Stream() for _ in range(4)]
        others = []
        for stream in streams:
            with torch.cuda.stream(stream):
                others.append(measure(other))
        torch.cuda.synchronize()
        assert torch.equal(result, expected)
        assert all(torch.equal(each, expected_other) for each in others)
        x.copy_(other)
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(result, expected_other)


@pytest.mark.gpu
def test_compiles_whole_with_dynamic_batches():
    weight = torch.randn(48, 32, 3, 3, device="cuda")
    with alias_ops.backend("triton"):
        compiled = torch.compile(
            lambda x: alias_ops.conv2d_aliasing(x, weight, padding=1), fullgraph=True, dynamic=True
        )
        for batch in (3, 8, 70):
            x = torch.randn(batch, 32, 28, 28, device="cuda")
            assert torch.equal(compiled(x), alias_ops.conv2d_aliasing(x, weight, padding=1))
