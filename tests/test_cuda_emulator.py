"""The emulator that CUDA C++ kernels are tested with: what is right passes, every kind of fault is seen."""

import numpy as np
import pytest
import torch
from cuda_kernels import emulated, message_of, parsed, pointer
from helpers import randn

PRECISIONS = {"3xTF32": 3e-7, "TF32": 1e-3, "bfloat16": 8e-3, "float16": 1e-3}
FAULTS = {
    "no wait": None,  # reads what is not there yet: NaN
    "no barrier": "race in shared memory",
    "one lane leaves": "threads wait for others that never come",
    "not written": "4 bytes of output not written",
    "beyond shared": "shared memory of 1024 bytes accessed at 1024 by thread 63",
    "beyond global": "read of 4 bytes outside of every tensor",
    "written twice": "output written twice",
}
# Of blocks that read each other's shared memory: each message is one of these, whichever block is seen first.
CLUSTER_FAULTS = {
    "no barrier before": ("race in shared memory",),
    "no barrier behind": ("a block leaves while another one reads of it", "shared memory of a block that has left"),
    "overwritten": ("race in shared memory",),
    "no such block": ("no block 4 in the cluster",),
    "beyond theirs": ("shared memory of 64 bytes accessed at 64",),
    "one block leaves": ("threads wait for others that never come",),
}


def product(precision: int, fault: int) -> tuple[str, torch.Tensor, torch.Tensor]:
    a, b = randn(16, 16).float(), randn(16, 8, seed=1).float()
    y = torch.full((16, 8), torch.nan)
    message = message_of(emulated("selftest.cpp").run_product, *map(pointer, (a, b, y)), precision, fault)
    return message, y, a.double() @ b.double()


def error(y: torch.Tensor, expected: torch.Tensor) -> float:
    return ((y.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("precision", range(4), ids=PRECISIONS)
def test_a_product_of_every_precision(precision):
    message, y, expected = product(precision, 0)
    assert message == ""
    assert error(y, expected) < list(PRECISIONS.values())[precision]
    if precision > 0:  # and no more than that: the operands really were rounded
        assert error(y, expected) > list(PRECISIONS.values())[precision] / 50


@pytest.mark.parametrize("fault", range(1, 8), ids=FAULTS)
def test_every_fault_is_seen(fault):
    message, y, _ = product(0, fault)
    expected = list(FAULTS.values())[fault - 1]
    if expected is None:
        assert y.isnan().all()
    else:
        assert message.startswith(expected)


def passed_on(blocks: int, fault: int) -> tuple[str, torch.Tensor, torch.Tensor]:
    x = randn(blocks, 16).float()
    y = torch.full_like(x, torch.nan)
    return message_of(emulated("selftest.cpp").run_cluster, *map(pointer, (x, y)), blocks, fault), x, y


def test_blocks_of_a_cluster_read_each_other():
    message, x, y = passed_on(8, 0)
    assert message == ""
    assert torch.equal(y.view(2, 4, 16), 2 * x.view(2, 4, 16).roll(-1, 1))


@pytest.mark.parametrize("fault", range(1, len(CLUSTER_FAULTS) + 1), ids=CLUSTER_FAULTS)
def test_every_fault_of_a_cluster_is_seen(fault):
    message, _, _ = passed_on(4, fault)
    assert message.startswith(list(CLUSTER_FAULTS.values())[fault - 1])


def test_a_grid_is_whole_clusters():
    message, _, _ = passed_on(6, 0)
    assert message == "a grid must be whole clusters, got 6"


@pytest.mark.parametrize("half", [0, 1], ids=["bfloat16", "float16"])
def test_tiles_and_shuffles(half):
    a, b, y = randn(16, 16).float(), randn(16, 8, seed=1).float(), torch.full((16, 8), torch.nan)
    assert message_of(emulated("selftest.cpp").run_tiles, *map(pointer, (a, b, y)), half) == ""
    dtype = torch.float16 if half else torch.bfloat16
    expected = a.to(dtype).double() @ b.to(dtype).double()
    assert error(y, expected) < 1e-6


def test_conversions_are_those_of_pytorch():
    values = torch.from_numpy(np.arange(0, 2**32, 65521, dtype=np.uint64).astype(np.uint32).view(np.float32))
    edges = torch.tensor([65504.0, 65519.9, 65520.0, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-25, 0.0, -0.0, 3.4e38])
    values = torch.cat([values, edges])
    bfloat16s, halves = (torch.empty(len(values), dtype=torch.int16) for _ in range(2))
    back = torch.empty(len(values))
    emulated("selftest.cpp").convert(pointer(values), len(values), *map(pointer, (bfloat16s, halves, back)))
    for dtype, bits in ((torch.bfloat16, bfloat16s), (torch.float16, halves)):
        torch.testing.assert_close(bits.view(dtype), values.to(dtype), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(back, values.half().float(), rtol=0, atol=0, equal_nan=True)


def test_what_ptxas_says_is_read():
    log = (
        "ptxas info : Compiling entry function '_Z1kv' for 'sm_90'\n"
        "ptxas info : Function properties for _Z1kv\n"
        "    16 bytes stack frame, 24 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info : Used 255 registers, used 1 barriers, 16 bytes stack, 1024 bytes smem\n"
    )
    assert parsed(log) == [("_Z1kv", 255, 16, 32, 1024)]
