"""Fixtures: the backends that can run here, each in turn; the number of threads.

Without a GPU the Triton kernels are interpreted. Triton looks at the environment when it is imported, so it is said
here, before anything imports it; tests that compile kernels do so in processes of their own.
"""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

import alias_ops
from alias_ops import _backend

# Maps here are tiny: a second thread costs more than it brings, ten times as much beside other busy processes.
# Tests that are about threads ask for the fixture.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Tests of the Triton kernels are tests of the GPU where there is one; slow ones run if asked for by name."""
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))
    else:
        for item in items:
            if "triton_backend" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.gpu)


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    """Every test that asks for it runs once per implementation of the ops; yields the name."""
    reason = _backend.availability()[request.param]
    if reason:
        pytest.skip(reason)
    with alias_ops.backend(request.param):
        yield request.param


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """For the Triton kernels of conv2d_alias_l1: yields the device, with float32-grade products whatever PyTorch
    allows by default.
    """
    reason = _backend.availability(request.param)["triton"]
    if reason:
        pytest.skip(reason)
    if request.param == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    else:
        # As many programs as there are tiles: the interpreter runs them one after the other.
        monkeypatch.setattr("alias_ops.kernels.conv2d_alias_l1_plan.PROGRAMS", 2)
    with alias_ops.backend("triton"):
        yield request.param


@pytest.fixture
def triton_backend():
    """The Triton kernels: on the GPU if there is one, else interpreted. Yields the device for tensors."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reason = _backend.availability(device)["triton"]
    if reason:
        pytest.skip(reason)
    with alias_ops.backend("triton"):
        yield device


@pytest.fixture
def threads():
    """``torch.set_num_threads``, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
