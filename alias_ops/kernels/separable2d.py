"""``separable2d`` on GPUs: one read of x, one write of y, both products on chip.

Kernels, by size (see separable2d_plan): "small" up to 16 x 16, many maps a program; "split" where shifting a map by
half its side shifts the result by half of its own, as a pooling with stride 2 does of sides that 4 divides; "tiled"
for everything else. In all of them float32 is exact to 22 bits of each operand unless TF32 is allowed, see
_arithmetic; half-precision samples go in whole and tables are rounded to 11 bits.
"""

from functools import lru_cache
from typing import Any

import torch
import triton

from ._launch import Config, capability, chosen, next_power_of_two, on_device_of
from ._maps import alignment, images, in_units, needs_wide_offsets
from ._precision import products
from ._registers import start
from ._tables import padded, remembered
from .separable2d_plan import Plan, plan
from .separable2d_small import small
from .separable2d_split import split
from .separable2d_tiled import tiled

__all__ = ["apply_plan", "candidates", "maps_together", "separable2d"]


def _config(warps: int, stages: int = 1, **blocks: int) -> Config:
    return Config(tuple(blocks.items()), warps, stages)


def _block(size: int, most: int) -> int:
    return min(next_power_of_two(size, 16), most)


@lru_cache(1024)
def candidates(
    kind: str,
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    terms: int,
    together: int,
    exact: bool,
    chip: int,
) -> tuple[Config, ...]:
    """Configurations worth measuring for maps of a size class; the first is the rule's choice.

    Matrix units of Hopper take 64 rows at a time from four warps. Those of other chips, and of Hopper below that,
    take 16 from one; of a chain of two products all warps of a program then share the rows, so that a program has
    as many warps as it has rows by 16.

    Args:
        kind: of the plan. Sizes are those of the kernel's operands: of a half for "split"; inputs and outputs of the
            one product for "small".
        terms: of the plan.
        together: neighbouring maps to load side by side, 1 unless x is channels_last.
        exact: whether three products are taken; they need more registers.
        chip: compute capability, 90 where there is none.
    """
    h, m, n, w = min(height, 64), _block(out_height, 64), _block(out_width, 64), _block(width, 128)
    if kind == "small":
        n = _block(out_width, 64 if exact and chip < 90 else 128)
        return _config(8, BR=64, BK=_block(width, 64), BO=n), _config(4, BR=32, BK=_block(width, 64), BO=min(n, 64))
    if together > 1:
        n = min(n, 256 // together // (2 if m > 32 else 1))
        return (_config(8, HB=16, WB=min(w, 256 // together), BM=m, BN=max(16, n), CB=together),)
    if kind == "split":
        if w <= 64:
            if chip < 90:
                return (_config(8 if exact else 4, HB=h, WB=w, BM=64, BN=min(n, 32)),)
            rows = min(h, 32) if exact and chip < 100 else h  # 64 take every register there is
            first = _config(4, HB=rows, WB=w, BM=64, BN=min(n, 32))
            return first, _config(8, HB=rows, WB=w, BM=64, BN=min(n, 32))
        tall = min(128, max(64, out_height))
        if chip < 90:
            n = 16 if exact and out_height > 256 else min(n, 32)
            return (_config(8, HB=min(h, 32), WB=w, BM=tall, BN=n),)
        return (_config(8, HB=16 if exact else min(h, 32), WB=w, BM=tall, BN=n),)
    n = min(n, 32 if terms == 2 or w > 64 else 64)
    if terms == 2 and w > 64 and chip < 90 and exact:
        n = 16
    if w <= 32 and m <= 16 and n <= 16:
        return _config(1, HB=16, WB=w, BM=m, BN=n, CB=1), _config(1, HB=min(h, 32), WB=w, BM=m, BN=n, CB=1)
    if w <= 64:
        tall = chip == 90 or (chip < 90 and (exact or terms == 1))
        rows = min(h, 64 if w * n <= 2048 and tall else 16 if terms == 2 and chip >= 100 else 32)
        first = _config(4, HB=rows, WB=w, BM=64, BN=n, CB=1)
        return first, _config(2, HB=min(h, 16 if terms == 2 else 32), WB=w, BM=32, BN=min(n, 32), CB=1)
    return (
        _config(
            8 if chip >= 100 or (chip < 90 and exact) else 4,
            HB=16 if terms == 2 else min(h, 32),
            WB=w,
            BM=64,
            BN=n,
            CB=1,
        ),
    )


def _even_step(t: torch.Tensor) -> int:
    """The distance of a map's samples, if they follow each other evenly; 0 if not."""
    if t.shape[3] == 1:
        return t.stride(2)
    return t.stride(3) if t.shape[2] == 1 or t.stride(2) == t.shape[3] * t.stride(3) else 0


def maps_together(x: torch.Tensor) -> int:
    """How many neighbouring maps to read side by side: one memory transaction's worth where they are neighbours."""
    if x.stride(1) != 1 or x.stride(3) == 1 or x.shape[1] < 2:
        return 1
    return min(32 // x.element_size(), next_power_of_two(x.shape[1]))


def separable2d(
    x: torch.Tensor, left: torch.Tensor, right: torch.Tensor, adjoint: bool = False, *, out: torch.Tensor
) -> None:
    """Write ``sum_t left[t] x right[t]^T``, or the adjoint's, to ``out``.

    Args:
        x: float32, bfloat16 or float16 [..., H, W], any strides.
        left, right: [T, M, H] and [T, N, W], T of 1 or 2; [T, H, M] and [T, W, N] with ``adjoint``.
        out: [..., M, N] in x's dtype.
    """
    if out.numel() == 0:
        return
    rounding = min(torch.finfo(left.dtype).eps, torch.finfo(torch.float32).eps)
    splitting = x.dim() != 4 or maps_together(x) == 1
    prepared = remembered(plan, (left, right), adjoint, rounding, splitting, x.device)
    with on_device_of(x):
        for maps, results in images(x, out):
            apply_plan(prepared, maps, results, products(x))


def apply_plan(p: Plan, x: torch.Tensor, y: torch.Tensor, count: int) -> None:
    """Launch the kernel of a plan for x and y [images, channels, any, any], with ``count`` products a product."""
    maps = x.shape[0] * x.shape[1]
    (height, width), (out_height, out_width) = x.shape[2:], y.shape[2:]
    wide = needs_wide_offsets(x, y)
    common: dict[str, Any] = {"PRODUCTS": count, "WIDE": wide}
    kinds = str(x.dtype), str(y.dtype), count
    exact, chip = count == 3, capability(x.device)
    outer = p.right if p.outer is None else p.outer
    pitches = (p.left.stride(2), p.left.stride(1), p.right.stride(2), p.right.stride(1))
    if p.kind == "small":
        step_x, step_y = _even_step(x), _even_step(y)
        flat_x, flat_y = step_x != 0, step_y != 0
        inputs, outputs = height * width, out_height * out_width
        common |= {"FLAT_X": flat_x, "FLAT_Y": flat_y}
        align_x, align_y = alignment(x, inputs) if flat_x else 1, alignment(y, outputs) if flat_y else 1
        common |= {"ALIGN_X": align_x, "ALIGN_Y": align_y}
        strides_x, strides_y = in_units(x, align_x), in_units(y, align_y)
        places = (maps, x.shape[1], *strides_x[:3], step_x or strides_x[3], *strides_y[:3], step_y or strides_y[3])
        sizes = width, inputs // align_x, out_width, outputs // align_y
        options = candidates("small", 1, padded(inputs), 1, padded(outputs), 1, 1, exact, chip)
        arguments = (x, y, p.right, *places, *sizes, *pitches[2:], p.factors[1])

        def run(config: Config) -> None:
            blocks = dict(config.blocks)
            grid = triton.cdiv(maps, blocks["BR"]), triton.cdiv(outputs, blocks["BO"])
            start(small, grid, arguments, common, config, x)

        return _measured(run, "separable2d_small", (padded(inputs), padded(outputs), *kinds), options, x, maps // 64)
    if p.kind == "split":
        width, out_width = width // 2, out_width // 2
    align_x, align_y = alignment(x, width), alignment(y, out_width)
    common |= {"OUTER": p.outer is not None, "ALIGN_X": align_x, "ALIGN_Y": align_y}
    places = (maps, x.shape[1], *in_units(x, align_x), *in_units(y, align_y))
    sizes = height, width // align_x, out_height, out_width // align_y
    size_class = padded(height), padded(width), padded(out_height), padded(out_width)
    together = maps_together(x) if p.kind == "tiled" else 1
    options = candidates(p.kind, *size_class, p.terms, together, exact, chip)
    arguments = (x, y, p.left, p.right, outer, *places, *sizes, *pitches, *p.factors)

    def run_tiles(config: Config) -> None:
        blocks = dict(config.blocks)
        grid = (
            triton.cdiv(maps, blocks.get("CB", 1)),
            triton.cdiv(out_width, blocks["BN"]),
            triton.cdiv(out_height, blocks["BM"]),
        )
        if p.kind == "split":
            start(split, grid, arguments, common, config, x)
            return
        last = y.stride(1) == 1 and blocks["CB"] > 1
        whole = blocks["WB"] >= width
        start(tiled, grid, arguments, {**common, "TERMS": p.terms, "LAST": last, "WHOLE": whole}, config, x)

    key = (*size_class, p.terms, p.outer is not None, together, *kinds)
    return _measured(run_tiles, f"separable2d_{p.kind}", key, options, x, maps // together)


def _measured(run, name: str, key: tuple, options: tuple[Config, ...], x: torch.Tensor, programs: int) -> None:
    run(chosen(name, key, options, run, x, programs))
