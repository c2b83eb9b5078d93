"""Working memory that threads keep between calls: bounded, and never read before it is written."""

import sys

import pytest
from helpers import run_python

from alias_ops import _backend

pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])

# glibc fills what it hands out with the complement of the byte: 0x7f7f7f7f is 3.4e38, whose square is infinite.
POISON = {"MALLOC_PERTURB_": str(0x80)}

RESULTS = """
import torch, alias_ops
from alias_ops import reference

torch.manual_seed(0)
LAYERS = (9, 3, 5, 3, 1), (16, 17, 16, 3, 1), (7, 6, 6, 3, 6), (12, 8, 24, 1, 2)
for size, channels, outputs, kernel, groups in LAYERS:
    for form in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(3, channels, size, size).to(memory_format=form).requires_grad_()
        weight = torch.randn(outputs, channels // groups, kernel, kernel, requires_grad=True)
        given = x, weight
        exact = [t.detach().double().requires_grad_() for t in given]
        found = alias_ops.conv2d_aliasing(*given, padding=kernel // 2, groups=groups)
        wanted = reference.conv2d_aliasing(*exact, padding=kernel // 2, groups=groups)
        pairs = [(found, wanted), *zip(torch.autograd.grad(found, given), torch.autograd.grad(wanted, exact))]
        pairs.append((alias_ops.aliasing(x), reference.aliasing(exact[0])))
        pairs.append((alias_ops.flc_pool2d(x), reference.flc_pool2d(exact[0])))
        print(max(float((a - b).norm() / b.norm()) for a, b in pairs))
"""

GROWTH = """
import torch, alias_ops

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

def call(size, channels):
    x = torch.randn(8, channels, size, size)
    weight = torch.randn(channels, channels, 3, 3)
    # With the output given: PyTorch keeps something for every shape of a convolution that it has seen.
    output = torch.randn(8, channels, (size + 1) // 2, (size + 1) // 2)
    alias_ops.conv2d_aliasing(x, weight, padding=1, output=output)
    alias_ops.aliasing(x)

torch.set_num_threads(2)
for size in (64, 65, 63):
    call(size, 64)
before = resident()
for i in range(120):
    call(8 + 2 * (i % 29), 16 * (1 + i % 4))
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's switch")
def test_nothing_is_read_before_it_is_written():
    process = run_python(RESULTS, 120, **POISON)
    assert process.returncode == 0, process.stderr
    errors = [float(line) for line in process.stdout.split()]
    assert len(errors) == 8
    assert max(errors) < 1e-4  # gradients hold D / |D|; what was not written would be infinite


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_sizes_seen():
    process = run_python(GROWTH, 120)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 48  # MB: at most 16 MB kept by each thread, and what malloc holds on to
