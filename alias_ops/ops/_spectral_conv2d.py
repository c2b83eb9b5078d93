"""Identity 7 in PyTorch: the kept spectrum of a stride-1 convolution, from the spectra of x and weight.

Along each axis the spectrum of the full correlation is a product; what the layer keeps differs from
it by a few lines, whose phases (frame) and input samples (sources) come from ``designs.frame_lines``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch

from .. import designs
from ._library import plane
from ._spectra import both_signs, both_signs_adjoint, dense, dense_adjoint, parts

__all__ = ["Axis", "LowSpectrum", "dense_axes", "fft_axis"]


# Real [..., S] -> complex [f, ...]: the non-negative frequencies of the last dimension.
Transform = Callable[[torch.Tensor], torch.Tensor]


class Line(NamedTuple):
    """One line of the frame: its phases [h+1], the taps that meet samples on it, and those samples."""

    phases: torch.Tensor
    taps: list[int]
    samples: list[int]


@dataclass(frozen=True)
class Axis:
    """One axis of identity 7: bins 0..h of the input, of the taps, and of the frame's lines."""

    transform: Transform
    input_rows: torch.Tensor  # real [2, h+1, samples]; empty where the transform is an FFT
    tap_rows: torch.Tensor  # real [2, h+1, taps]
    lines: list[Line]


def _lines(weights: torch.Tensor, sources: tuple[tuple[int, ...], ...]) -> list[Line]:
    lines = []
    for phases, line in zip(torch.complex(weights[0], weights[1]), sources, strict=True):
        taps = [tap for tap, source in enumerate(line) if source >= 0]
        lines.append(Line(phases, taps, [line[tap] for tap in taps]))
    return lines


def dense_axes(x, weight, tables_h, tables_w, stride, padding, dilation) -> tuple[Axis, Axis]:
    """The axes from the op's own tables."""

    def axis(d: int, tables: list[torch.Tensor]) -> Axis:
        input_rows, tap_rows, weights = (table.to(x) for table in tables[:3])
        sources = designs.frame_sources(plane(x)[d], plane(weight)[d], stride[d], padding[d], dilation[d])
        return Axis(partial(dense, table=input_rows), input_rows, tap_rows, _lines(weights, sources))

    return axis(0, tables_h), axis(1, tables_w)


