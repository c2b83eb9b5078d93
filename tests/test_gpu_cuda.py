"""The CUDA C++ kernels on a GPU: every side they are made for against float64, and what only a device can show.

Triton's kernels are held to the same in test_gpu.py; calls without a CUDA C++ kernel go to them.
"""

import pytest
import torch
from helpers import assert_close, randn, reference_pool2d
from kernels import captured

import alias_ops
from alias_ops import _backend, reference
from alias_ops.ops.separable2d import apply

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SIDES = (8, 14, 16, 28, 32, 56, 64, 112)
FUNCTIONS = {"flc": alias_ops.flc_pool2d, "asap": alias_ops.asap_pool2d}

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
pools = pytest.mark.parametrize("pool", FUNCTIONS)
sides = pytest.mark.parametrize("side", SIDES)


@pytest.fixture(autouse=True)
def by_cuda():
    reason = _backend.availability("cuda")["cuda"]
    if reason:
        pytest.skip(reason)
    with alias_ops.backend("cuda"):
        yield


@pytest.fixture
def launches():
    """What the kernels' operator answered, call by call."""
    answers = []
    operator = torch.ops.alias_ops._cuda_separable2d.default

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if function is operator:
                answers.append(result)
            return result

    with Spy():
        yield answers


def maps(count, side, dtype=torch.float32, seed=0):
    return randn(count, side, side, dtype=dtype, seed=seed).cuda().requires_grad_()


def check(pool, x):
    y = FUNCTIONS[pool](x)
    exact = x.detach().double().requires_grad_()
    expected = reference_pool2d(pool, exact)
    assert_close(y, expected, x.dtype)
    dy = randn(*y.shape, seed=3).to(y)
    assert_close(torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(expected, exact, dy.double())[0], x.dtype)


@dtypes
@sides
@pools
def test_poolings(launches, pool, side, dtype):
    check(pool, maps(67, side, dtype))
    # Shared memory of chips before 9.0 is too small for the largest maps in float32.
    if torch.cuda.get_device_capability() >= (9, 0) or side < 112 or dtype is not torch.float32:
        assert launches == [True, True]


@pytest.mark.parametrize("count", [1, 2, 3, 15, 16, 17, 31, 32, 33, 129, 4097, 40_001])
@pytest.mark.parametrize("side", [8, 14, 56])
def test_numbers_of_maps(count, side):
    check("asap", maps(count, side))


@dtypes
@pools
@sides
def test_nothing_is_left_of_what_memory_held(pool, side, dtype):
    x = maps(9, side, dtype)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    poison = torch.full((2**26,), torch.nan, device="cuda")
    del poison
    y = FUNCTIONS[pool](x)
    assert y.isfinite().all()
    assert torch.autograd.grad(y, x, torch.ones_like(y))[0].isfinite().all()


@pools
@sides
def test_results_do_not_depend_on_repetition(pool, side):
    x = maps(4096, side)
    y = FUNCTIONS[pool](x)
    assert all(torch.equal(FUNCTIONS[pool](x), y) for _ in range(10))


@pools
@pytest.mark.parametrize("side", [14, 28, 112])
def test_cuda_graphs(pool, side):
    static = maps(32, side).detach().requires_grad_()

    def step():
        y = FUNCTIONS[pool](static)
        return y, torch.autograd.grad(y.sum(), static)[0]

    graph, results = captured(step)
    fresh = maps(32, side, seed=7)
    with torch.no_grad():
        static.copy_(fresh)
    graph.replay()
    y = FUNCTIONS[pool](fresh)
    assert torch.equal(results[0], y)
    assert torch.equal(results[1], torch.autograd.grad(y.sum(), fresh)[0])


@pools
def test_streams(pool):
    expected = [FUNCTIONS[pool](maps(4096, 56, seed=seed)) for seed in range(2)]
    sources = [maps(4096, 56, seed=seed).detach() for seed in range(2)]
    torch.cuda.synchronize()
    results = []
    for source in sources:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(2_000_000)
            results.append(FUNCTIONS[pool](source * 1))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pools
