"""The one-pass convolution measure of maps whose x does not fit on chip, by the emulator, against float64."""

import pytest
import torch
from cuda_conv2d import (
    ALLOWED,
    DRIVER,
    assert_measures,
    expected_of,
    integers,
    measured,
    message_of_launch,
    numbers_of,
    operands,
    prepared,
)
from cuda_kernels import LIMITS, emulated
from helpers import assert_close

from alias_ops.kernels import conv2d_alias_l1_cuda_tables as packing

# batch, channels, outputs, size, kernel; padding, dilation, groups
CASES = {
    "33 x 34 outputs": ((1, 2, 3, (66, 67), 3), {"padding": 1}),
    "columns of 8": ((1, 3, 9, (66, 14), 3), {"padding": 1}),
    "columns of 4": ((1, 2, 3, (70, 6), (5, 1)), {"padding": (2, 0)}),
    "one row": ((2, 2, 3, (1, 70), (1, 3)), {}),
    "36 x 9 outputs, dilation": ((1, 3, 3, (72, 20), 3), {"padding": 1, "dilation": 2}),
    "groups, more channels than a chunk": ((1, 40, 4, (6, 66), 1), {"groups": 2}),
    "more outputs than a block's": ((1, 2, 130, (66, 10), 1), {}),
    "kernel 7": ((1, 3, 2, (20, 70), 7), {"padding": 3}),
    "kernel 5, padding above it": ((1, 2, 3, (60, 12), 5), {"padding": (7, 5)}),
    "56 x 20 outputs, 112 samples": ((1, 2, 10, (112, 40), 3), {"padding": 1}),
    "112 x 9 outputs, 224 samples": ((1, 3, 2, (224, 18), 1), {}),
    "9 x 112 outputs, 224 samples": ((1, 3, 2, (18, 224), 3), {"padding": 1}),
}
FEWER = [*list(CASES)[:5], "9 x 112 outputs, 224 samples"]

# What a layer of 3 channels, 66 x 44, kernel 3, padding 1, does with so many KB of shared memory: slabs of a row and
# their buffers, parts of the table and their buffers, passes.
WAYS = {
    "tf32x3": {
        183: (1, 2, 1, 2, 1),
        147: (1, 2, 2, 2, 1),
        118: (1, 1, 2, 1, 1),
        116: (1, 2, 2, 2, 2),
        41: (6, 2, 2, 1, 3),
    },
    "bfloat16": {
        137: (1, 2, 1, 2, 1),
        119: (1, 2, 2, 2, 1),
        105: (1, 1, 2, 1, 1),
        45: (2, 2, 2, 2, 3),
        44: (2, 2, 2, 1, 3),
    },
}


def parts_of(numbers, limit):
    out = integers([0] * 5)
    emulated(DRIVER).parts(integers(numbers), limit, out)
    return tuple(out)


def run(name, precision, **how):
    sizes, geometry = CASES[name]
    x, weight = operands(*sizes, precision, groups=geometry.get("groups", 1))
    numbers = numbers_of(
        x, weight, geometry.get("padding", 0), geometry.get("dilation", 1), geometry.get("groups", 1), precision
    )
    assert parts_of(numbers, how.get("limit", LIMITS["sm_90"]))[0] > 0
    out, plan = assert_measures(x, weight, precision, **geometry, **how)
    assert not plan.on_chip
    return out, expected_of(x, weight, **geometry)


@pytest.mark.parametrize("name", CASES)
def test_geometries_in_float32(name):
    run(name, "tf32x3")


@pytest.mark.parametrize("precision", ["bfloat16", "float16", "tf32"])
@pytest.mark.parametrize("name", FEWER)
def test_geometries_in_fewer_bits(name, precision):
    out, expected = run(name, precision)
    # And they really are fewer.
    assert (out - expected).norm() > 1e-5 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("precision", packing.PRECISIONS)
