"""Threads of any number and any kind, processes forked behind them, workers of a DataLoader, PyTorch's determinism."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers import DTYPES, randn, run_python

import alias_ops
from alias_ops import _backend, designs

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
compiled = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])


def values(seed, size=(14, 13), dtype=torch.float32, form=torch.contiguous_format):
    """Every function of inputs that the arguments decide, and what they are differentiated by."""
    x = randn(3, 6, *size, dtype=dtype, seed=seed).to(memory_format=form).requires_grad_()
    weight = randn(8, 6, 3, 3, dtype=dtype, seed=seed + 1).requires_grad_()
    # Given: what F.conv2d returns is PyTorch's to promise.
    output = randn(3, 8, *((n + 1) // 2 for n in size), dtype=dtype, seed=seed + 2)
    results = [
        alias_ops.flc_pool2d(x),
        alias_ops.asap_pool2d(x, 3),
        alias_ops.aliasing(x, reduction="none"),
        alias_ops.conv2d_aliasing(x, weight, padding=1, output=output, reduction="none"),
        alias_ops.conv2d_aliasing(x, weight[..., :1, :1], output=output, reduction="none"),
    ]
    return results, (x, weight)


def everything(*arguments):
    """Values, and gradients with respect to all that there are."""
    results, leaves = values(*arguments)
    gradients = [torch.autograd.grad(r.sum(), leaves, allow_unused=True) for r in results]
    return [r.detach() for r in results] + [g for pair in gradients for g in pair if g is not None]


def same(found, wanted):
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=str)
def test_results_are_the_same_with_any_number_of_threads(backend, threads, form):
    """Bit by bit but for gradients of convolutions, which PyTorch sums in another order with other threads.

    Those have tests of their own. Changing threads, PyTorch 2.13's backward of strided 1x1 layers crashes besides.
    """
    for dtype in DTYPES if backend == "cpu" else (torch.float32,):
        found = []
        for count in (1, 2, 3, 7):
            threads(count)
            results, (x, _) = values(0, (30, 28), dtype, form)
            found.append([*results, *(torch.autograd.grad(r.sum(), x)[0] for r in results[:3])])
        # PyTorch's products of matrices may differ with the threads: the kernels' promise is the kernels' alone.
        assert backend == "reference" or all(same(other, found[0]) for other in found[1:]), dtype
        for other in found[1:]:
            assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(other, found[0], strict=True))


def clear_designs():
    for name in dir(designs):
        clear = getattr(getattr(designs, name), "cache_clear", None)
        if clear:
            clear()


@pytest.mark.parametrize("sizes", ["same", "different"])
def test_concurrent_first_calls(backend, sizes):
    """Eight threads of Python at once: nothing is prepared yet, in the designs' cache or by the threads themselves."""
    tasks = [(0, (9, 20)) if sizes == "same" else (i, (6 + i % 5, 20 + i % 7)) for i in range(24)]
    wanted = [everything(*task) for task in tasks]
    clear_designs()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda task: everything(*task), tasks))
    assert all(map(same, found, wanted))


def test_deterministic_algorithms(backend):
    wanted = everything(5)
    torch.use_deterministic_algorithms(True)
    try:
        # Under it PyTorch fills fresh tensors with NaN: whatever the kernels did not write would show.
        first, second = everything(5), everything(5)
    finally:
        torch.use_deterministic_algorithms(False)
    assert same(first, wanted)
    assert same(first, second)


# ---- processes -------------------------------------------------------------------------------------------------------

# OpenMP's threads do not survive a fork, and GNU's runtime waits for them for ever: F.max_pool2d hangs in the child of
# a process that has used several threads, and so do these functions, unless the child asks for one thread first.
# A DataLoader does so in its workers.
FORKED = """
import multiprocessing, torch, alias_ops
from test_threads import everything, same

def child(wanted, queue):
    torch.set_num_threads(1)
    queue.put(same(everything(1), wanted))

torch.set_num_threads(1)  # PyTorch's sums are in another order with more
wanted = everything(1)
torch.set_num_threads(4)
alias_ops.flc_pool2d(torch.randn(64, 64, 32, 32))  # by several threads
alias_ops.conv2d_aliasing(torch.randn(8, 64, 32, 32), torch.randn(64, 64, 3, 3))
context = multiprocessing.get_context("fork")
queue = context.SimpleQueue()
children = [context.Process(target=child, args=(wanted, queue)) for _ in range(2)]
for process in children:
    process.start()
for process in children:
    process.join(60)
print([process.exitcode for process in children], queue.get(), queue.get())
torch.set_num_threads(1)
assert same(everything(1), wanted)  # the parent goes on
"""


@linux
def test_fork_after_threads():
    process = run_python(FORKED, OMP_NUM_THREADS="4")
    assert process.stdout == "[0, 0] True True\n", process.stderr


class Pooled(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        x = randn(3, 20 + i, 30, dtype=torch.float32, seed=i)
        return alias_ops.flc_pool2d(x), alias_ops.aliasing(x)


LOADED = """
import torch, alias_ops
from test_threads import Pooled, same

torch.set_num_threads(4)
alone = list(map(Pooled().__getitem__, range(12)))
alias_ops.flc_pool2d(torch.randn(64, 64, 32, 32))  # by several threads
loader = torch.utils.data.DataLoader(Pooled(), batch_size=None, num_workers=2, multiprocessing_context="{}")
print(len(list(loader)), all(map(same, loader, alone)))
"""


@linux
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader(method):
    process = run_python(LOADED.format(method), OMP_NUM_THREADS="4")
    assert process.stdout == "12 True\n", process.stderr


# ---- memory ----------------------------------------------------------------------------------------------------------

CALLS = """
import torch, alias_ops

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

def calls(first, count):
    for i in range(first, first + count):
        size = 4 + i % 47, 4 + i // 47 % 41
        x = torch.ones(1, 2, *size)
        alias_ops.flc_pool2d(x, 2 + i % 3)
        alias_ops.aliasing(x, 2 + i % 3)
        output = torch.ones(1, 1, *((n - 1) // 2 for n in size))
        alias_ops.conv2d_aliasing(x, torch.ones(1, 2, 3, 3), output=output)

calls(0, 500)  # fills the caches, each of at most 128 designs
before = resident()
calls(500, 3400)
print(resident() - before)
"""


@linux
@compiled
def test_memory_does_not_grow_with_ten_thousand_calls():
    """Three functions at 3400 sizes and strides: beyond 128 designs a function, the oldest are let go."""
    process = run_python(CALLS, 300)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 32  # MB: 8 MB of prepared factors a thread and what malloc holds on to
