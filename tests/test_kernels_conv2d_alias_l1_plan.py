"""The plan of ``conv2d_alias_l1``'s kernels: which branch serves a layer, and how large its buffers are."""

import pytest
import torch

pytest.importorskip("triton")

from alias_ops.kernels import conv2d_alias_l1 as kernels
from alias_ops.kernels import conv2d_alias_l1_plan as plan
from alias_ops.kernels.conv2d_alias_l1_tables import tables


def described(sizes, dtype, output=False):
    """The layer in numbers, its tables, and x, from (batch, inputs, outputs, size, kernel)."""
    batch, inputs, outputs, size, kernel = sizes
    x = torch.empty(batch, inputs, size, size, device="meta", dtype=dtype)
    weight = torch.empty(outputs, inputs, kernel, kernel, device="meta", dtype=dtype)
    geometry = (2, 2), (kernel // 2, kernel // 2), (1, 1)
    about = kernels.layer_of(x, weight, x if output else None, *geometry, 1)
    return about, tables(about.geometry, torch.device("cpu"))


def test_wide_offsets_are_taken_where_an_image_needs_them():
    x = torch.empty(1, device="meta")
    assert not kernels.wide(x.expand(4, 64, 512, 512))
    assert not kernels.wide(torch.empty(2**12, 64, 512, 512, device="meta"))
    assert kernels.wide(torch.empty(2**13, 512, 512, 64, device="meta").permute(0, 3, 1, 2)[:, :, :, :1], images=2**8)
    assert kernels.wide(torch.empty(64, 2**8, 512, 512, device="meta").transpose(0, 1))


@pytest.mark.parametrize(
    ("sizes", "output", "branch"),
    [
        ((100, 64, 128, 32, 3), True, "bins"),
        ((4096, 64, 128, 32, 3), False, "bins"),
        ((100, 64, 128, 32, 1), True, "residual"),
        ((2, 8, 8, 16, 3), False, "residual"),
        ((64, 256, 512, 56, 1), True, "pointwise"),
        ((64, 128, 128, 56, 3), False, "bins"),
    ],
    ids=str,
)
def test_which_branch_serves(sizes, output, branch):
    assert plan.served_by(*described(sizes, torch.bfloat16, output)) == branch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(64, 128, 32, 3), (64, 128, 32, 1), (256, 512, 8, 3), (3, 64, 224, 7)], ids=str)
def test_buffers_stay_below_a_tenth_of_the_stride_1_map(sizes, dtype):
    """At the size of the issue's bars: an input of 1 GiB."""
    inputs, outputs, size, _ = sizes
    batch = 2**30 // (inputs * size * size * dtype.itemsize)
    about, t = described((batch, *sizes), dtype)
    spectrum = 0 if about.pointwise else about.inputs * outputs * 2 * len(t.kept_weights) * about.stored.itemsize
    extra = plan.images_at_once(about, t) * plan.bytes_per_image(about, t) + spectrum
    assert extra < 0.1 * batch * outputs * size * size * dtype.itemsize


@pytest.mark.parametrize("kernel", [1, 3])
def test_an_image_past_32_bit_offsets_is_refused(kernel):
    about, t = described((1, 2**16, 8, 512, kernel), torch.bfloat16)
    with pytest.raises(ValueError, match=r"x must have fewer than 2\*\*31 numbers .* got 65536 channels of 512 x 512"):
        plan.images_at_once(about, t)
