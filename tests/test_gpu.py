"""The Triton backend on a GPU: the matrix of sizes that the CPU kernels are held to, and what only a device can show.

``pytest -m gpu`` runs these and, where there is a GPU, the tests of each op's kernels as well.
"""

import pytest
import test_alias_l1
import test_separable2d
import torch
from helpers import aliases, assert_close, randn, reference_pool2d, spectrum_l1
from kernels import captured

import alias_ops
from alias_ops import reference

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FORMS = (torch.contiguous_format, torch.channels_last)

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
FUNCTIONS = {"flc": alias_ops.flc_pool2d, "asap": alias_ops.asap_pool2d, "aliasing": alias_ops.aliasing}


@pytest.fixture(autouse=True)
def on_triton():
    with alias_ops.backend("triton"):
        yield


def images(*shape, dtype=torch.float32, form=torch.contiguous_format, device="cuda", seed=0):
    return randn(*shape, dtype=dtype, seed=seed).to(device).to(memory_format=form).requires_grad_()


def differentiated(y, x, seed=3):
    dy = randn(*y.shape, seed=seed).to(y)
    return torch.autograd.grad(y, x, dy)[0], dy


# ---- the matrix ------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("pool", ["flc", "asap"])
@pytest.mark.parametrize("size", [*test_separable2d.SIZES, (224, 224), (256, 200), (300, 520)], ids=str)
def test_poolings(size, pool, form, dtype):
    x = images(3, 5, *size, dtype=dtype, form=form)
    y = FUNCTIONS[pool](x)
    exact = x.detach().double().requires_grad_()
    expected = reference_pool2d(pool, exact)
    assert_close(y, expected, dtype)
    dx, dy = differentiated(y, x)
    assert_close(dx, torch.autograd.grad(expected, exact, dy.double())[0], dtype)


@pytest.mark.parametrize("stride", test_separable2d.STRIDES, ids=str)
@pytest.mark.parametrize("size", [(7, 9), (28, 28), (33, 64), (112, 97)], ids=str)
def test_strides_of_poolings(size, stride):
    x = images(3, 5, *size)
    y = alias_ops.asap_pool2d(x, stride)
    exact = x.detach().double().requires_grad_()
    expected = reference_pool2d("asap", exact, stride)
    assert_close(y, expected, x.dtype)
    dx, dy = differentiated(y, x)
    assert_close(dx, torch.autograd.grad(expected, exact, dy.double())[0], x.dtype)


@dtypes
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("stride", [2, 3, (1, 2)], ids=str)
@pytest.mark.parametrize("size", [*test_alias_l1.SIZES, (224, 224), (300, 500)], ids=str)
def test_aliasing(size, stride, form, dtype):
    x = images(3, 5, *size, dtype=dtype, form=form)
    maps = alias_ops.aliasing(x, stride, reduction="none")
    exact = x.detach().double().requires_grad_()
    expected = reference.aliasing(exact, stride, reduction="none")
    folds = aliases(size, stride)
    assert_close(maps, expected, dtype, scale=None if folds else spectrum_l1(x, stride))
    if folds:
        dx, grad = differentiated(maps, x)
        assert_close(dx, torch.autograd.grad(expected, exact, grad.double())[0], dtype)


