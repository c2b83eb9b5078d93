"""The least time a case can take on this machine: bytes over copy bandwidth, operations over multiply-add rate."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

from alias_ops import designs

from .cases import Conv

__all__ = ["Floor", "alias_floor", "conv_floor", "peak", "pool_floor"]

SOURCE = Path(__file__).with_name("ceilings.cpp")


@cache
def _ceilings() -> ctypes.CDLL | None:
    """The compiled loops, or None where there is no compiler."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        command = [compiler, "-O3", "-march=native", "-std=gnu++17", "-shared", "-fPIC", "-pthread"]
        done = subprocess.run([*command, str(SOURCE), "-o", str(library)], capture_output=True, check=False)
        if done.returncode:
            return None
        loaded = ctypes.CDLL(str(library))
    for name in ("float32_rate", "float64_rate"):
        getattr(loaded, name).restype = ctypes.c_double
        getattr(loaded, name).argtypes = (ctypes.c_int, ctypes.c_double)
    return loaded


@cache
def peak(dtype: torch.dtype, threads: int) -> float | None:
    """Operations a second in the dtype that sums are taken in; the best of five tries of 0.1 s."""
    loops = _ceilings()
    if loops is None:
        return None
    rate = loops.float64_rate if dtype == torch.float64 else loops.float32_rate
    return max(rate(threads, 0.1) for _ in range(5))


class Floor:
    """Of one case: the bytes that must move, the operations that must be done.

    The bytes' time is that of :meth:`copy`, which a race times in turn with everything else: at the case's own
    footprint, and with the caches as the others leave them. It reads x itself, which is in them as much for the
    copy as for the candidate, and no byte twice.
    """

    def __init__(self, size: int, operations: float, fewest: float, x: torch.Tensor):
        self.bytes, self.operations, self.fewest = size, operations, fewest
        self.dtype = x.dtype
        # Half of the bytes are read, half written.
        half = max(1, size // 2 // x.element_size())
        own = x.detach().reshape(-1)[:half]
        other = torch.zeros(half - own.numel(), dtype=x.dtype, device=x.device)
        target = torch.zeros(half, dtype=x.dtype, device=x.device)
        self._moves = [(target[: own.numel()], own)]
        if other.numel():
            self._moves.append((target[own.numel() :], other))

    def copy(self) -> None:
        """Move as many bytes, reads plus writes, as the case must."""
        for target, source in self._moves:
            target.copy_(source)

    def of(self, seconds: float, copying: float) -> dict[str, float | None]:
        """For the results: how much of a measured time the floor explains."""
        rate = peak(self.dtype, torch.get_num_threads())
        floor = max(copying, self.operations / rate) if rate else copying
        least = max(copying, self.fewest / rate) if rate else copying
        return {
            "bytes": self.bytes,
            "operations": self.operations,
            "fewest operations": self.fewest,
            "bandwidth": self.bytes / copying,
            "peak": rate,
            "seconds": floor,
            "fraction": floor / seconds,
            "fraction with fewest operations": least / seconds,
        }


def _axis_products(pool: str, n: int) -> tuple[int, int, int]:
    """Outputs of an axis, its multiply-adds a column by the structure of DESIGN's section 3, and with halves split.

    FLC of an even size is half-band: N / 2 inputs count. A size that 4 divides splits once more into sums and
    differences of its halves, which takes half of the multiplications.
    """
    m = designs.output_size(n, 2)
    products = m * (n // 2 if pool == "flc" and n % 2 == 0 else n)
    return m, products, products // 2 if n % 4 == 0 else products


def pool_floor(pool: str, x: torch.Tensor, passes: int) -> Floor:
    """A pooling with stride 2: read x, write y, both products; ``passes`` of 2 adds the gradient, which is as much."""
    batch, channels, height, width = x.shape
    maps = batch * channels
    rows, left, left_split = _axis_products(pool, height)
    columns, right, right_split = _axis_products(pool, width)
    size = maps * (height * width + rows * columns) * x.itemsize
    operations = 2 * maps * (left * width + rows * right)
    fewest = 2 * maps * (left_split * width + rows * right_split)
    return Floor(passes * size, passes * operations, passes * fewest, x)


def alias_floor(x: torch.Tensor, backward: bool = False) -> Floor:
    """The measure of maps with stride 2: read x; transform it to the kept band, and its even samples to their spectrum.

    Real transforms, as products with a cosine and a sine row a frequency. Samples j and -j share both rows, so sums
    and differences of the two halve the products. Along an axis of N there are M = ceil(N / 2) samples and
    K = 2 floor((M - 1) / 2) + 1 kept rows: K N^2 / 2 + K^2 N / 2 multiply-adds and M^3 for a square map.
    ``backward`` reads x once more and writes dx, transforms it again and back.
    """
    batch, channels, height, width = x.shape
    m_h, m_w = designs.output_size(height, 2), designs.output_size(width, 2)
    k_h, k_w = 2 * designs.half_band(height, 2) + 1, 2 * designs.half_band(width, 2) + 1
    band = k_h * height * width / 2 + k_h * k_w * width / 2
    spectrum = m_h * m_h * m_w / 2 + m_h * m_w * m_w / 2
    passes = 3 if backward else 1
    operations = passes * 2 * batch * channels * (band + spectrum)
    return Floor(passes * x.nbytes, operations, operations, x)


def conv_floor(conv: Conv, x: torch.Tensor, backward: bool = False) -> Floor:
    """Identity 7 with the output at hand: read x, weight and output; a complex product for every kept bin.

    With h = floor((N - 1) / 2) kept frequencies a side there are 2h + 1 squared bins, of which half are mirrored:
    2 N^2 Cin Cout multiply-adds an image at most. A 1x1 layer takes identity 4: one real product of N^2 Cin Cout.
    The transforms are not counted. ``backward`` adds a product for each of the two gradients, and writing them.
    """
    n = designs.output_size(conv.size, 2)
    operands = conv.batch * conv.channels * conv.size**2 + conv.channels * conv.outputs * conv.kernel**2
    size = ((2 if backward else 1) * operands + conv.batch * conv.outputs * n**2) * x.itemsize
    pairs = conv.batch * conv.channels * conv.outputs
    kept = 2 * ((n - 1) // 2) + 1
    operations = 2 * pairs * n**2 if conv.kernel == 1 else 8 * pairs * (kept**2 + 1) / 2
    operations *= 3 if backward else 1
    return Floor(size, operations, operations, x)
