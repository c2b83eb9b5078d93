"""``conv2d_alias_l1`` on a GPU, by one of three branches; ``conv2d_alias_l1_plan`` says which serves a layer.

- "residual": identity 4 in one kernel, one number per map out.
- "bins": identity 7. x goes to its low band once, with the rows and columns that the frame meets; lines and output
  follow; then programs walk the bins and add up the modulus of what is left of each.
- "pointwise": 1 x 1 layers. The bins that x itself folds, times the weight.

Images are taken in chunks, so that what lies between two kernels stays small beside the stride-1 map. All sums have
one order: results are the same bit by bit from call to call.
"""

import torch
import torch.nn.functional as F

from . import _precision
from ._launch import on_device_of
from .conv2d_alias_l1_frame import line_products, line_spectra, output_bins
from .conv2d_alias_l1_launch import launch_spectra, launch_tiles, spectra_grid, switches, wide
from .conv2d_alias_l1_plan import (
    Layer,
    images_at_once,
    line_blocks,
    measure_blocks,
    product_blocks,
    residual_blocks,
    served_by,
    spectra_blocks,
    walk_parts,
    weight_blocks,
)
from .conv2d_alias_l1_products import measure_bins, weight_bins
from .conv2d_alias_l1_residual import residual_measure
from .conv2d_alias_l1_spectra import input_bins, residual_bins
from .conv2d_alias_l1_tables import Tables, bin_count, kronecker, tables

__all__ = ["BRANCHES", "Bins", "conv2d_alias_l1", "layer_of"]


def layer_of(x, weight, output, stride, padding, dilation, groups) -> Layer:
    axes = [(x.shape[d + 2], weight.shape[d + 2], stride[d], padding[d], dilation[d]) for d in (0, 1)]
    return Layer(
        batch=x.shape[0],
        channels=x.shape[1],
        outputs=weight.shape[0],
        groups=groups,
        geometry=(axes[0], axes[1]),
        # float16 keeps its bits in TF32, which unlike float16 has room for the sums of a spectrum.
        stored=torch.bfloat16 if x.dtype is torch.bfloat16 else torch.float32,
        precision="tf32x3" if _precision.products(x) == 3 else "tf32",
        half=x.dtype.itemsize == 2,
        output_given=output is not None,
    )


def _panels(weight: torch.Tensor, layer: Layer) -> torch.Tensor:
    """[kh][kw][inputs][outputs], in the type of the products."""
    return weight.permute(2, 3, 1, 0).to(layer.stored).contiguous()