# Bins below 16, below 32 and beyond; kernels with and without a frame.
@dtypes
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 2), (3, 3), (7, 2)])
@pytest.mark.parametrize("size", [(14, 14), (32, 32), (33, 64), (56, 56), (130, 97)], ids=str)
def test_gradients_of_convolutions(monkeypatch, size, kernel, stride, form, dtype):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    # As in test_conv2d_alias_l1_backward: no |D| so small that D/|D| magnifies rounding beyond the tolerance.
    leaves = images(2, 8, *size, dtype=dtype, form=form, seed=6), images(6, 8, kernel, kernel, dtype=dtype, seed=106)
    maps = alias_ops.conv2d_aliasing(*leaves, stride=stride, padding=kernel // 2, reduction="none")
    exact = [t.detach().double().requires_grad_() for t in leaves]
    expected = reference.conv2d_aliasing(*exact, stride=stride, padding=kernel // 2, reduction="none")
    assert_close(maps, expected, dtype)
    grad = randn(*maps.shape, seed=5).to(maps)
    for actual, wanted in zip(
        torch.autograd.grad(maps, leaves, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True
    ):
        assert_close(actual, wanted, dtype)


@pytest.mark.parametrize("maps", [1, 2, 3, 15, 16, 17, 63, 64, 65, 129, 4097])
@pytest.mark.parametrize("size", [3, 14, 20])
def test_numbers_of_maps(maps, size):
    x = images(maps, size, size)
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)
    assert_close(alias_ops.aliasing(x, reduction="none"), reference.aliasing(x.double(), reduction="none"), x.dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [14, 28, 56, 112, 224])
def test_results_do_not_depend_on_repetition(name, size):
    x = images(16, 8, size, size)
    y = FUNCTIONS[name](x)
    dx, _ = differentiated(y, x)
    for _ in range(5):
        again = FUNCTIONS[name](x)
        assert torch.equal(again, y)
        assert torch.equal(differentiated(again, x)[0], dx)


# ---- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [14, 28, 112])
def test_more_than_2_to_the_31_samples(size):
    channels = 64
    images_needed = 2**31 // (channels * size * size) + 3
    if torch.cuda.mem_get_info()[0] < 2.2 * images_needed * channels * size * size * 2:
        pytest.skip("not enough memory on this GPU")
    x = torch.zeros(images_needed, channels, size, size, dtype=torch.bfloat16, device="cuda")
    x[-1] = randn(channels, size, size).to(x)
    last = x[-1].double()
    assert_close(alias_ops.flc_pool2d(x)[-1], reference_pool2d("flc", last), x.dtype)
    maps = alias_ops.aliasing(x, reduction="none")
    assert_close(maps[-1], reference.aliasing(last, reduction="none"), x.dtype)
    assert not maps[:-1].any()


def test_a_map_whose_samples_are_2_to_the_31_apart():
    if torch.cuda.mem_get_info()[0] < 10 * 2**30:
        pytest.skip("not enough memory on this GPU")
    whole = torch.empty(20, 2**27, dtype=torch.bfloat16, device="cuda")
    x = whole[:, :18]  # rows 2**27 samples apart: the last lies beyond 2**31
    x.copy_(randn(20, 18))
    assert_close(alias_ops.flc_pool2d(x[None]), reference_pool2d("flc", x[None]), x.dtype)


# ---- how it is called ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [14, 28, 112])
def test_cuda_graphs(name, size):
    static = images(4, 8, size, size).detach().requires_grad_()

    def step():
        y = FUNCTIONS[name](static)
        return y, torch.autograd.grad(y.sum(), static)[0]

    graph, results = captured(step)
    fresh = images(4, 8, size, size, seed=7)
    with torch.no_grad():
        static.copy_(fresh)
    graph.replay()
    y = FUNCTIONS[name](fresh)
    assert torch.equal(results[0], y)
    assert torch.equal(results[1], torch.autograd.grad(y.sum(), fresh)[0])


def test_a_first_call_inside_a_capture_says_what_to_do():
    x = images(2, 3, 21, 23).detach()
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="before capturing"), torch.cuda.graph(graph):
        alias_ops.flc_pool2d(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_streams(name):
    """What a kernel reads is made on its own stream just before, and the default stream is kept busy meanwhile."""
    expected = [FUNCTIONS[name](images(64, 64, 56, 56, seed=seed)) for seed in range(2)]
    sources = [images(64, 64, 56, 56, seed=seed).detach() for seed in range(2)]
    torch.cuda.synchronize()
    busy = torch.randn(4096, 4096, device="cuda")
    results = []
    for source in sources:
        stream = torch.cuda.Stream()
        for _ in range(10):
            busy = busy @ busy * 1e-3
        with torch.cuda.stream(stream):
            torch.cuda._sleep(2_000_000)
            late = source * 1
            results.append(FUNCTIONS[name](late))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_devices_other_than_the_current_one(name):
    x = images(4, 8, 28, 28, device="cuda:1")
    y = FUNCTIONS[name](x)
    assert y.device == x.device
    assert_close(y.cpu(), FUNCTIONS[name](x.detach().to("cuda:0")).cpu(), x.dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_whole_for_any_batch(name):
    torch.compiler.reset()
    compiled = torch.compile(FUNCTIONS[name], fullgraph=True, dynamic=True)
    for batch in (17, 19, 23):  # see test_transforms
        x = images(batch, 8, 28, 28)
        y, expected = compiled(x), FUNCTIONS[name](x)
        assert_close(y, expected, x.dtype)
        assert_close(differentiated(y, x)[0], differentiated(expected, x)[0], x.dtype)
    torch.compiler.reset()


@dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [7, 14, 16, 28, 33, 56, 112, 130])
def test_nothing_is_left_of_what_memory_held(name, size, dtype):
    """The allocator hands out memory full of NaN: what is not written shows, forward and backward."""
    x = images(9, 7, size, size, dtype=dtype)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    poison = torch.full((2**26,), torch.nan, device="cuda")
    del poison
    y = FUNCTIONS[name](x)
    assert y.isfinite().all()
    assert differentiated(y, x)[0].isfinite().all()


def test_tf32_is_taken_where_it_is_allowed():
    x = images(64, 20, 28, 28)
    exact = reference_pool2d("flc", x)
    before = torch.backends.cuda.matmul.allow_tf32
    errors = []
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            errors.append(((alias_ops.flc_pool2d(x).double() - exact).norm() / exact.norm()).item())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert errors[0] <= 2e-6
    assert 2e-6 < errors[1] < 1e-3


def test_configurations_are_measured_once_and_kept(monkeypatch, tmp_path):
    launch = pytest.importorskip("alias_ops.kernels._launch")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(launch.AUTOTUNE, raising=False)
    monkeypatch.setattr(launch, "_choices", {})
    timed = []
    do_bench = launch.triton.testing.do_bench
    monkeypatch.setattr(launch.triton.testing, "do_bench", lambda *a, **k: timed.append(1) or do_bench(*a, **k))
    x = images(512, 64, 28, 28).detach()
    alias_ops.flc_pool2d(x)
    measured = len(timed)
    assert measured >= 2
    alias_ops.flc_pool2d(x[:300])
    monkeypatch.setattr(launch, "_choices", {})
    alias_ops.flc_pool2d(x)
    assert len(timed) == measured
    monkeypatch.setenv(launch.AUTOTUNE, "0")
    alias_ops.flc_pool2d(images(512, 64, 20, 20).detach())
    assert len(timed) == measured