@pytest.mark.parametrize(("size", "kernel"), [(112, 3), (224, 3), ((224, 40), 7)])
def test_sizes_of_image_networks(size, kernel, precision):
    x, weight = operands(1, 3, 10, size, kernel, precision)
    assert_measures(x, weight, precision, padding=kernel // 2)


@pytest.mark.parametrize("precision", WAYS)
def test_all_ways_to_come_in_parts_are_one(precision):
    """Slabs of any width, a table as a whole or in stages, taps together or one by one: bit for bit the same."""
    x, weight = operands(1, 3, 3, (66, 44), 3, precision)
    numbers = numbers_of(x, weight, 1, 1, 1, precision)
    found = {}
    for limit, parts in WAYS[precision].items():
        assert parts_of(numbers, limit << 10) == parts
        found[limit], _ = measured(x, weight, padding=1, precision=precision, limit=limit << 10)
    first = next(iter(found.values()))
    assert_close(first, expected_of(x, weight, padding=1), ALLOWED[precision])
    assert all(torch.equal(first, out) for out in found.values())


@pytest.mark.parametrize("limit", [118, 116])
def test_each_barrier_is_needed(limit):
    """The kernel itself without one of them, with one buffer of everything and with two."""
    x, weight = operands(1, 5, 3, (66, 44), (3, 1))
    arguments, _ = prepared(x, weight, padding=1, limit=limit << 10)
    numbers = numbers_of(x, weight, 1, 1, 1, "tf32x3")
    slabs, slab_buffers, parts, stage_buffers, passes = parts_of(numbers, limit << 10)
    assert (slab_buffers, stage_buffers, passes) == ((1, 1, 1) if limit == 118 else (2, 2, 2))
    # At the start of a pass and between its halves; in each turn, and with one buffer between two of them.
    barriers = 2 * passes
    for turns, buffers in ((3 * slabs * passes, slab_buffers), (3 * parts, stage_buffers)):
        barriers += turns + (turns - passes if buffers == 1 else 0)
    for which in range(barriers + 1):
        emulated(DRIVER).leave_out(which)
        message = message_of_launch(*arguments)
        assert message.startswith("race in shared memory") if which < barriers else message == "", which


@pytest.mark.parametrize("precision", ["bfloat16", "tf32x3"])
def test_a_map_that_fits_elsewhere(precision):
    """As on sm_80, whose shared memory does not hold x of 56 x 56: in parts."""
    x, weight = operands(1, 3, 3, (56, 40), 3, precision)
    assert_measures(x, weight, precision, padding=1, limit=80 << 10, clusters=False)
    assert parts_of(numbers_of(x, weight, 1, 1, 1, precision), 80 << 10)[0] > 0


@pytest.mark.parametrize(
    ("precision", "width"),
    [("bfloat16", 72), ("bfloat16", 68), ("bfloat16", 70), ("bfloat16", 69), ("tf32", 70), ("tf32", 69)],
)
def test_rows_are_copied_by_as_much_as_they_allow(precision, width):
    x, weight = operands(1, 3, 2, (5, width), 3, precision)
    together, _ = assert_measures(x, weight, precision, padding=1)
    one_by_one, _ = measured(x, weight, padding=1, precision=precision, copied=0)
    assert torch.equal(together, one_by_one)
    elsewhere = x.contiguous(memory_format=torch.channels_last)
    assert torch.equal(measured(elsewhere, weight, padding=1, precision=precision)[0], together)


@pytest.mark.parametrize("precision", packing.PRECISIONS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_stay_in_their_image(value, precision):
    x, weight = operands(2, 18, 3, (5, 66), 1, precision)
    clean, _ = measured(x, weight, precision=precision)
    x[1, 1, 2, 4] = value
    maps, _ = measured(x, weight, precision=precision)
    assert not maps[1].isfinite().any()
    assert torch.equal(maps[0], clean[0])


@pytest.mark.parametrize("precision", packing.PRECISIONS)
def test_a_large_mean_stays_in_its_bin(precision):
    x, weight = operands(1, 2, 4, (9, 70), 3, precision)
    x = (x * 0.25 + 8).to(x.dtype)
    expected = expected_of(x, weight, padding=1)
    # A pair of TF32 numbers keeps 2**-22 of 8, which is more of a deviation of 0.25.
    scale = expected + weight.double().abs().sum((1, 2, 3)) * 0.25 if precision == "tf32x3" else None
    assert_measures(x, weight, precision, padding=1, scale=scale)
