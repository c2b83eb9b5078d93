"""``separable2d`` and the poolings by their Triton kernels, interpreted where there is no GPU, against float64."""

import pytest
import torch
from helpers import ALL_POOLS, LAYOUTS, assert_close, golden, pool2d, randn, reference_pool2d
from kernels import DTYPES, assert_gradient, configuration, laid_out, module, poisoned

import alias_ops
from alias_ops import designs
from alias_ops.ops import separable2d

DOUBLE = torch.float64
OP = torch.ops.alias_ops.separable2d.default

# One product of whole maps; tiles that cover a map, or several blocks of rows; split columns; sides of 1.
SIZES = [
    *[(n, n) for n in (1, 2, 7, 8, 14, 16, 17, 28, 33, 68)],
    *[(1, 17), (19, 1), (3, 40), (40, 3), (14, 30), (130, 5), (3, 132)],
]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
terms = pytest.mark.parametrize("terms", [1, 2])


def definition(x, left, right):
    return torch.einsum("tmh,...hw,tnw->...mn", left.double(), x.double(), right.double())


def dense_factors(count, outputs, size, device="cpu"):
    (m, n), (h, w) = outputs, size
    return randn(count, m, h, seed=1).to(device), randn(count, n, w, seed=2).to(device)


def check_pooling(x, stride=2, pool="flc", variant="centered"):
    """Forward and gradient against the reference in float64."""
    y = pool2d(pool, x, stride, variant)
    assert y.dtype == x.dtype
    assert_close(y.cpu(), reference_pool2d(pool, x, stride, variant).cpu(), x.dtype)
    assert_gradient(x, y, lambda exact: reference_pool2d(pool, exact, stride, variant), x.dtype)
    return y


def maps(*shape, dtype=torch.float32, device="cpu", seed=0):
    return randn(*shape, dtype=dtype, seed=seed).to(device).requires_grad_()


# ---- sizes, dtypes, factors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes(triton_backend, size):
    check_pooling(maps(2, *size, device=triton_backend))


@dtypes
@pytest.mark.parametrize("size", [(7, 7), (20, 18), (18, 68)], ids=str)
def test_dtypes(triton_backend, size, dtype):
    check_pooling(maps(1, 2, *size, dtype=dtype, device=triton_backend), pool="asap")


@pytest.mark.parametrize("stride", [1, 3, (1, 2), 5], ids=str)
@pytest.mark.parametrize("size", [(7, 10), (33, 18)], ids=str)
def test_strides(triton_backend, size, stride):
    check_pooling(maps(2, *size, device=triton_backend), stride, "asap")


@pytest.mark.parametrize(("pool", "variant"), ALL_POOLS)
@pytest.mark.parametrize("size", [(6, 6), (30, 18)], ids=str)
def test_variants(triton_backend, pool, variant, size):
    check_pooling(maps(3, *size, device=triton_backend), 2, pool, variant)


@terms
@pytest.mark.parametrize(
    ("outputs", "size"), [((1, 1), (1, 1)), ((5, 3), (4, 9)), ((17, 30), (18, 17)), ((70, 20), (40, 33))], ids=str
)
def test_factors_without_structure(triton_backend, outputs, size, terms):
    x = maps(3, *size, device=triton_backend)
    factors = dense_factors(terms, outputs, size, triton_backend)
    y = separable2d(x, *factors)
    assert_close(y.cpu(), definition(x, *factors).cpu(), torch.float32)
    assert_gradient(x, y, lambda exact: definition(exact, *factors), torch.float32)


