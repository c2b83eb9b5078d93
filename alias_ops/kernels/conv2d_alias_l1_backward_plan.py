"""How the gradients of conv2d_alias_l1 are served: blocks of their kernels, and how many images at a time."""

import torch

from ._launch import Config, next_power_of_two
from .conv2d_alias_l1_plan import Layer, chunk_of
from .conv2d_alias_l1_tables import Tables, bin_count

__all__ = [
    "bytes_per_image",
    "frame_blocks",
    "images_at_once",
    "is_pointwise",
    "lines_blocks",
    "maps_blocks",
    "nyquist_count",
    "sign_blocks",
    "weight_blocks",
]


def nyquist_count(N: int, M: int, kept: tuple[int, int]) -> int:
    """Bins of the half plane of N x M beyond those kept."""
    return bin_count(N, M) - bin_count(2 * kept[0] - 1, 2 * kept[1] - 1)


def maps_blocks(layer: Layer, size: tuple[int, int], frequencies: tuple[int, int], last: bool) -> Config:
    """Of ``maps_adjoint``: programs hold whole rows of up to 64. Of maps of more than 32 rows the bins are read again:
    what a taller block of channels that come last is laid out as, Hopper's matrix unit does not take.
    """
    H, W = min(32, next_power_of_two(size[0], 16)), min(64, next_power_of_two(size[1], 16))
    G = 16 if frequencies[1] <= 16 or layer.precision == "tf32x3" else 32
    C = 2 if H * W > 1024 else 4
    few = layer.precision == "tf32" and (W == 16 or (W == 32 and last))
    return Config((("C", C), ("F", 16), ("G", G), ("H", H), ("W", W)), warps=4 if few else 8)


def frame_blocks(lines: tuple[int, int]) -> Config:
    """Of ``frame_adjoint``."""
    return Config((("LINES", min(8, next_power_of_two(max(lines)))), ("BLOCK", 128)), warps=4)


def lines_blocks() -> Config:
    """Of ``lines_adjoint``."""
    return Config((("C", 32), ("F", 16), ("BLOCK", 32)), warps=4)


def sign_blocks(layer: Layer, images: int) -> Config:
    """Of ``sign_bins``."""
    BI, BO = (16 if size <= 16 else 64 for size in (images, layer.group_outputs))
    K = 32 if layer.precision == "tf32" else 16
    if layer.precision == "tf32x3":
        BO = min(BO, 32)
    return Config((("BI", BI), ("BO", BO), ("K", min(K, next_power_of_two(layer.inputs, 16)))), warps=8, stages=3)


def weight_blocks(taps: int) -> Config:
    """Of ``weight_adjoint``: all taps at once up to 64, so that bins are read once."""
    return Config((("BINS", 16), ("CELLS", 64), ("TAPS", min(64, next_power_of_two(taps, 16)))), warps=4)


def bytes_per_image(layer: Layer, t: Tables, itemsize: int) -> int:
    """Of the buffers between kernels; ``itemsize`` is that of x, of which 16-bit images are copied."""
    (height, *_), (width, *_) = layer.geometry
    (N, M), strided = t.outputs, t.outputs[0] * t.outputs[1]
    if is_pointwise(layer):
        numbers = (2 * strided + (height * width if itemsize == 2 else 0)) * layer.channels + (
            strided + 2 * bin_count(N, M)
        ) * layer.outputs
        return numbers * torch.float32.itemsize
    bins = bin_count(2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
    slots = [count[0] * t.kept[1] + count[1] * t.kept[0] for count in (t.edges, t.lines)]
    spectra = 4 * bins * layer.channels + (2 * bins + 4 * bin_count(N, M)) * layer.outputs
    if layer.groups > 1:  # panels of a group after the other
        spectra += 4 * bins * (layer.channels + layer.outputs)
    lines = 4 * (slots[0] * max(layer.kernel) * layer.channels + slots[1] * layer.outputs)
    maps = strided * layer.outputs + height * width * layer.channels * (2 if itemsize == 2 else 1)
    return (spectra + lines + maps) * torch.float32.itemsize


def is_pointwise(layer: Layer) -> bool:
    """Whether a layer's residual is a stride-1 layer on the residual of x."""
    return layer.pointwise and not any(axis[3] for axis in layer.geometry)


def images_at_once(layer: Layer, t: Tables, itemsize: int) -> int:
    """How many images a chunk may have, so that its buffers stay small beside the stride-1 map."""
    return chunk_of(layer, bytes_per_image(layer, t, itemsize), torch.float32.itemsize)
