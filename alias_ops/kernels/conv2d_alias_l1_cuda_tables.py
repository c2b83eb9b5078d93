"""What the CUDA C++ kernel of ``conv2d_alias_l1`` reads beside x: tables and weights as the lanes of a warp hold them.

``csrc/cuda/conv2d_alias_l1_plan.h`` says how a layer is cut; its numbers come here as a :class:`Plan`. Operands of a
matrix unit lie in tiles of 16 rows by 32 bytes (the left one) or 8 columns by 32 bytes (the right one), lane by lane;
"Matrix Fragments" in the PTX manual says which lane holds what.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from .. import designs
from ..designs._cache import cached
from .conv2d_alias_l1_tables import Axis, Geometry

__all__ = ["PRECISIONS", "Plan", "Tables", "packed_weight", "scale_of", "tables"]

# As csrc/cuda/ops.h numbers them.
PRECISIONS = ("tf32x3", "tf32", "bfloat16", "float16")

# float16 has no room for sums of numbers near its largest one: low and x~ are kept smaller, by powers of two.
LOW_SCALE = {"float16": 0.25}
SCALE = {"float16": 0.125}

STRIDE = 2


class Plan(NamedTuple):
    """Of the header's ``Plan``, what the layouts depend on; ``shared`` is 0 where the kernel does not serve a layer."""

    shared: int
    rows: int
    columns: int
    column_tiles: int
    low_rows: int
    bands: int
    chunks: int
    row_units: int
    left_tiles: int
    left_steps: int
    output_blocks: int
    output_tiles: int
    images: int
    x_buffers: int
    cluster: int
    taps: int
    passes: int
    on_chip: int


class Tables(NamedTuple):
    """``left``, ``right`` of the type that the products take; ``wave_h``, ``wave_w`` float32. On the layer's device."""

    left: torch.Tensor
    right: torch.Tensor
    wave_h: torch.Tensor
    wave_w: torch.Tensor


def dtype_of(precision: str) -> torch.dtype:
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision, torch.float32)


def scale_of(precision: str) -> float:
    """By what the kernel has to multiply its result."""
    return 1 / SCALE.get(precision, 1.0)


def rounded(values: torch.Tensor, precision: str) -> torch.Tensor:
    """float64 values at the precision that the products take operands in, as float64."""
    if precision == "tf32":
        bits = values.float().view(torch.int32)
        return ((bits + 0x1000) & ~0x1FFF).view(torch.float32).double()
    return values.to(dtype_of(precision)).double()


def rounded_in_sum(values: torch.Tensor, precision: str) -> torch.Tensor:
    """The same, but the sum of the last dimension is kept as well as its smallest element can be.

    What rounding one element leaves goes to the next smaller one: the rows of Q = P - S add up to 0 where no padding
    cuts them, and have to go on doing so, or the mean of x would leak into every bin.
    """
    order = values.abs().argsort(-1, descending=True)
    sorted_values, out = values.gather(-1, order), torch.empty_like(values)
    rest = torch.zeros_like(values[..., 0])
    for i in range(values.shape[-1]):
        wanted = sorted_values[..., i] + rest
        out[..., i] = rounded(wanted, precision)
        rest = wanted - out[..., i]
    return torch.empty_like(out).scatter_(-1, order, out)


def left_operands(matrix: torch.Tensor, sixteen: bool) -> torch.Tensor:
    """[..., 16 rows x tiles, inner] as [..., tile, step, lane, word], flat behind the leading dimensions."""
    inner = (2, 4, 2) if sixteen else (2, 4, 1)
    *lead, rows, columns = matrix.shape
    tiles, steps = rows // 16, columns // (16 if sixteen else 8)
    parts = matrix.reshape(*lead, tiles, 2, 8, steps, *inner)  # tile, half, g; step, second, t, neighbour
    n = len(lead)
    order = (n, n + 3, n + 2, n + 5, n + 4, n + 1, n + 6)
    return parts.permute(*range(n), *order).reshape(*lead, -1)


