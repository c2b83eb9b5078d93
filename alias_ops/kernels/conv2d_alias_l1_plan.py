"""How a call of conv2d_alias_l1 is served: which branch, in which blocks, over how many images at a time.

Nothing here is measured on a GPU yet: the rule counts operations and bytes, at an H200's rates.
"""

from dataclasses import dataclass

import torch

from ._launch import Config, next_power_of_two
from .conv2d_alias_l1_tables import Geometry, Tables, bin_count

__all__ = [
    "Layer",
    "bytes_per_image",
    "chunk_of",
    "images_at_once",
    "line_blocks",
    "measure_blocks",
    "on_chip",
    "product_blocks",
    "residual_blocks",
    "seconds",
    "served_by",
    "spectra_blocks",
    "walk_parts",
    "weight_blocks",
]

# Of an H200: bytes a second, and operations a second of the matrix units by PRECISION and operand, at the share
# of their peak that products of these shapes may be expected to reach.
BANDWIDTH = 4.0e12
RATES = {"bfloat16": 400e12, "tf32": 200e12, "tf32x3": 65e12}
LAUNCH = 5e-6

# Largest grid NP x MP, and longest row of x, of the branch that holds a map's residual on chip. Products of the
# float32 grade take twice the registers, and half the grid.
LARGEST_GRID = {"tf32": 256, "tf32x3": 128}
LONGEST_ROW = 32

# Buffers of a chunk of images may take this share of the stride-1 map that the definition would have made.
SHARE_OF_MAP = 1 / 16
LEAST_BUFFER, LARGEST_BUFFER = 64 << 20, 512 << 20

# Programs that a launch should have, if the work can be cut so: a few for each of an H200's 132 multiprocessors.
PROGRAMS = 528


@dataclass(frozen=True)
class Layer:
    """A layer and its input, in numbers. ``precision`` is that of products of float32 operands."""

    batch: int
    channels: int
    outputs: int
    groups: int
    geometry: Geometry
    stored: torch.dtype  # of spectra between kernels, and of products over channels
    precision: str
    half: bool  # whether x has 16 bits
    output_given: bool

    @property
    def inputs(self) -> int:
        return self.channels // self.groups

    @property
    def group_outputs(self) -> int:
        return self.outputs // self.groups

    @property
    def kernel(self) -> tuple[int, int]:
        return self.geometry[0][1], self.geometry[1][1]

    @property
    def pointwise(self) -> bool:
        return self.kernel == (1, 1)

    @property
    def rate(self) -> float:
        """Operations a second of the products over channels."""
        return RATES["bfloat16" if self.stored is torch.bfloat16 else self.precision]


