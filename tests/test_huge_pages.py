"""Large results are asked for in huge pages, and nothing beside them is."""

import sys
from pathlib import Path

import pytest
from helpers import run_python

from alias_ops import _backend

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = [
    pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"]),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux lends them"),
]

# What /proc says of the memory between two addresses: kB in huge pages, and whether huge pages were asked for.
CODE = """
import re, sys, torch, alias_ops
from pathlib import Path

def lent(t):
    first, last, total, advised = t.data_ptr(), t.data_ptr() + t.nbytes, 0, []
    for area in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text())[1:]:
        start, end = (int(a, 16) for a in area.split(" ")[0].split("-"))
        if start < last and end > first:
            total += int(re.search(r"AnonHugePages: +(\\d+)", area)[1])
            if " hg" in re.search(r"VmFlags:(.*)", area)[1]:
                advised.append((start, end))
    return total, advised

x = torch.randn(16, 64, 112, 112, requires_grad=True)
y = alias_ops.flc_pool2d(x)
(dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
for t in (y, dx):
    total, advised = lent(t)
    within = all(t.data_ptr() <= start and end <= t.data_ptr() + t.nbytes for start, end in advised)
    print(t.nbytes >> 10, total, within, len(advised))
print(torch.equal(y[:1, :1], alias_ops.flc_pool2d(x[:1, :1])))
"""


def measured(**environment):
    process = run_python(CODE, 120, **environment)
    assert process.returncode == 0, process.stderr
    *rows, same = process.stdout.split("\n")[:-1]
    assert same == "True"
    return [[int(v) if v.isdigit() else v == "True" for v in row.split()] for row in rows]


@pytest.mark.skipif(not SWITCH.exists() or "[never]" in SWITCH.read_text(), reason="the system lends none")
def test_results_and_gradients_lie_in_huge_pages():
    for size, huge, within, areas in measured():
        assert areas >= 1
        assert within
        assert huge >= size - 2 * 2048  # all but the two ends


@pytest.mark.skipif(not SWITCH.exists() or "[always]" in SWITCH.read_text(), reason="the system lends them to all")
def test_the_switch_keeps_the_pages_small():
    assert [row[1:] for row in measured(ALIAS_OPS_HUGE_PAGES="0")] == [[0, True, 0]] * 2
