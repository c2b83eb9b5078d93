"""What the tests of the Triton kernels share: inputs on their device, every configuration in turn, outputs poisoned."""

import importlib
from contextlib import contextmanager

import pytest
import torch
from helpers import LAYOUTS, assert_close

# What the interpreter runs of one dtype it runs of the others; the half types differ in rounding alone.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

gpu = pytest.mark.gpu
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def module(name: str):
    """A module of alias_ops.kernels, or a skip where Triton is missing."""
    pytest.importorskip("triton")
    return importlib.import_module(f"alias_ops.kernels.{name}")


@contextmanager
def configuration(monkeypatch, launcher, place: int):
    """Launch with the candidate at ``place``, the last one if there are fewer; yields the kernels' names."""
    names = []

    def chosen(name, size_class, candidates, run, *rest):
        names.append(name)
        return candidates[min(place, len(candidates) - 1)]

    with monkeypatch.context() as patch:
        patch.setattr(launcher, "chosen", chosen)
        yield names


def poisoned(shape, dtype, device, layout: str = "contiguous"):
    """A tensor of NaN inside a larger one of NaN, and a function that says whether the rest still is NaN."""
    if layout == "channels_last":
        whole = torch.full((shape[0] + 2, *shape[1:]), torch.nan, dtype=dtype, device=device)
        whole = whole.to(memory_format=torch.channels_last)
        return whole[1:-1], lambda: bool(whole[[0, -1]].isnan().all())
    size = 1
    for n in shape:
        size *= n
    whole = torch.full((size + 512,), torch.nan, dtype=dtype, device=device)
    return whole[256:-256].view(shape), lambda: bool(whole[:256].isnan().all() and whole[-256:].isnan().all())


def laid_out(layout: str, *shape: int, dtype, device) -> torch.Tensor:
    """LAYOUTS on any device: moving a tensor there would pack it."""
    x = LAYOUTS[layout](*shape, dtype=dtype)
    if device == "cpu":
        return x
    storage = torch.empty(0, dtype=dtype).set_(x.untyped_storage()).to(device)
    return storage.as_strided(x.shape, x.stride(), x.storage_offset())


def assert_gradient(x, actual, expected_of, dtype):
    """The gradient of ``actual`` with respect to x is that of ``expected_of(x)`` in float64."""
    exact = x.detach().double().requires_grad_()
    dy = torch.randn(actual.shape, generator=torch.Generator().manual_seed(3)).to(actual)
    (dx,) = torch.autograd.grad(actual, x, dy)
    assert dx.dtype == x.dtype
    assert_close(dx.cpu(), torch.autograd.grad(expected_of(exact), exact, dy.double())[0].cpu(), dtype)


def geometry_of(stride=2, padding=0, dilation=1, groups=1):
    """A layer's geometry as the op takes it: pairs (height, width), and the groups."""
    return *(v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation)), groups


def captured(step):
    """A CUDA graph of ``step``, and the results that it writes when it is replayed.

    As PyTorch asks for, it is called on a stream of its own before: kernels are compiled then, and configurations
    measured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    return graph, results