def fft_axis(like: torch.Tensor, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    geometry = (size, kernel, stride, padding, dilation)
    stride_1 = designs.correlation_size(size, kernel, padding, dilation)
    length = designs.output_size(stride_1, stride) * stride
    kept = designs.half_band(stride_1, stride) + 1

    def transform(x: torch.Tensor) -> torch.Tensor:
        # Samples beyond L have the phase of those L before them: wrap, since rfft would cut them off.
        wrapped = x[..., :length]
        for start in range(length, size, length):
            part = x[..., start : start + length]
            wrapped = wrapped + torch.nn.functional.pad(part, (0, wrapped.shape[-1] - part.shape[-1]))
        return torch.fft.rfft(wrapped, n=length, norm="forward")[..., :kept].movedim(-1, 0)

    weights = designs.frame_lines(*geometry)[0].to(like)
    lines = _lines(weights, designs.frame_sources(*geometry))
    return Axis(transform, like.new_empty(0), designs.tap_phases(*geometry).to(like), lines)


def _signed(spectrum: torch.Tensor) -> torch.Tensor:
    """[f, ...] of something real -> [2, f, ...]: +f and -f."""
    return torch.stack([spectrum, torch.complex(spectrum.real, -spectrum.imag)])


def _over(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Trailing dimensions of size 1, to multiply the leading ones of ``like``."""
    return vector.reshape(*vector.shape, *(1,) * (like.dim() - vector.dim()))


def _product(inputs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[..., B, I, taps] and [..., O, I, taps] -> [..., B, O]."""
    return inputs.flatten(-2) @ weights.flatten(-2).mT


class _Inputs:
    """The spectra of some images [B, Cin, H, W]."""

    def __init__(self, x: torch.Tensor, axes: tuple[Axis, Axis], groups: int):
        axis_h, axis_w = axes
        x = x.unflatten(1, (groups, -1)).transpose(0, 1)  # [G, B, I, H, W]
        self.along = axis_w.transform(x)  # [g, G, B, I, H]
        self.hat = both_signs(axis_h.transform(parts(self.along)))  # [2, f, g, G, B, I]
        self.samples = sorted({sample for line in axis_w.lines for sample in line.samples})
        self.columns = x[..., self.samples]
        if self.samples:
            self.columns_hat = _signed(axis_h.transform(self.columns.mT))  # [2, f, G, B, I, column]

    def at(self, line: Line) -> list[int]:
        return [self.samples.index(sample) for sample in line.samples]


class LowSpectrum:
    """Kept bins of the stride-1 maps' spectrum of the layer with weight [Cout, Cin / groups, kH, kW]."""

    def __init__(self, weight: torch.Tensor, axes: tuple[Axis, Axis], groups: int):
        self.groups, self.axes, (axis_h, axis_w) = groups, axes, axes
        self.weight = weight.unflatten(0, (groups, -1))  # [G, O, I, t, u]
        self.along = dense(self.weight, axis_w.tap_rows)  # [g, G, O, I, t]
        self.hat = both_signs(dense(parts(self.along), axis_h.tap_rows))  # [2, f, g, G, O, I]
        if axis_w.lines:
            self.columns_hat = _signed(dense(self.weight.mT, axis_h.tap_rows))  # [2, f, G, O, I, u]

    def inputs(self, x: torch.Tensor) -> _Inputs:
        return _Inputs(x, self.axes, self.groups)

    def forward(self, x: _Inputs) -> torch.Tensor:
        """Complex [2, h+1, h'+1, B, Cout], the half plane of the kept bins."""
        axis_h, axis_w = self.axes
        low = x.hat @ self.hat.mT
        for row in axis_h.lines:
            line = _product(x.along[..., row.samples], self.along[..., row.taps])
            low = low + _over(_signed(row.phases)[..., None], low) * line
        for column in axis_w.lines:
            at = x.at(column)
            line = _product(x.columns_hat[..., at], self.columns_hat[..., column.taps])
            for row in axis_h.lines:
                corner = _corner(x.columns, row.samples, at) @ _corner(self.weight, row.taps, column.taps).mT
                line = line + _over(_signed(row.phases), line) * corner
            low = low + _over(column.phases, low[0, 0]) * line[:, :, None]
        return low.transpose(3, 4).flatten(4)

    def adjoint(self, x: _Inputs, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Adjoint of :meth:`forward`, for dense axes: grad as it returns -> d x, d weight."""
        axis_h, axis_w = self.axes
        grad = grad.unflatten(4, (self.groups, -1)).transpose(3, 4)
        d_inputs = _along_adjoint(grad @ self.hat.conj_physical(), axis_h.input_rows)
        d_taps = _along_adjoint(grad.mT @ x.hat.conj_physical(), axis_h.tap_rows)
        for row in axis_h.lines:
            d_line = (_over(_signed(row.phases)[..., None], grad).conj_physical() * grad).sum((0, 1))
            inputs, taps = _product_adjoint(d_line, x.along[..., row.samples], self.along[..., row.taps])
            _add(d_inputs, row.samples, inputs)
            _add(d_taps, row.taps, taps)
        dx, dweight = dense_adjoint(d_inputs, axis_w.input_rows), dense_adjoint(d_taps, axis_w.tap_rows)
        if axis_w.lines:
            self._columns_adjoint(x, grad, dx, dweight)
        return dx.transpose(0, 1).flatten(1, 2), dweight.flatten(0, 1)

    def _columns_adjoint(self, x: _Inputs, grad: torch.Tensor, dx: torch.Tensor, dweight: torch.Tensor) -> None:
        axis_h, axis_w = self.axes
        d_columns, d_inputs, d_taps = (torch.zeros_like(t) for t in (x.columns, x.columns_hat, self.columns_hat))
        for column in axis_w.lines:
            at = x.at(column)
            d_line = (_over(column.phases, grad[0, 0]).conj_physical() * grad).sum(2)
            inputs, taps = _product_adjoint(d_line, x.columns_hat[..., at], self.columns_hat[..., column.taps])
            _add(d_inputs, at, inputs)
            _add(d_taps, column.taps, taps)
            for row in axis_h.lines:
                d_corner = (_over(_signed(row.phases), d_line).conj_physical() * d_line).real.sum((0, 1))
                corner_x = _corner(x.columns, row.samples, at)
                corner_w = _corner(self.weight, row.taps, column.taps)
                _add_corner(d_columns, row.samples, at, d_corner @ corner_w)
                _add_corner(dweight, row.taps, column.taps, d_corner.mT @ corner_x)
        d_columns += dense_adjoint(d_inputs[0] + d_inputs[1].conj_physical(), axis_h.input_rows).mT
        dweight += dense_adjoint(d_taps[0] + d_taps[1].conj_physical(), axis_h.tap_rows).mT
        _add(dx, x.samples, d_columns)


def _along_adjoint(d_hat: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    along = dense_adjoint(both_signs_adjoint(d_hat), rows)
    return torch.complex(along[0], along[1])


def _add(to: torch.Tensor, samples: list[int], values: torch.Tensor) -> None:
    to.index_add_(-1, torch.tensor(samples, device=to.device), values)


def _corner(tensor: torch.Tensor, rows: list[int], columns: list[int]) -> torch.Tensor:
    return tensor[..., rows, :][..., columns].flatten(-3)


def _product_adjoint(
    grad: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adjoint of :func:`_product`."""
    d_inputs = (grad @ weights.flatten(-2).conj_physical()).view(inputs.shape)
    return d_inputs, (grad.mT @ inputs.flatten(-2).conj_physical()).view(weights.shape)


def _add_corner(to: torch.Tensor, rows: list[int], columns: list[int], values: torch.Tensor) -> None:
    values = values.unflatten(-1, (-1, len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            to[..., row, column] += values[..., i, j]