def padded(matrix: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    return F.pad(matrix, (0, columns - matrix.shape[-1], 0, rows - matrix.shape[-2]))


def _left_table(axis: Axis, plan: Plan, precision: str) -> torch.Tensor:
    """-> [band, pass, tile, step, lane, word]: Q of the height, a band's rows of a pass's taps together."""
    select, low = designs.tap_factors(*axis)
    sixteen = dtype_of(precision).itemsize == 2
    difference = rounded_in_sum((low - select) * LOW_SCALE.get(precision, 1.0), precision)
    height = plan.left_steps * (16 if sixteen else 8)
    bands = padded(difference, plan.bands * plan.low_rows, height).unflatten(1, (plan.bands, plan.low_rows))
    taps = F.pad(bands, (0, 0, 0, 0, 0, 0, 0, plan.passes * plan.taps - axis[1]))
    passes = taps.transpose(0, 1).unflatten(1, (plan.passes, plan.taps)).flatten(2, 3)
    return left_operands(padded(passes, 16 * plan.left_tiles, height), sixteen)


def _right_table(axis: Axis, plan: Plan, precision: str) -> torch.Tensor:
    """-> [tap, column tile, step, lane, word]: -Q and -P of the width, for rows of x and of low side by side.

    A tile of several strided rows meets the samples of all of them, each in columns of its own.
    """
    select, low = designs.tap_factors(*axis)
    scale = SCALE.get(precision, 1.0)
    sixteen = dtype_of(precision).itemsize == 2
    width = plan.row_units * (8 if sixteen else 4)
    parts = [
        rounded_in_sum((select - low) * scale, precision),
        rounded(-low * (scale / LOW_SCALE.get(precision, 1.0)), precision),
    ]
    outputs = plan.column_tiles * plan.columns
    both = torch.stack([padded(p, outputs, width) for p in parts], 1)  # [tap, part, m, w]
    both = both.unflatten(2, (plan.column_tiles, plan.columns))
    wide = torch.einsum("kpcmw,rs->kcrmpsw", both, torch.eye(plan.rows, dtype=both.dtype))
    return left_operands(wide.reshape(axis[1], plan.column_tiles, 16, -1), sixteen)


def _wave_table(outputs: int, precision: str) -> torch.Tensor:
    """-> [tile, step, lane, word]: row i of a tile is a cosine of the DFT, row i + 8 its sine, as tiles of 16 rows.

    In the place of the sine of frequency 0 is the cosine of outputs / 2, if there is one.
    """
    cosines, sines = designs.dft_rows(outputs)
    count = -(-outputs // 2)
    tiles = -(-count // 8)
    waves = torch.zeros(tiles * 8, 2, -(-outputs // 8) * 8, dtype=torch.float64)
    waves[:count, 0, :outputs] = cosines[:count]
    waves[:count, 1, :outputs] = sines[:count]
    waves[0, 1, :outputs] = cosines[outputs // 2] if outputs % 2 == 0 else 0.0
    rows = waves.unflatten(0, (tiles, 8)).transpose(1, 2).reshape(tiles * 16, -1)
    return left_operands(rounded(rows, "tf32x3" if precision == "tf32x3" else "tf32"), False)


@cached
def tables(geometry: Geometry, plan: Plan, precision: str, device: torch.device) -> Tables:
    """The tables of a layer; cached, so read-only."""
    dtype = dtype_of(precision)
    left, right = _left_table(geometry[0], plan, precision), _right_table(geometry[1], plan, precision)
    sizes = [designs.correlation_size(size, kernel, p, d) for size, kernel, _, p, d in geometry]
    waves = [_wave_table(designs.output_size(size, STRIDE), precision) for size in sizes]
    placed = [
        t.to(device, kind).contiguous() for t, kind in zip((left, right, *waves), (dtype, dtype, *2 * [torch.float32]))
    ]
    return Tables(*placed)


def packed_weight(weight: torch.Tensor, groups: int, plan: Plan, precision: str) -> torch.Tensor:
    """weight [Cout, Cin / groups, kH, kW] as [group, output block, chunk, tap_h, tap_w, pair of tiles, lane, word]."""
    dtype = dtype_of(precision)
    if precision == "tf32":
        bits = weight.contiguous().view(torch.int32)
        # inf and NaN as they are: rounding would carry into the sign.
        weight = torch.where(weight.isfinite(), (bits + 0x1000 & ~0x1FFF).view(torch.float32), weight)
    sixteen = dtype.itemsize == 2
    channels, outputs = (16 if sixteen else 8) * plan.chunks, 8 * plan.output_tiles * plan.output_blocks
    _, inputs, kernel_h, kernel_w = weight.shape
    own = weight.to(dtype).unflatten(0, (groups, -1))
    own = F.pad(own, (0, 0, 0, 0, 0, channels - inputs, 0, outputs - own.shape[1]))
    # Inner elements of a lane: channels (second, t, neighbour), or with the two of a lane side by side (t, second).
    inner = (plan.chunks, 2, 4, 2) if sixteen else (plan.chunks, 4, 2, 1)
    parts = own.reshape(groups, plan.output_blocks, plan.output_tiles // 2, 2, 8, *inner, kernel_h, kernel_w)
    second, t = (6, 7) if sixteen else (7, 6)
    return parts.permute(0, 1, 5, 9, 10, 2, 4, t, 3, second, 8).contiguous()