@pytest.mark.parametrize("broken", ["left", "right"])
@pytest.mark.parametrize("size", [8, 20, 68])
def test_factors_that_are_split_or_of_rank_one_but_for_one_number(triton_backend, size, broken):
    pristine = designs.pooling_factors("flc", size, size)
    x = maps(2, size, size, device=triton_backend)
    for term in range(pristine[0].shape[0]):
        factors = [factor.to(triton_backend, copy=True) for factor in pristine]
        factors[broken == "right"][term, size // 2 - 1, size - 2] += 1e-3
        assert_close(separable2d(x, *factors).cpu(), definition(x, *factors).cpu(), torch.float32)


@pytest.mark.parametrize(
    ("size", "kernel", "outer"),
    [(14, "small", False), (28, "tiled", True), (30, "tiled", False), (68, "split", True), (112, "split", True)],
)
def test_plans_find_the_structure_of_poolings(size, kernel, outer):
    """In factors of either precision; without it every even size would pay for a second pair of products."""
    plan = module("separable2d_plan").plan
    for dtype in (torch.float32, DOUBLE):
        left, right = designs.pooling_factors("asap", size, size, dtype=dtype)
        for adjoint in (False, True):
            arrays = left.double().numpy(), right.double().numpy()
            made = plan(*arrays, adjoint, torch.finfo(dtype).eps, True, torch.device("cpu"))
            assert (made.kind, made.outer is not None) == (kernel, outer)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("size", [14, 20, 68])
def test_results_are_proportional_to_the_map(triton_backend, size, scale):
    """float16 pieces have no range of their own."""
    x = (randn(3, size, size, dtype=torch.float32) * scale).to(triton_backend)
    assert_close(alias_ops.flc_pool2d(x).cpu(), reference_pool2d("flc", x).cpu(), torch.float32)


@pytest.mark.parametrize("size", [14, 20, 68])
def test_maps_of_very_different_size_do_not_share_a_scale(triton_backend, size):
    x = (randn(4, size, size) * torch.tensor([1e-20, 1.0, 1e20, 1e-3])[:, None, None]).float().to(triton_backend)
    y = alias_ops.flc_pool2d(x)
    for one, expected in zip(y, reference_pool2d("flc", x)):
        assert_close(one.cpu(), expected.cpu(), torch.float32)


def test_factors_of_any_magnitude(triton_backend):
    for height in (6, 20):
        x = maps(3, height, 18, device=triton_backend)
        left, right = dense_factors(1, (5, 7), (height, 18), triton_backend)
        for a, b in ((1e-12, 1e15), (1e12, 1e-3), (0.0, 1.0)):
            assert_close(separable2d(x, left * a, right * b).cpu(), definition(x, left * a, right * b).cpu(), x.dtype)


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("size", "kernel"), [((9, 12), "small"), ((20, 33), "tiled"), ((18, 68), "split")], ids=str)
def test_every_configuration(triton_backend, monkeypatch, size, kernel, layout, place):
    with configuration(monkeypatch, module("separable2d"), place) as names:
        x = laid_out(layout, 2, 5, *size, dtype=torch.float32, device=triton_backend).requires_grad_()
        check_pooling(x)
    expected = "tiled" if kernel == "split" and layout == "channels_last" else kernel
    assert f"separable2d_{expected}" in names


def test_offsets_of_64_bits(triton_backend, monkeypatch):
    for name in ("separable2d", "_maps"):
        monkeypatch.setattr(module(name), "needs_wide_offsets", lambda *tensors: True)
    for size in (9, 20, 68):
        check_pooling(maps(2, 2, size, size, device=triton_backend))


def test_one_product_where_tf32_is_allowed(triton_backend, monkeypatch):
    monkeypatch.setattr(module("_precision"), "tf32_allowed", lambda device_type: True)
    x = maps(4, 20, 20, device=triton_backend)
    y, expected = alias_ops.flc_pool2d(x), reference_pool2d("flc", x)
    error = ((y.double() - expected).norm() / expected.norm()).item()
    assert 2e-6 < error < 1e-3


def test_pytorchs_switches_are_what_allows_tf32(monkeypatch):
    precision = module("_precision")
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        for allowed in (True, False):
            matmul.allow_tf32 = allowed
            assert precision.tf32_allowed("cuda") is allowed
            assert not precision.tf32_allowed("cpu")
    finally:
        matmul.allow_tf32 = before
    half = torch.empty(1, dtype=torch.bfloat16), torch.empty(1, dtype=torch.float16)
    assert [precision.products(t) for t in half] == [1, 1]


def test_float64_takes_the_pytorch_form(triton_backend):
    x = randn(3, 14, 14).to(triton_backend)
    assert_close(alias_ops.flc_pool2d(x).cpu(), reference_pool2d("flc", x).cpu(), DOUBLE)


# ---- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 20, 17), (3, 5, 1, 17)], ids=str)
def test_layouts(triton_backend, layout, shape):
    x = laid_out(layout, *shape, dtype=torch.float32, device=triton_backend)
    before = x.clone()
    y = alias_ops.asap_pool2d(x)
    assert_close(y.cpu(), reference_pool2d("asap", before).cpu(), torch.float32)
    assert torch.equal(x, before)
    (dx,) = torch.autograd.grad(alias_ops.asap_pool2d(x.requires_grad_()), x, dy := torch.randn_like(y))
    exact = before.double().requires_grad_()
    (expected,) = torch.autograd.grad(reference_pool2d("asap", exact), exact, dy.double())
    assert_close(dx.cpu(), expected.cpu(), torch.float32)


