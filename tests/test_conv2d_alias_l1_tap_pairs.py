"""Gradients by identity 4 of layers whose taps pair up, F(2, 2): maps large enough for the pairs to pay."""

import pytest
import torch
from helpers import LAYOUTS, SINGLE_AND_DOUBLE, randn
from test_conv2d_alias_l1_taps import Ways

from alias_ops import _backend

pytestmark = pytest.mark.skipif(_backend.extension is None, reason=_backend.availability()["cpu"])

# Size, kernel, stride, padding, dilation.
GEOMETRIES = {
    "even": ((16, 18), (3, 3), 2, 1, 1),
    "odd outputs": ((26, 30), (3, 3), 2, 1, 1),
    "odd rows": ((44, 30), (3, 3), 2, (0, 1), 1),
    "no padding": ((44, 48), (3, 3), 2, 0, 1),
    "much padding": ((16, 15), (3, 3), 2, 4, 1),
    "padding on one side": ((30, 31), (4, 4), 2, (0, 3), 1),
    "taps without partners": ((24, 26), (5, 5), 2, 2, 1),
    "three pairs": ((28, 31), (7, 7), 2, 3, 1),
    "one axis": ((3, 40), (1, 3), (1, 2), (0, 1), 1),
    "other axis": ((40, 4), (4, 1), (2, 1), (1, 0), 1),
    "kernels of two shapes": ((27, 62), (2, 7), 2, (1, 2), 1),
    "stride 1 along": ((20, 18), (3, 4), (2, 1), 1, 1),
    "stride 3": ((61, 58), (5, 4), 3, 2, 1),
    "stride 4, dilation 2": ((90, 87), (3, 4), 4, 2, 2),
    "dilation 2": ((40, 42), (3, 3), 2, 2, 2),
    "dilation 2 along": ((20, 22), (3, 3), 2, (1, 3), (1, 2)),
    "bands of rows": ((70, 46), (3, 3), 2, 1, 1),
    "bands of an odd last row": ((69, 61), (5, 3), 2, (2, 1), 1),
    "bands of two rows": ((14, 530), (3, 3), 2, 1, 1),
    "low and wide": ((12, 160), (3, 3), 2, 1, 1),
}


@pytest.mark.parametrize("dtype", SINGLE_AND_DOUBLE, ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_gradients_by_pairs_of_taps(name, dtype):
    size, kernel, *geometry = GEOMETRIES[name]
    x, weight = randn(3, 5, *size, dtype=dtype), randn(6, 5, *kernel, dtype=dtype, seed=1)
    Ways(x, weight, *geometry).assert_same()


@pytest.mark.parametrize("name", ["even", "odd outputs", "taps without partners", "bands of rows"])
@pytest.mark.parametrize(("batch", "inputs", "outputs", "groups"), [(17, 40, 36, 2), (19, 33, 17, 1), (1, 70, 3, 1)])
def test_tasks_that_share_outputs(threads, name, batch, inputs, outputs, groups):
    """Enough images for two vectors of inputs to a task, or too few; sums do not depend on who does what."""
    size, kernel, *geometry = GEOMETRIES[name]
    weight = randn(outputs, inputs // groups, *kernel, seed=1, dtype=torch.float32)
    ways = Ways(randn(batch, inputs, *size, dtype=torch.float32), weight, *geometry, groups)
    ways.assert_same()
    threads(1)
    first = ways.by_taps()
    for count in (2, 3):
        threads(count)
        for again, once in zip(ways.by_taps(), first, strict=True):
            assert torch.equal(again, once)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["even", "odd outputs", "bands of rows"])
def test_pairs_in_any_layout(layout, name):
    size, kernel, *geometry = GEOMETRIES[name]
    for dtype in SINGLE_AND_DOUBLE:
        x, weight = LAYOUTS[layout](3, 20, *size, dtype=dtype), randn(7, 20, *kernel, dtype=dtype, seed=1)
        Ways(x, weight, *geometry).assert_same()


def test_images_keep_to_themselves():
    """NaN in one image reaches its own dx and dweight; an image's dx does not depend on those beside it."""
    x, weight = randn(6, 20, 16, 18, dtype=torch.float32), randn(18, 20, 3, 3, dtype=torch.float32, seed=1)
    ways = Ways(x, weight, 2, 1)
    dx, _ = ways.by_taps()
    ways.d_output[2, 3, 4, 5] = float("nan")
    other, dweight = ways.by_taps()
    assert other[2].isnan().any()
    assert dweight[3].isnan().all()
    kept = [0, 1, 3, 4, 5]
    assert torch.equal(other[kept], dx[kept])
    assert not dweight[[0, 1, 2, 4]].isnan().any()
