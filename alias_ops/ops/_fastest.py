"""Which of Triton and CUDA C++ serves a call where nobody forces either: as it was measured, never guessed."""

import json
from functools import cache
from pathlib import Path

import torch

__all__ = ["TABLE", "fastest"]

# Written by benchmarks/gpu.sh on the device that it names. Empty: nothing was measured, and Triton serves everything.
TABLE = Path(__file__).with_name("fastest.json")


@cache
def _table() -> dict[str, str]:
    return json.loads(TABLE.read_text())["cuda"]


def fastest(op: str, x: torch.Tensor) -> str:
    """By the table: "cuda" where the CUDA C++ kernel is faster for maps of x's width and dtype, else "triton"."""
    side = x.shape[-1]
    return "cuda" if side in _table().get(f"{op} {str(x.dtype).removeprefix('torch.')}", ()) else "triton"