def test_devices_other_than_the_current_one(pool):
    x = maps(32, 28).detach().to("cuda:1")
    assert_close(FUNCTIONS[pool](x).cpu(), FUNCTIONS[pool](x.to("cuda:0")).cpu(), x.dtype)


def test_calls_that_triton_takes(launches):
    x = randn(2, 3, 28, 30).float().cuda()
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)
    x = randn(2, 8, 28, 28).float().cuda().to(memory_format=torch.channels_last)
    assert_close(alias_ops.flc_pool2d(x), reference_pool2d("flc", x), x.dtype)
    left, right = (randn(2, 14, 28, seed=seed).float().cuda() for seed in (1, 2))
    x = randn(3, 28, 28).float().cuda()
    expected = sum(a @ x.double() @ b.mT for a, b in zip(left.double(), right.double()))
    assert_close(apply(x, left, right), expected, x.dtype)
    assert launches == []


def test_tf32_is_taken_where_it_is_allowed():
    x = maps(64, 28)
    exact = reference_pool2d("flc", x)
    before = torch.backends.cuda.matmul.allow_tf32
    errors = []
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            errors.append(((alias_ops.flc_pool2d(x).double() - exact).norm() / exact.norm()).item())
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert errors[0] <= 2e-6 < errors[1] < 1e-3


# ---- conv2d_alias_l1 -------------------------------------------------------------------------------------------------

# images, input and output channels, size, kernel, groups: every way to cut a map
LAYERS = [
    (5, 20, 130, 32, 3, 1),
    (9, 34, 20, 16, 3, 2),
    (19, 18, 9, 8, 3, 1),
    (3, 40, 20, 28, 5, 1),
    (3, 40, 20, 14, 7, 1),
    (3, 20, 20, 32, 1, 1),
    (3, 20, 20, 56, 3, 1),
    (3, 20, 20, (17, 34), 3, 1),
    (3, 20, 140, (34, 38), 3, 1),
    (3, 20, 20, (66, 40), 3, 1),
    (2, 20, 20, 112, 3, 1),
    (2, 3, 20, 224, 7, 1),
]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@dtypes
def test_convolutions(dtype, layer, layout):
    images, channels, outputs, size, kernel, groups = layer
    size = size if isinstance(size, tuple) else (size, size)
    x = randn(images, channels, *size, dtype=dtype).cuda().to(memory_format=layout)
    weight = randn(outputs, channels // groups, kernel, kernel, dtype=dtype, seed=1).cuda()
    geometry = {"padding": kernel // 2, "groups": groups}
    expected = reference.conv2d_aliasing(x.double(), weight.double(), **geometry, reduction="none")
    found = alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none")
    assert_close(found.cpu(), expected.cpu(), dtype)
    assert torch.equal(found, alias_ops.conv2d_aliasing(x, weight, **geometry, reduction="none"))


def test_convolutions_reach_the_kernel():
    """Asked itself, it does not hand the call on."""
    from alias_ops.kernels import conv2d_alias_l1_cuda as launcher

    x, weight = torch.randn(2, 3, 16, 16, device="cuda"), torch.randn(4, 3, 3, 3, device="cuda")
    out = torch.full((2, 4), torch.nan, device="cuda")
    assert launcher.conv2d_alias_l1(x, weight, None, None, [], [], (2, 2), (1, 1), (1, 1), 1, out=out)
    expected = reference.conv2d_aliasing(x.double(), weight.double(), padding=1, reduction="none")
    assert_close(out.cpu(), expected.cpu(), torch.float32)


def test_convolutions_in_a_graph():
    x, other = (torch.randn(20, 32, 28, 28, device="cuda") for _ in range(2))
    weight = torch.randn(48, 32, 3, 3, device="cuda")

    def measure(x):
        return alias_ops.conv2d_aliasing(x, weight, padding=1, reduction="none")

    expected = measure(other)
    graph, result = captured(lambda: measure(x))
    x.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(result, expected)
