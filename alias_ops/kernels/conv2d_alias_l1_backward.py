"""Gradients of ``conv2d_alias_l1`` on a GPU: identity 7 there and back, in chunks of images.

Per chunk: the strided output and its bins, as in the forward pass; in every bin D / |D|, which the adjoint transform
takes to the strided output and PyTorch's own backward of the strided layer to x and weight. What the low band has to
say comes off both: products over channels bin by bin, then adjoint transforms. All numbers between kernels are of
float32 grade for x of 16 bits too: D / |D| of a small bin magnifies what rounding did to it.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F

from .. import designs
from ..ops._adjoints import convolution_backward
from ._launch import on_device_of
from ._precision import products
from ._tables import prepared
from .conv2d_alias_l1 import Bins, layer_of
from .conv2d_alias_l1_adjoints import frame_adjoint, lines_adjoint, maps_adjoint, weight_adjoint
from .conv2d_alias_l1_backward_plan import (
    frame_blocks,
    images_at_once,
    is_pointwise,
    lines_blocks,
    maps_blocks,
    nyquist_count,
    sign_blocks,
    weight_blocks,
)
from .conv2d_alias_l1_backward_products import FrameProducts, add_weight_bins, input_bins_of
from .conv2d_alias_l1_launch import along_channels, launch_spectra, launch_tiles, switches, wide
from .conv2d_alias_l1_plan import Layer
from .conv2d_alias_l1_signs import map_signs, output_signs, sign_bins
from .conv2d_alias_l1_tables import Tables, bin_count, tables
from .separable2d import apply_plan
from .separable2d_plan import Plan, plan

__all__ = ["conv2d_alias_l1_backward"]


def _take_back(
    bins, whole, out, table_h, table_w, kept, listed, outputs, pairs: bool, rows: int, images: int, layer: Layer
) -> None:
    """Launch ``maps_adjoint``: bins to maps ``out``, or off ``whole``.

    Args:
        kept, listed, outputs: frequencies of the list of bins, its size, and N x M with its Nyquist bins.
        pairs, rows: whether bins are pairs, and in how many rows an image lies.
    """
    channels, size = out.shape[1], (out.shape[2], out.shape[3])
    frequencies = table_h.shape[1], table_w.shape[1]
    config = maps_blocks(layer, size, frequencies, along_channels(out))
    b = dict(config.blocks)
    grid = images * -(-channels // b["C"]) * -(-size[0] // b["H"]) * -(-size[1] // b["W"])
    image_step = rows * channels * (2 if pairs else 1)
    source = out if whole is None else whole
    maps_adjoint[(grid,)](
        bins, source, out, table_h, table_w, *source.stride(), *out.stride(), images, channels, *size, *frequencies,
        *kept, *listed, bin_count(*listed), *outputs, images * image_step, image_step, 1 if pairs else channels,
        PAIRS=pairs, LESS=whole is not None, LAST=along_channels(out), WIDE=wide(out) or wide(source),
        **config.arguments(), **switches(layer),
    )  # fmt: skip


class _Gradients(Bins):
    """Identity 7: buffers for a chunk of images, and what the chunks add up."""

    def __init__(self, grad, x, weight, layer: Layer, t: Tables, geometry, out):
        single = weight.float()
        super().__init__(x, single, None, None, layer, t, geometry, images_at_once(layer, t, x.itemsize))
        self.grad, self.out, self.listed = grad, out, (2 * t.kept[0] - 1, 2 * t.kept[1] - 1)
        self.d_x_bins = self._buffer(self.bins, layer.channels)
        self.d_lines = self._buffer(self.line_slots, layer.outputs)
        self.signs = self._buffer(2 * (self.bins + nyquist_count(*t.outputs, t.kept)), layer.outputs)
        self.d_spectrum = single.new_empty(self.bins * layer.groups, layer.inputs, layer.group_outputs * 2)
        self.d_weight = torch.zeros_like(single, memory_format=torch.contiguous_format)
        self.frame = FrameProducts(self.panels, layer, t)

    def add(self, start: int) -> None:
        """Write dx of the chunk of images from ``start`` on, add what the weight gets from them."""
        x = self.x[start : start + self.chunk]
        single, images, layer = x.float(), len(x), self.layer
        stride, padding, dilation = self.geometry
        y = F.conv2d(single, self.weight, None, stride, padding, dilation, layer.groups)
        self._input(single)
        if self.line_slots:
            self._lines(single)
        self._signs(y, self.grad[start : start + self.chunk])
        # The gradient of the output takes its place.
        _take_back(
            self.signs, None, y, self.t.dft_h, self.t.dft_w, self.t.kept, self.listed, self.t.outputs, True, 2, images,
            layer,
        )  # fmt: skip
        dx, d_weight = convolution_backward(y, single, self.weight, stride, padding, dilation, layer.groups)
        self.d_weight += d_weight
        self._channels(images, start == 0)
        if self.line_slots:
            self._lines_back(dx, images)
        out = self.out[0][start : start + self.chunk]
        _take_back(
            self.d_x_bins, dx, out, self.t.input_h, self.t.input_w, self.t.kept, self.listed, self.listed, False, 2,
            images, layer,
        )  # fmt: skip

    def _signs(self, y: torch.Tensor, grad: torch.Tensor) -> None:
        layer, t, images = self.layer, self.t, len(y)
        half_plane = t.outputs[0] // 2 + 1, t.outputs[1] // 2 + 1
        nyquist = self.signs[self.bins * images * 4 * layer.outputs :]
        arguments = (
            y, grad, self.lines, self.y_bins, nyquist, t.dft_h, t.dft_w, t.frame_h, t.frame_w, *y.stride(), images,
            layer.outputs, *t.outputs, *t.kept, *t.lines,
        )  # fmt: skip
        # The larger tiles for channels that come last would leave no registers for directions.
        launch_spectra(output_signs, y, arguments, layer, half_plane, t.outputs, False, WIDE=wide(y))
        config = sign_blocks(layer, images)
        b = dict(config.blocks)
        tiles = -(-images // b["BI"]) * -(-layer.group_outputs // b["BO"]) * layer.groups
        arguments = (
            self.x_bins, self.spectrum, self.y_bins, t.kept_weights, grad, self.signs, images, layer.channels,
            layer.outputs, layer.inputs, layer.group_outputs,
        )  # fmt: skip
        launch_tiles(sign_bins, self.x_bins, arguments, layer, config, tiles * self.bins)

    def _kept(self, flat: torch.Tensor, images: int, channels: int) -> torch.Tensor:
        """[bins, images * (re, im), channels] of a buffer."""
        rows = 2 * images
        return flat[: self.bins * rows * channels].view(self.bins, rows, channels)

    def _channels(self, images: int, first: bool) -> None:
        layer = self.layer
        signs = self._kept(self.signs, images, 2 * layer.outputs)
        x_bins, d_x_bins = (self._kept(t, images, layer.channels) for t in (self.x_bins, self.d_x_bins))
        input_bins_of(signs, self.spectrum.flatten(2), d_x_bins, layer.groups)
        add_weight_bins(x_bins, signs, self.d_spectrum, layer.groups, first)

    def _lines_back(self, dx: torch.Tensor, images: int) -> None:
        """The frame's share comes off dx where the lines meet x."""
        layer, t = self.layer, self.t
        config = frame_blocks(t.lines)
        b = dict(config.blocks)
        grid = -(-images * layer.outputs // b["BLOCK"]) * sum(t.kept) * -(-max(t.lines) // b["LINES"])
        frame_adjoint[(grid,)](
            self.signs, self.d_lines, t.frame_h, t.frame_w, images, layer.outputs, *t.kept, *t.lines,
            **config.arguments(),
        )  # fmt: skip
        found = self.frame.adjoint(self.x_lines, self.d_lines, images)
        config = lines_blocks()
        b = dict(config.blocks)
        (image_stride, channel_stride, *strides), samples, tables_of = dx.stride(), t.samples, t.line_rows
        for axis, lines in enumerate(found):
            length, frequencies, taps = dx.shape[3 - axis], t.kept[1 - axis], layer.kernel[1 - axis]
            if t.edges[axis]:
                blocks = -(-length // b["BLOCK"]) * t.edges[axis] * -(-layer.channels // b["C"])
                lines_adjoint[(images * blocks,)](
                    lines, dx, samples, tables_of, image_stride, channel_stride, strides[axis], strides[1 - axis],
                    images, layer.channels, t.edges[axis], length, taps, frequencies, WIDE=wide(dx),
                    **config.arguments(), **switches(layer),
                )  # fmt: skip
            samples, tables_of = samples[t.edges[axis] :], tables_of[2 * taps * frequencies * length :]

    def finish(self) -> None:
        """Write the gradient of the weight."""
        layer, out = self.layer, self.out[1]
        if self.line_slots:
            self.d_weight -= self.frame.weight_gradient()
        taps = layer.kernel[0] * layer.kernel[1]
        config = weight_blocks(taps)
        b = dict(config.blocks)
        grid = -(-layer.inputs * layer.outputs // b["CELLS"]) * -(-taps // b["TAPS"])
        weight_adjoint[(grid,)](
            self.d_spectrum, self.d_weight, out, self.t.phases, *out.stride(), layer.inputs, layer.outputs,
            layer.group_outputs, layer.kernel[1], taps, self.bins, **config.arguments(),
        )  # fmt: skip


def _spectral(grad, x, weight, layer: Layer, t: Tables, geometry, out) -> None:
    gradients = _Gradients(grad, x, weight, layer, t, geometry, out)
    for start in range(0, layer.batch, gradients.chunk):
        gradients.add(start)
    gradients.finish()


def _residual_plan(height: int, width: int, stride: tuple[int, int], device: torch.device, adjoint: bool) -> Plan:
    left, right = (f.numpy() for f in designs.residual_factors(height, width, stride))
    return plan(left, right, adjoint, torch.finfo(torch.float64).eps, False, device)


def _pointwise(grad, x, weight, layer: Layer, t: Tables, geometry, out) -> None:
    """Identity 4 of a 1 x 1 layer: a stride-1 layer on the residual of x, which is of the strided size."""
    (N, M), stride = t.outputs, geometry[0]
    single, half_plane = weight.float(), (N // 2 + 1, M // 2 + 1)
    key = _residual_plan, *x.shape[2:], tuple(stride), x.device
    there, back = prepared(*key, False), prepared(*key, True)
    count = 3 if layer.precision == "tf32x3" else 1
    chunk = images_at_once(layer, t, x.itemsize)
    signs = single.new_empty(bin_count(N, M) * chunk * 2 * layer.outputs)
    total = torch.zeros_like(single)
    for start in range(0, layer.batch, chunk):
        piece = x[start : start + chunk]
        images = len(piece)
        form = torch.channels_last if along_channels(piece) else torch.contiguous_format
        inputs = torch.empty((images, layer.channels, N, M), device=x.device, memory_format=form)
        apply_plan(there, piece.float(), inputs, count)
        y = F.conv2d(inputs, single, groups=layer.groups)
        arguments = (
            y, grad[start : start + chunk], signs, t.dft_h, t.dft_w, *y.stride(), images, layer.outputs, N, M
        )  # fmt: skip
        launch_spectra(map_signs, y, arguments, layer, half_plane, t.outputs, False, WIDE=wide(y))
        _take_back(signs, None, y, t.dft_h, t.dft_w, half_plane, (N, M), (N, M), True, 1, images, layer)
        d_inputs, d_weight = convolution_backward(y, inputs, single, (1, 1), (0, 0), (1, 1), layer.groups)
        total += d_weight
        dx = out[0][start : start + chunk]
        # Three products into 16 bits are a variant of separable2d's kernels of which some spill.
        single_dx = dx if dx.itemsize == 4 else torch.empty_like(dx, dtype=torch.float32)
        apply_plan(back, d_inputs, single_dx, count)
        if single_dx is not dx:
            dx.copy_(single_dx)
    out[1].copy_(total)


def conv2d_alias_l1_backward(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups, *, out: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The op, for float32, float16 and bfloat16.

    Args:
        grad: [B, Cout], of the values of the maps.
        x, weight, stride, padding, dilation, groups: as for ``conv2d_alias_l1``; the tables are not looked at.
        out: (dx, dweight) in the dtype of x and of the weight; overwritten.
    """
    if grad.numel() == 0 or x.numel() == 0:
        for each in out:
            each.zero_()
        return
    layer = layer_of(x, weight, None, stride, padding, dilation, groups)
    # What a 16-bit x has of a mean would leak from float32 spectra of 11 bits into bins that are small beside it.
    exact = products(x) == 3 or x.dtype is not torch.float32
    layer = replace(layer, stored=torch.float32, precision="tf32x3" if exact else "tf32")
    t = tables(layer.geometry, x.device)
    branch = _pointwise if is_pointwise(layer) else _spectral
    with on_device_of(x), torch.no_grad():
        branch(grad.float().contiguous(), x, weight, layer, t, (stride, padding, dilation), out)