@dtypes
@pytest.mark.parametrize("channels", [1, 3, 17])
@pytest.mark.parametrize("size", [(7, 7), (18, 17)], ids=str)
def test_channels_last_comes_back_channels_last(triton_backend, channels, size, dtype):
    x = laid_out("channels_last", 1, channels, *size, dtype=dtype, device=triton_backend).requires_grad_()
    y = check_pooling(x)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["contiguous", "transposed maps", "expanded batch"])
def test_gradients_of_any_layout_of_the_output_gradient(triton_backend, layout):
    x = maps(3, 5, 19, 19, device=triton_backend)
    dy = laid_out(layout, 3, 5, 10, 10, dtype=torch.float32, device=triton_backend)
    (dx,) = torch.autograd.grad(alias_ops.flc_pool2d(x), x, dy)
    exact = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(reference_pool2d("flc", exact), exact, dy.double())
    assert_close(dx.cpu(), expected.cpu(), torch.float32)


@pytest.mark.parametrize("leading", [(), (1,), (2, 3, 2), (2, 1, 2, 3), (0,), (3, 0), (2, 0, 4)], ids=str)
def test_leading_dimensions(triton_backend, leading):
    x = maps(*leading, 9, 14, device=triton_backend)
    y = alias_ops.asap_pool2d(x)
    assert y.shape == (*leading, 5, 7)
    if y.numel():
        assert_close(y.cpu(), reference_pool2d("asap", x).cpu(), torch.float32)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == x.shape


def test_leading_dimensions_that_no_strides_can_merge(triton_backend):
    x = randn(3, 2, 4, 2, 9, 9, dtype=torch.float32).to(triton_backend).permute(2, 0, 3, 1, 5, 4)
    assert_close(alias_ops.flc_pool2d(x).cpu(), reference_pool2d("flc", x).cpu(), torch.float32)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", [(9, 9), (18, 33), (17, 68)], ids=str)
def test_outputs_are_written_whole_and_nothing_beside_them(triton_backend, size, layout):
    launch = module("separable2d").separable2d
    for dtype in DTYPES:
        x = laid_out(layout, 1, 3, *size, dtype=dtype, device=triton_backend)
        left, right = designs.pooling_factors("flc", *size, device=triton_backend, dtype=torch.float32)
        for adjoint in (False, True):
            source = x if not adjoint else x[..., : left.shape[1], : right.shape[1]]
            shape = (1, 3, *size) if adjoint else (1, 3, left.shape[1], right.shape[1])
            out, untouched = poisoned(shape, dtype, triton_backend, layout)
            launch(source, left, right, adjoint, out=out)
            factors = (left.mT, right.mT) if adjoint else (left, right)
            assert_close(out.cpu(), definition(source, *factors).cpu(), dtype)
            assert untouched()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's NumPy
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_stay_in_their_map(triton_backend, value, dtype):
    for size in (2, 16, 20, 68):
        x = randn(4, size, size, dtype=dtype).to(triton_backend)
        clean = alias_ops.flc_pool2d(x)
        for bad in (0, 3):
            x[bad, size // 2, -1] = value
        y = alias_ops.flc_pool2d(x)
        assert not y[0].isfinite().all()
        assert not y[3].isfinite().all()
        assert torch.equal(y[1:3], clean[1:3])


# ---- what the op promises --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed maps"])
@pytest.mark.parametrize(("shape", "outputs"), [((2, 3, 8, 6), (4, 3)), ((1, 2, 20, 17), (10, 9))], ids=str)
def test_opcheck(triton_backend, layout, shape, outputs):
    x = laid_out(layout, *shape, dtype=torch.float32, device=triton_backend).requires_grad_()
    torch.library.opcheck(OP, (x, *dense_factors(2, outputs, shape[-2:], triton_backend)))


@pytest.mark.parametrize("size", [7, 20])
def test_second_derivatives(triton_backend, size):
    x = maps(2, size, size, device=triton_backend)

    def second(pool, t):
        (dx,) = torch.autograd.grad(pool(t).pow(3).sum(), t, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), t)[0]

    actual = second(alias_ops.asap_pool2d, x)
    expected = second(lambda t: reference_pool2d("asap", t), x.detach().double().requires_grad_())
    assert_close(actual.cpu(), expected.cpu(), torch.float32)


def test_vmap_and_its_gradient(triton_backend):
    x = maps(3, 4, 10, 6, device=triton_backend)
    mapped, whole = torch.func.vmap(alias_ops.flc_pool2d)(x), alias_ops.flc_pool2d(x)
    assert torch.equal(mapped, whole)
    gradients = [torch.autograd.grad(y.pow(2).sum(), x)[0] for y in (mapped, whole)]
    assert_close(*gradients, torch.float32)


