"""``alias_l1`` on GPUs: one read of the maps, one number per map out; its gradient with one write.

The spectrum of a map's residual is two separable products with small real tables (see alias_l1_tables), so the
tiles of separable2d make it, on chip; modulus and sum follow there. The gradient computes the spectrum once more,
leaves the packed spectrum of the gradient in memory, a quarter of x with stride 2, and takes it back through
separable2d with the transposed tables.
"""

from functools import lru_cache
from typing import Any

import torch
import triton

from ._launch import Config, capability, chosen, next_power_of_two, on_device_of
from ._maps import alignment, images, in_units, needs_wide_offsets
from ._precision import products
from ._registers import start
from ._tables import padded, prepared
from .alias_l1_spectrum import spectrum
from .alias_l1_tables import AliasTables, adjoint_factors, alias_tables, rows_of
from .separable2d import apply_plan, maps_together
from .separable2d_plan import Plan, plan

__all__ = ["alias_l1", "alias_l1_backward", "candidates"]


def _config(warps: int, **blocks: int) -> Config:
    return Config(tuple(blocks.items()), warps)


@lru_cache(1024)
def candidates(
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    rows: int,
    columns: int,
    together: int,
    exact: bool,
    chip: int,
) -> tuple[Config, ...]:
    """Configurations worth measuring for maps of a size class; the first is the rule's choice.

    Args:
        height, width, out_height, out_width: of the maps, and of the strided maps.
        rows, columns: of the packed spectrum.
        together, exact, chip: as for separable2d.
    """
    h, w = min(height, 64), min(width, 128)
    ho, o = min(out_height, 64), min(out_width, 128)
    m, n = min(rows, 64), min(columns, 64)
    if together > 1:
        n = max(16, min(n, 256 // together // (2 if m > 32 else 1)))
        most = 512 // together
        if chip < 90 and together == 8:  # float32, of which a row of 64 samples takes more registers than there are
            most = 32 if exact else 16
        return (_config(8, HB=16, WB=min(w, most), HO=16, WO=min(o, most), BM=m, BN=n, CB=together),)
    if w <= 16 and m <= 16 and n <= 16:
        # Maps so small that rows of several fill a product.
        return tuple(_config(4, HB=16, WB=w, HO=16, WO=o, BM=m, BN=n, CB=maps) for maps in (8, 4))
    if w <= 32 and m <= 32 and n <= 32:
        return (
            _config(1, HB=16, WB=w, HO=16, WO=o, BM=m, BN=n, CB=1),
            _config(2, HB=min(h, 32), WB=w, HO=min(ho, 32), WO=o, BM=m, BN=n, CB=1),
        )
    if w <= 64:
        n = min(n, 32)
        return (
            _config(4, HB=h, WB=w, HO=ho, WO=o, BM=64, BN=n, CB=1),
            _config(2, HB=min(h, 32), WB=w, HO=min(ho, 32), WO=o, BM=32, BN=n, CB=1),
        )
    most = 64 if not exact and width <= 128 else 32 if chip == 90 else 16
    return (_config(8, HB=min(h, most), WB=w, HO=min(ho, most), WO=o, BM=64, BN=n, CB=1),)


def alias_l1(
    x: torch.Tensor,
    tables_h: list[torch.Tensor],
    tables_w: list[torch.Tensor],
    stride: tuple[int, int],
    *,
    out: torch.Tensor,
) -> None:
    """Write ``sum |F_s - F_low|`` of every map to ``out``.

    Args:
        x: float32, bfloat16 or float16 [..., H, W], any strides.
        tables_h, tables_w: not looked at; they follow from size and stride, from which these kernels make their own.
        stride: along (height, width).
        out: float32 [...].
    """
    if out.numel() == 0:
        return
    tables = _tables(x, stride)
    with on_device_of(x):
        for maps, results in images(x, out[..., None, None]):
            _spectrum(maps, None, results, tables, stride)


def alias_l1_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    tables_h: list[torch.Tensor],
    tables_w: list[torch.Tensor],
    stride: tuple[int, int],
    *,
    out: torch.Tensor,
) -> None:
    """Write the gradient with respect to x to ``out``; ``|0|`` has gradient 0.

    Args:
        grad: [...], of the values of the maps.
        x, tables_h, tables_w, stride: as for :func:`alias_l1`.
        out: [..., H, W] in x's dtype.
    """
    if out.numel() == 0:
        return
    size = x.shape[-2], x.shape[-1]
    tables = _tables(x, stride)
    back: Plan = prepared(_adjoint_plan, *size, *stride, x.device)
    rows, columns = rows_of(size[0], stride[0]), rows_of(size[1], stride[1])
    with on_device_of(x):
        for maps, per_map, results in images(x, grad[..., None, None], out):
            packed = torch.empty((*maps.shape[:2], rows, columns), dtype=torch.float32, device=x.device)
            _spectrum(maps, per_map.float().contiguous(), packed, tables, stride)
            apply_plan(back, packed, results, _products_of_gradient(x))


def _products_of_gradient(x: torch.Tensor) -> int:
    """D / |D| of a small bin magnifies what rounding did to it: more than float16 results have digits to hide."""
    return 3 if x.dtype == torch.float16 else products(x)


def _tables(x: torch.Tensor, stride: tuple[int, int]) -> AliasTables:
    return prepared(_forward_tables, x.shape[-2], x.shape[-1], *stride, x.device)


def _forward_tables(height: int, width: int, step_h: int, step_w: int, device: torch.device) -> AliasTables:
    return alias_tables(height, width, (step_h, step_w), device)


def _adjoint_plan(height: int, width: int, step_h: int, step_w: int, device: torch.device) -> Plan:
    left, right = adjoint_factors(height, width, (step_h, step_w))
    return plan(left, right, False, torch.finfo(torch.float64).eps, False, device)


def _spectrum(
    x: torch.Tensor, grad: torch.Tensor | None, out: torch.Tensor, t: AliasTables, stride: tuple[int, int]
) -> None:
    """Forward into out [images, channels, 1, 1], or with ``grad`` the packed gradient into [.., .., rows, columns]."""
    maps = x.shape[0] * x.shape[1]
    height, width = x.shape[2:]
    outputs = -(-height // stride[0]), -(-width // stride[1])
    rows, columns = rows_of(height, stride[0]), rows_of(width, stride[1])
    align, together, count = (
        alignment(x, width),
        maps_together(x),
        products(x) if grad is None else _products_of_gradient(x),
    )
    size_class = padded(height), padded(width), padded(outputs[0]), padded(outputs[1]), padded(rows), padded(columns)
    options = candidates(*size_class, together, count == 3, capability(x.device))
    pitches = [p for table in (*t.left, *t.right) for p in (table.stride(2), table.stride(1))]
    sizes = height, width // align, *outputs, *stride, rows, columns
    constants: dict[str, Any] = {
        "BACKWARD": grad is not None, "PRODUCTS": count, "WIDE": needs_wide_offsets(x), "ALIGN_X": align
    }  # fmt: skip

    def run(config: Config) -> None:
        blocks = dict(config.blocks)
        grid = triton.cdiv(maps, blocks["CB"]), triton.cdiv(columns, blocks["BN"]), triton.cdiv(rows, blocks["BM"])
        tiles = grid[1] * grid[2]
        target = out if grad is not None or tiles == 1 else out.new_empty((maps, tiles))
        whole = {"WHOLE": blocks["WB"] >= width, "WHOLE_OUT": blocks["WO"] >= outputs[1]}
        places = (maps, x.shape[1], *in_units(x, align))
        tensors = (x, x if grad is None else grad, target, *t.left, *t.right)
        start(spectrum, grid, (*tensors, *places, *sizes, *pitches, *t.factors), {**constants, **whole}, config, x)
        if target is not out:
            torch.sum(target, 1, out=out.view(maps))

    key = (*size_class, next_power_of_two(max(stride)), together, str(x.dtype), count, grad is not None)
    run(chosen("alias_l1", key, options, run, x, maps // options[0].arguments()["CB"]))
