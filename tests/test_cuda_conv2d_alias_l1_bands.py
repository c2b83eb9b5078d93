"""The one-pass convolution measure of maps that one block does not hold: in bands, by the emulator, against float64.

On sm_90 and later the blocks of a map's bands are a cluster, which keeps the residual on chip; otherwise it goes
through memory and a second kernel.
"""

from types import SimpleNamespace

import pytest
import torch
from cuda_conv2d import DRIVER, assert_measures, expected_of, measured, message_of_launch, operands, prepared
from cuda_kernels import LIMITS, emulated

from alias_ops import _backend
from alias_ops.kernels import conv2d_alias_l1_cuda as launcher
from alias_ops.kernels import conv2d_alias_l1_cuda_tables as packing

# batch, channels, outputs, size, kernel; padding, dilation, groups; blocks of a map
CASES = {
    "28 x 28 outputs": ((1, 2, 34, 56, 3), {"padding": 1}, 4),
    "17 x 19 outputs": ((2, 2, 3, (34, 38), 3), {"padding": 1}, 3),
    "27 x 18 outputs, dilation": ((1, 3, 20, (55, 38), 3), {"padding": 1, "dilation": 2}, 4),
    "19 x 10 outputs, groups": ((1, 4, 10, (37, 20), 3), {"padding": 1, "groups": 2}, 2),
    "9 x 23 outputs, kernel 5 x 1": ((1, 2, 3, (20, 46), (5, 1)), {"padding": (1, 0)}, 2),
    "17 x 17 outputs, more than a block's": ((1, 2, 130, 34, 1), {}, 3),
}
FEWER = list(CASES)[:4]
THROUGH_MEMORY = list(CASES)[:5]


def run(name, precision, **how):
    sizes, geometry, blocks = CASES[name]
    x, weight = operands(*sizes, precision, groups=geometry.get("groups", 1))
    out, plan = assert_measures(x, weight, precision, **geometry, **how)
    assert plan.bands == blocks
    return out, plan, expected_of(x, weight, **geometry)


@pytest.mark.parametrize("name", CASES)
def test_on_chip_in_float32(name):
    _, plan, _ = run(name, "tf32x3")
    assert plan.cluster == plan.bands


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
@pytest.mark.parametrize("name", FEWER)
def test_on_chip_in_fewer_bits(name, precision):
    out, plan, expected = run(name, precision)
    assert plan.cluster == plan.bands
    # And they really are fewer.
    assert (out - expected).norm() > 1e-5 * expected.norm()


@pytest.mark.parametrize("name", THROUGH_MEMORY)
def test_through_memory_in_float32(name):
    _, plan, _ = run(name, "tf32x3", clusters=False)
    assert plan.cluster == 1


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
def test_through_memory_in_fewer_bits(precision):
    _, plan, _ = run("17 x 19 outputs", precision, clusters=False)
    assert plan.cluster == 1


def test_where_the_residual_does_not_fit_on_chip():
    """The chip has clusters, and too little shared memory for a band's residual: through memory after all."""
    x, weight = operands(1, 2, 20, (42, 34), 1)
    _, plan = assert_measures(x, weight, limit=130 << 10)
    assert (plan.bands, plan.cluster) == (3, 1)


@pytest.mark.parametrize("precision", packing.PRECISIONS)
def test_nan_stays_in_its_image(precision):
    x, weight = operands(2, 2, 3, (34, 36), 1, precision)
    clean, _ = measured(x, weight, precision=precision)
    x[1, 1, 3, 4] = float("nan")
    maps, plan = measured(x, weight, precision=precision)
    assert plan.cluster == 3
    assert maps[1].isnan().all()
    assert torch.equal(maps[0], clean[0])


@pytest.mark.parametrize(
    ("which", "message"),
    [(0, "shared memory of a block that may not have started"), (1, "race in shared memory"), (2, "")],
)
def test_each_barrier_of_a_cluster_is_needed(which, message):
    """The kernel itself with one of them a barrier of each block alone; it has two."""
    x, weight = operands(1, 2, 20, (34, 36), 1)
    arguments, plan = prepared(x, weight)
    assert plan.cluster == 3
    emulated(DRIVER).weaken(which)
    try:
        found = message_of_launch(*arguments)
    finally:
        emulated(DRIVER).weaken(-1)
    assert found.startswith(message)
    assert bool(found) == bool(message)


@pytest.mark.parametrize(
    ("capability", "architectures", "has"),
    [((8, 0), "80 90", False), ((9, 0), "80 90", True), ((9, 0), "80", False), ((10, 0), "80 90", True),
     ((8, 9), "80 90 100", False), ((9, 0), "80 100", False)],
)  # fmt: skip
def test_clusters_need_the_chip_and_code_for_it(monkeypatch, capability, architectures, has):
    built = SimpleNamespace(build_info=lambda: {"architectures": architectures})
    monkeypatch.setattr(_backend, "cuda_extension", lambda: (built, ""))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    launcher._clusters.cache_clear()
    assert launcher._clusters(torch.device("cuda", 0)) == has
    launcher._clusters.cache_clear()


def test_what_goes_through_memory():
    x, weight = operands(3, 2, 20, (34, 36), 1)
    for clusters, numbers in ((True, 0), (False, 3 * 24 * 17 * 18)):
        _, plan = prepared(x, weight, clusters=clusters, limit=LIMITS["sm_90"])
        assert launcher.scratch_numbers(plan, 3, 20, 1, 17 * 18) == numbers