def test_compiled_graphs_hold_the_op(triton_backend):
    graphs = []

    def spy(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compiler.reset()
    compiled = torch.compile(alias_ops.flc_pool2d, backend=spy, fullgraph=True, dynamic=True)
    for batch in (7, 11):  # unlike any size of the design, see test_transforms
        x = randn(batch, 1, 10, 12, dtype=torch.float32).to(triton_backend)
        assert torch.equal(compiled(x), alias_ops.flc_pool2d(x))
    assert all("torch.ops.alias_ops.separable2d" in code for code in graphs)
    assert graphs
    torch.compiler.reset()


@pytest.mark.parametrize("archive", ["upstream_pooling_public.npz", "centered_pooling_public.npz"])
def test_golden_vectors(triton_backend, archive):
    """Each case in float32, where its rounded input is the input."""
    vectors = golden(archive)
    names = {"flc": ("flc", "upstream"), "asap": ("asap", "upstream")}
    checked = 0
    for case in sorted({key.split(".")[0] for key in vectors}):
        x = torch.from_numpy(vectors[f"{case}.x"]).float().to(triton_backend)
        stride = int(vectors[f"{case}.stride"]) if f"{case}.stride" in vectors else 2
        for name, (pool, variant) in names.items():
            if f"{case}.{name}.y" not in vectors:
                continue
            variant = variant if "upstream" in archive else "centered"
            y = pool2d(pool, x, stride, variant)
            expected = torch.from_numpy(vectors[f"{case}.{name}.y"])
            # The vectors' inputs have digits that float32 drops; what that moves is within its tolerance.
            assert_close(y.cpu(), expected, torch.float32)
            checked += 1
    assert checked >= 12


# ---- what is remembered ----------------------------------------------------------------------------------------------


def test_factors_are_constants_by_value_not_by_place(triton_backend):
    x = maps(4, 6, 20, device=triton_backend)
    left, right = dense_factors(2, (3, 5), (6, 20), triton_backend)
    for factor, position in ((left, (-1, 2, 5)), (right, (0, 0, 0))):
        assert_close(separable2d(x, left, right).cpu(), definition(x, left, right).cpu(), torch.float32)
        factor[position] += 1
        assert_close(separable2d(x, left, right).cpu(), definition(x, left, right).cpu(), torch.float32)
        assert_close(separable2d(x.mT, right, left).cpu(), definition(x.mT, right, left).cpu(), torch.float32)


def test_tables_are_made_once_for_the_same_factors(triton_backend, monkeypatch):
    launcher = module("separable2d")
    made = []

    def plan(*arguments):
        made.append(arguments)
        return original(*arguments)

    original = launcher.plan
    monkeypatch.setattr(launcher, "plan", plan)
    x = maps(2, 11, 23, device=triton_backend)
    left, right = dense_factors(1, (5, 7), (11, 23), triton_backend)
    for _ in range(3):
        y = separable2d(x, left, right)
        torch.autograd.grad(y.sum(), x)
        separable2d(y.detach(), left.mT, right.mT)  # as a compiled graph's gradient asks for it
    assert len(made) == 3  # forward, adjoint, and the same by transposed views


def test_tables_of_freed_factors_are_not_taken_for_others(triton_backend):
    x = maps(2, 6, 20, device=triton_backend)
    for seed in range(20):
        left, right = randn(1, 3, 6, seed=seed).to(triton_backend), randn(1, 5, 20, seed=seed).to(triton_backend)
        assert_close(separable2d(x, left, right).cpu(), definition(x, left, right).cpu(), torch.float32)


def test_what_is_remembered_is_bounded(monkeypatch):
    tables = module("_tables")
    monkeypatch.setattr(tables, "REMEMBERED", 4)
    for i in range(20):
        assert tables.prepared(lambda n: n, i) == i
    assert len(tables._made) <= 4


def test_a_first_call_inside_a_graph_capture_says_what_to_do(triton_backend, monkeypatch):
    x = maps(2, 13, 22, device=triton_backend)
    left, right = dense_factors(1, (5, 7), (13, 22), triton_backend)
    monkeypatch.setattr(module("_tables"), "capturing", lambda: True)
    with pytest.raises(RuntimeError, match="call the function once on the same sizes before capturing"):
        separable2d(x, left, right)
    monkeypatch.undo()
    with alias_ops.backend("triton"):
        separable2d(x, left, right)
        monkeypatch.setattr(module("_tables"), "capturing", lambda: True)
        separable2d(x, left, right)