def spectra_blocks(layer: Layer, frequencies: tuple[int, int], samples: tuple[int, int], last: bool) -> Config:
    """Of ``input_bins``, ``residual_bins`` and ``output_bins``; ``last``: channels are neighbours in memory."""
    G = min(64, next_power_of_two(frequencies[1], 16))
    # Tiles of 128 channels times bins are as much as two programs of a multiprocessor have registers for;
    # residual_bins holds two spectra.
    C, H, W = max(2, 64 // G) if layer.pointwise else 128 // G, 16, 16 if max(samples) <= 16 else 32
    warps = 8
    if layer.precision == "tf32x3":
        H, W = 16 if G == 32 or (G > 32 and last) else 32, 16
    elif last:
        C, W = 256 // G, 16  # longer runs of channels, shorter ones of columns
    elif W == 16 and layer.stored is torch.bfloat16:
        # Twice the size in twice the warps is as much a thread, but then the compiler takes 64 registers for sm_100
        # and spills two.
        C, warps = C // 2, 4
    return Config((("C", C), ("F", 16), ("G", G), ("H", H), ("W", W)), warps=warps)


def line_blocks() -> Config:
    return Config((("C", 32), ("F", 16), ("BLOCK", 32)), warps=2)


def weight_blocks() -> Config:
    return Config((("BINS", 16), ("CELLS", 64), ("TAPS", 16)), warps=4)


def _tile(size: int) -> int:
    return 16 if size <= 16 else 64


def _depth(layer: Layer, inner: int) -> int:
    most = 64 if layer.stored is torch.bfloat16 else 32 if layer.precision == "tf32" else 16
    return min(most, next_power_of_two(inner, 16))


def product_blocks(layer: Layer, images: int) -> Config:
    """Of ``line_products``."""
    inner = max(layer.kernel) * layer.inputs
    blocks = (("BI", _tile(images)), ("BO", _tile(layer.group_outputs)), ("K", _depth(layer, inner)))
    return Config(blocks, warps=4, stages=3)


def measure_blocks(layer: Layer, images: int) -> Config:
    """Of ``measure_bins``."""
    BO = min(_tile(layer.group_outputs), 32 if layer.precision == "tf32x3" else 64)
    warps = 4 if BO == 16 and layer.stored is torch.bfloat16 else 8  # as in spectra_blocks
    blocks = (("BI", _tile(images)), ("BO", BO), ("K", _depth(layer, layer.inputs)))
    return Config(blocks, warps=warps, stages=3)


def residual_blocks(layer: Layer, N: int, M: int) -> Config:
    """Of ``residual_measure``."""
    W = next_power_of_two(layer.geometry[1][0], 16)
    images = 32 // W if layer.precision == "tf32x3" else 2
    blocks = (
        ("NP", next_power_of_two(N, 8)),
        ("MP", next_power_of_two(M, 8)),
        ("BI", images if max(N, M) <= 8 else 1),
        ("C", 16),
        ("BO", 32 if layer.precision == "tf32x3" else 64),
        ("H", 16),
        ("W", W),
        ("BINS", 16),
    )
    return Config(blocks, warps=8)


def walk_parts(layer: Layer, images: int, bins: int) -> tuple[int, int, int]:
    """Programs for one part of the walk over ``bins``, parts that it is cut into, and bins of each."""
    b = dict(measure_blocks(layer, images).blocks)
    tiles = -(-images // b["BI"]) * -(-layer.group_outputs // b["BO"]) * layer.groups
    each = -(-bins // max(1, min(bins, PROGRAMS // tiles)))
    return tiles, -(-bins // each), each


def bytes_per_image(layer: Layer, t: Tables) -> int:
    """Of the buffers between the kernels of the branches that walk bins."""
    if layer.pointwise:
        return 2 * bin_count(*t.outputs) * layer.channels * layer.stored.itemsize
    bins = bin_count(2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
    slots = [count[0] * t.kept[1] + count[1] * t.kept[0] for count in (t.edges, t.lines)]
    numbers = bins * (layer.channels + layer.outputs) + slots[0] * max(layer.kernel) * layer.channels
    numbers += slots[1] * layer.outputs
    strided = 0 if layer.output_given else t.outputs[0] * t.outputs[1] * layer.outputs
    return (2 * numbers + strided) * layer.stored.itemsize


def images_at_once(layer: Layer, t: Tables) -> int:
    """How many images a chunk may have, so that its buffers stay small beside the stride-1 map."""
    return chunk_of(layer, bytes_per_image(layer, t), layer.stored.itemsize)


def chunk_of(layer: Layer, each: int, itemsize: int) -> int:
    """Images whose buffers, of ``each`` bytes an image and numbers of ``itemsize``, a chunk may have.

    Raises:
        ValueError: one image's spectra have 2**31 numbers or more, past what the kernels' offsets reach.
    """
    if each // itemsize >= 2**31:
        raise ValueError(
            f"x must have fewer than 2**31 numbers in the spectra of an image for the triton backend, got "
            f"{layer.channels} channels of {layer.geometry[0][0]} x {layer.geometry[1][0]}; "
            f"alias_ops.backend('reference') takes it"
        )
    stride_1 = [size + 2 * p - d * (kernel - 1) for size, kernel, _, p, d in layer.geometry]
    whole = layer.batch * layer.outputs * stride_1[0] * stride_1[1] * (2 if layer.half else 4)
    budget = min(max(int(whole * SHARE_OF_MAP), LEAST_BUFFER), LARGEST_BUFFER)
    images = min(layer.batch, max(1, budget // each))
    return images if images < 64 else images // 64 * 64 if images < layer.batch else layer.batch


def on_chip(layer: Layer, t: Tables) -> bool:
    grid = next_power_of_two(t.outputs[0], 8) * next_power_of_two(t.outputs[1], 8)
    return grid <= LARGEST_GRID[layer.precision] and layer.geometry[1][0] <= LONGEST_ROW


def seconds(layer: Layer, t: Tables, branch: str) -> float:
    """What ``branch`` should take by its operations and bytes, on an H200."""
    (height, *_), (width, *_) = layer.geometry
    (kernel_h, kernel_w), (N, M) = layer.kernel, t.outputs
    itemsize = 2 if layer.half else 4
    spectra = RATES["tf32"] if layer.half else RATES[layer.precision]
    read = layer.channels * height * width * itemsize
    if branch == "residual":
        b = dict(residual_blocks(layer, N, M).blocks)
        tiles = -(-layer.group_outputs // b["BO"])
        grid = b["NP"] * b["MP"]
        low = b["NP"] * b["W"] * (kernel_h * height + kernel_h * kernel_w * b["MP"])
        transforms = 2 * tiles * layer.channels * low
        last = 4 * bin_count(N, M) * grid * tiles * b["BO"] * layer.groups
        work = 2 * grid * kernel_h * kernel_w * layer.inputs * tiles * b["BO"] * layer.groups
        return LAUNCH + layer.batch * max((transforms + last) / spectra + work / layer.rate, read * tiles / BANDWIDTH)

    def transform(rows: int, columns: int, frequencies: tuple[int, int]) -> int:
        f, g = (-(-count // 16) * 16 for count in frequencies)
        return 4 * rows * columns * f + 8 * f * columns * g

    moved = 2 * bytes_per_image(layer, t)
    if layer.pointwise:
        ops = layer.channels * (
            transform(N, M, (N // 2 + 1, M // 2 + 1)) + transform(height, width, (N // 2 + 1, M // 2 + 1))
        )
        work = 4 * bin_count(N, M) * layer.inputs * layer.outputs
        launches = 3
    else:
        bins = bin_count(2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
        frame = kernel_w * t.lines[0] * t.kept[1] + kernel_h * t.lines[1] * t.kept[0]
        ops = layer.channels * transform(height, width, t.kept)
        ops += layer.outputs * transform(N, M, (N // 2 + 1, M // 2 + 1))
        work = (8 * bins + 4 * frame) * layer.inputs * layer.outputs
        read += N * M * layer.outputs * itemsize
        launches = 6
        if not layer.output_given:
            work += 2 * N * M * kernel_h * kernel_w * layer.inputs * layer.outputs
            launches += 1
    chunks = -(-layer.batch // images_at_once(layer, t))
    return LAUNCH * launches * chunks + layer.batch * max(ops / spectra + work / layer.rate, (read + moved) / BANDWIDTH)


def served_by(layer: Layer, t: Tables) -> str:
    """The branch for a layer.

    - "residual" (identity 4, one pass) needs no output and keeps everything on chip: maps of up to 16 x 16
      outputs, rows of up to 64 samples;
    - "pointwise": 1 x 1 layers of any size, whose bins are a plain product of bins of x;
    - "bins" (identity 7): all others, from the output given or the strided convolution.
    """
    walk = "pointwise" if layer.pointwise else "bins"
    if (layer.output_given and not layer.pointwise) or not on_chip(layer, t):
        return walk
    return min((walk, "residual"), key=lambda branch: seconds(layer, t, branch))