def _residual(x, weight, bias, output, layer: Layer, t: Tables, geometry, out) -> None:
    (N, M), (height, width) = t.outputs, x.shape[2:]
    config = residual_blocks(layer, N, M)
    b = dict(config.blocks)
    dft, weights = kronecker(N, M, b["NP"], b["MP"], b["BINS"], x.device)
    tiles = -(-layer.group_outputs // b["BO"]) * layer.groups * -(-layer.batch // b["BI"])
    stride, padding, dilation = geometry
    residual_measure[(tiles,)](
        x, _panels(weight, layer), t.smooth_h, t.smooth_w, dft, weights, out, *x.stride(),
        layer.batch, layer.outputs, layer.inputs, layer.group_outputs, height, width, *layer.kernel,
        *stride, *padding, *dilation, N, M, dft.shape[1],
        WIDE=wide(x, b["BI"]), **config.arguments(), **switches(layer),
    )  # fmt: skip


def _walk(x_bins, weight, y_bins, weights, partial, layer: Layer, images: int, bins: int) -> None:
    """The sum over ``bins`` into the first parts of ``partial``."""
    tiles, parts, each = walk_parts(layer, images, bins)
    config = measure_blocks(layer, images)
    arguments = (
        x_bins, weight, y_bins, weights, partial, images, layer.channels, layer.outputs, layer.inputs,
        layer.group_outputs, bins, each,
    )  # fmt: skip
    whole = layer.inputs <= dict(config.blocks)["K"]
    launch_tiles(measure_bins, x_bins, arguments, layer, config, tiles * parts, POINTWISE=layer.pointwise, WHOLE=whole)


def _pointwise(x, weight, bias, output, layer: Layer, t: Tables, geometry, out) -> None:
    (N, M), (height, width) = t.outputs, x.shape[2:]
    stride, padding, _ = geometry
    bins, frequencies = bin_count(N, M), (N // 2 + 1, M // 2 + 1)
    panels = _panels(weight, layer)
    chunk = images_at_once(layer, t)
    x_bins = x.new_empty(bins * chunk * 2 * layer.channels, dtype=layer.stored)
    for start in range(0, layer.batch, chunk):
        piece, result = x[start : start + chunk], out[start : start + chunk]
        images = len(piece)
        arguments = (
            piece, x_bins, t.dft_h, t.dft_w, t.low_h, t.low_w, *x.stride(), images, layer.channels, height, width,
            *stride, *padding, N, M, *t.kept,
        )  # fmt: skip
        launch_spectra(residual_bins, piece, arguments, layer, frequencies, (height, width), WIDE=wide(x))
        parts = walk_parts(layer, images, bins)[1]
        partial = result if parts == 1 else out.new_empty(parts, *result.shape)
        _walk(x_bins, panels, x_bins, t.all_weights, partial, layer, images, bins)
        if parts > 1:
            torch.sum(partial, 0, out=result)


class Bins:
    """The branch "bins": buffers for a chunk of images, and what is the same for every chunk."""

    def __init__(self, x, weight, bias, output, layer: Layer, t: Tables, geometry, chunk: int):
        self.x, self.weight, self.bias, self.output = x, weight, bias, output
        self.layer, self.t, self.geometry = layer, t, geometry
        self.bins = bin_count(2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
        self.chunk = chunk
        self.row_slots = t.lines[0] * t.kept[1]
        self.line_slots = self.row_slots + t.lines[1] * t.kept[0]
        edge_slots = t.edges[0] * t.kept[1] + t.edges[1] * t.kept[0]
        self.x_bins = self._buffer(self.bins, layer.channels)
        self.x_lines = self._buffer(edge_slots, max(layer.kernel) * layer.channels)
        self.lines = self._buffer(self.line_slots, layer.outputs)
        self.y_bins = self._buffer(self.bins, layer.outputs)
        self.spectrum = self._weight_spectrum()
        self.panels = self._line_panels()

    def _buffer(self, slots: int, channels: int) -> torch.Tensor:
        return self.x.new_empty(slots * self.chunk * 2 * channels, dtype=self.layer.stored)

    def _weight_spectrum(self) -> torch.Tensor:
        layer, weight = self.layer, self.weight
        out = weight.new_empty(self.bins, layer.inputs, layer.outputs, 2, dtype=layer.stored)
        config = weight_blocks()
        b = dict(config.blocks)
        grid = -(-self.bins // b["BINS"]) * -(-layer.inputs * layer.outputs // b["CELLS"])
        weight_bins[(grid,)](
            weight, out, self.t.phases, *weight.stride(), layer.inputs, layer.outputs, layer.kernel[1],
            layer.kernel[0] * layer.kernel[1], self.bins, **config.arguments(),
        )  # fmt: skip
        return out

    def _line_panels(self) -> torch.Tensor:
        """[kh][kw][inputs][outputs], then [kw][kh][inputs][outputs]."""
        by_row = self.weight.permute(2, 3, 1, 0)
        both = by_row.reshape(-1), by_row.transpose(0, 1).reshape(-1)
        return torch.cat(both).to(self.layer.stored)

    def measure(self, start: int, out: torch.Tensor) -> None:
        """One number per map into ``out``, for the chunk of images from ``start`` on."""
        x = self.x[start : start + self.chunk]
        if self.output is None:
            stride, padding, dilation = self.geometry
            y, bias = F.conv2d(x, self.weight, None, stride, padding, dilation, self.layer.groups), None
        else:
            y, bias = self.output[start : start + self.chunk], self.bias
        self._input(x)
        if self.line_slots:
            self._lines(x)
        layer, t, images = self.layer, self.t, len(x)
        half_plane = t.outputs[0] // 2 + 1, t.outputs[1] // 2 + 1
        blocks = spectra_grid(spectra_blocks(layer, half_plane, t.outputs, False), 1, 1, half_plane)[0]
        parts = walk_parts(layer, images, self.bins)[1]
        partial = out.new_empty(parts + blocks, *out.shape)
        arguments = (
            y, y if bias is None else bias, self.lines, self.y_bins, partial[parts:], t.dft_h, t.dft_w,
            t.frame_h, t.frame_w, *y.stride(), images, layer.outputs, *t.outputs, *t.kept, *t.lines,
        )  # fmt: skip
        launch_spectra(output_bins, y, arguments, layer, half_plane, t.outputs, BIAS=bias is not None, WIDE=wide(y))
        _walk(self.x_bins, self.spectrum, self.y_bins, t.kept_weights, partial, layer, images, self.bins)
        torch.sum(partial, 0, out=out)

    def _input(self, x: torch.Tensor) -> None:
        arguments = x, self.x_bins, self.t.input_h, self.t.input_w, *x.stride(), *x.shape, *self.t.kept
        launch_spectra(input_bins, x, arguments, self.layer, self.t.kept, (x.shape[2], x.shape[3]), WIDE=wide(x))

    def _lines(self, x: torch.Tensor) -> None:
        layer, t, images = self.layer, self.t, len(x)
        config = line_blocks()
        b = dict(config.blocks)
        taps = max(layer.kernel)
        rows = max(layer.kernel[0] * t.kept[0], layer.kernel[1] * t.kept[1])
        grid = images * sum(t.edges) * -(-x.shape[1] // b["C"]) * -(-rows // b["F"])
        line_spectra[(grid,)](
            x, self.x_lines, t.samples, t.line_rows, *x.stride(), *x.shape, *t.edges, *layer.kernel, *t.kept,
            taps, WIDE=wide(x), **config.arguments(), **switches(layer),
        )  # fmt: skip
        config = product_blocks(layer, images)
        b = dict(config.blocks)
        tiles = -(-images // b["BI"]) * -(-layer.group_outputs // b["BO"]) * layer.groups
        line_products[(self.line_slots * tiles,)](
            self.x_lines, self.panels, self.lines, t.sources, images, layer.channels, layer.outputs, layer.inputs,
            layer.group_outputs, self.row_slots, *t.kept, *layer.kernel, taps, GROUPED=layer.groups > 1,
            **config.arguments(), **switches(layer),
        )  # fmt: skip


def _bins(x, weight, bias, output, layer: Layer, t: Tables, geometry, out) -> None:
    walk = Bins(x, weight, bias, output, layer, t, geometry, images_at_once(layer, t))
    for start in range(0, layer.batch, walk.chunk):
        walk.measure(start, out[start : start + walk.chunk])


BRANCHES = {"residual": _residual, "pointwise": _pointwise, "bins": _bins}


def conv2d_alias_l1(
    x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups, *, out: torch.Tensor
) -> None:
    """The op, for float32, float16 and bfloat16; ``ops.conv2d_alias_l1`` has its arguments.

    The tables that came along are those of the PyTorch form; the kernels' own are kept per geometry and device.

    Args:
        out: float32 [B, Cout], contiguous; overwritten.
    """
    if out.numel() == 0:
        return
    layer = layer_of(x, weight, output, stride, padding, dilation, groups)
    t = tables(layer.geometry, x.device)
    with on_device_of(x):
        BRANCHES[served_by(layer, t)](x, weight, bias, output, layer, t, (stride, padding, dilation), out)
