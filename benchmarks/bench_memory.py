"""Peak memory of one call beyond its input, in a process of its own."""

import ctypes
import multiprocessing
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import alias_ops
from alias_ops import reference

from . import peers
from .allocator import give_back_at_once
from .cases import CONV_ROWS, POOL_BARS


def _peak() -> int:
    """Most bytes ever resident since the mark was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def _measured(call, batch, pipe) -> None:
    """Of a call after one with a single image, which pays for caches, thread pools and libraries that stay.

    What that one has freed goes back to the system, or the second would find it resident already; a thread's own
    working memory stays, but for a single image it is small.
    """
    give_back_at_once()
    call(1)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    kept = call(batch)
    results = kept if isinstance(kept, tuple) else () if kept is None else (kept,)
    pipe.send((_peak() - before, sum(t.untyped_storage().nbytes() for t in results)))


def extra(call, batch) -> dict[str, int]:
    """Bytes that a call with ``batch`` images takes beyond what lives before it: all, and those that are its result.

    Resident memory, because PyTorch reports no allocations on the CPU. Forked, so that what a call leaves
    behind in the allocator is not there for the next one.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(call, batch, send))
    process.start()
    if not receive.poll(120):
        process.kill()
        raise TimeoutError("the call did not return")
    taken, result = receive.recv()
    process.join()
    return {"peak": taken, "result": result}


# A forked process has none of its parent's threads, which a pool of more than one would wait for.
needs_fork = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak from Linux's /proc")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@needs_fork
@pytest.mark.parametrize("shape", POOL_BARS, ids=lambda shape: "x".join(map(str, shape)))
def test_pooling(settings, one_thread, shape):
    x = torch.randn(shape)
    calls = {
        "alias_ops": alias_ops.flc_pool2d,
        "fft2": reference.flc_pool2d_fft2,
        "rfft2": reference.flc_pool2d_rfft2,
        "matmul": peers.matmul(*shape[2:], "cpu", torch.float32),
        "max_pool2d": peers.max_pool2d,
    }
    memory = {name: extra(lambda n, call=call: call(x[:n]), shape[0]) for name, call in calls.items()}
    settings.memory.append({"op": "flc_pool2d", "shape": list(shape), "input": x.nbytes, "bytes": memory})


@needs_fork
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward+backward"])
@pytest.mark.parametrize("conv", CONV_ROWS, ids=lambda conv: conv.name)
def test_conv(settings, one_thread, conv, backward):
    padding = conv.kernel // 2
    x = torch.randn(conv.batch, conv.channels, conv.size, conv.size)
    weight = torch.randn(conv.outputs, conv.channels, conv.kernel, conv.kernel)
    y = F.conv2d(x, weight, stride=2, padding=padding)
    calls = {
        "alias_ops": lambda x, w: alias_ops.conv2d_aliasing(x, w, padding=padding, output=y[: len(x)]),
        "without output": lambda x, w: alias_ops.conv2d_aliasing(x, w, padding=padding),
        "definition": lambda x, w: reference.conv2d_aliasing(x, w, padding=padding),
        "strided convolution": lambda x, w: F.conv2d(x, w, stride=2, padding=padding),
    }

    def gradients(call, n):
        leaves = x[:n].requires_grad_(), weight.requires_grad_()
        return torch.autograd.grad(call(*leaves).sum(), leaves)

    of = (lambda call: partial(gradients, call)) if backward else (lambda call: lambda n: call(x[:n], weight))
    memory = {name: extra(of(call), conv.batch) for name, call in calls.items()}
    op = "conv2d_aliasing" + ", forward+backward" * backward
    settings.memory.append({"op": op, "layer": conv.name, "input": x.nbytes, "bytes": memory})
