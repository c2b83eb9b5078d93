"""Fixtures: the backends that can run here, each in turn; the number of threads."""

import pytest
import torch

import alias_ops
from alias_ops import _backend

# Maps here are tiny: a second thread costs more than it brings, ten times as much beside other busy processes.
# Tests that are about threads ask for the fixture.
torch.set_num_threads(1)


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    """Every test that asks for it runs once per implementation of the ops; yields the name."""
    reason = _backend.availability()[request.param]
    if reason:
        pytest.skip(reason)
    with alias_ops.backend(request.param):
        yield request.param


@pytest.fixture
def threads():
    """``torch.set_num_threads``, put back afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
