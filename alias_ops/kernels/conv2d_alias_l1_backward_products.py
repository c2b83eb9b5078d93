"""Adjoint products over channels and images: real matrix products of panels that lie contiguously, by PyTorch.

In depthwise layers a group's matrices have one row or column: the bins' products go element by element there.
"""

from math import prod

import torch

from .. import designs
from .conv2d_alias_l1_plan import Layer
from .conv2d_alias_l1_tables import Axis, Tables

__all__ = ["FrameProducts", "add_weight_bins", "input_bins_of"]

# More matrices than this in one call are more than a launch's grid has room for.
MOST_MATRICES = 65535


def _by_group(panels: torch.Tensor, groups: int) -> torch.Tensor:
    """[bins, rows, groups * n] -> [bins * groups, rows, n]."""
    bins, rows, _ = panels.shape
    return panels.view(bins, rows, groups, -1).transpose(1, 2).reshape(bins * groups, rows, -1)


def input_bins_of(signs: torch.Tensor, spectrum: torch.Tensor, out: torch.Tensor, groups: int) -> None:
    """Gradient of the bins of x.

    Args:
        signs: [bins, images * (re, im), outputs * 2] of ``conv2d_alias_l1_signs``.
        spectrum: [bins, inputs, outputs * 2] of ``weight_bins``.
        out: [bins, images * (re, im), groups * inputs]; overwritten.
    """
    if groups == 1:
        torch.bmm(signs, spectrum.mT, out=out)
        return
    if out.shape[2] == groups:
        torch.sum(signs.unflatten(2, (groups, -1)) * spectrum.unflatten(2, (groups, -1)), 3, out=out)
        return
    a, b = _by_group(signs, groups), _by_group(spectrum, groups).mT
    made = torch.cat([torch.bmm(*each) for each in zip(a.split(MOST_MATRICES), b.split(MOST_MATRICES))])
    out.view(len(out), out.shape[1], groups, -1).copy_(made.view(len(out), groups, *made.shape[1:]).transpose(1, 2))


def add_weight_bins(x_bins: torch.Tensor, signs: torch.Tensor, total: torch.Tensor, groups: int, first: bool) -> None:
    """Add the gradient of the spectrum of the weight to total, or write it, if it is the ``first``.

    Args:
        x_bins: [bins, images * (re, im), groups * inputs].
        signs: as for :func:`input_bins_of`.
        total: [bins * groups, inputs, outputs of a group * 2].
    """
    if x_bins.shape[2] == groups > 1:
        found = torch.sum(x_bins[..., None] * signs.unflatten(2, (groups, -1)), 1).view_as(total)
        total.copy_(found) if first else total.add_(found)
        return
    a, b = (x_bins, signs) if groups == 1 else (_by_group(x_bins, groups), _by_group(signs, groups))
    for part in zip(*(t.split(MOST_MATRICES) for t in (total, a.mT, b))):
        part[0].baddbmm_(*part[1:], beta=0 if first else 1)


class FrameProducts:
    """Adjoint of ``line_products``: products of a line's gradient with the taps and the edges of x that it meets.

    Args:
        panels: of the weight, [kernel_h][kernel_w][inputs][outputs], then [kernel_w][kernel_h][inputs][outputs].
    """

    def __init__(self, panels: torch.Tensor, layer: Layer, t: Tables):
        kernel_h, kernel_w = layer.kernel
        self.layer, self.t = layer, t
        shape = layer.inputs, layer.outputs
        rows, columns = panels.chunk(2)
        self.panels = rows.view(kernel_h, kernel_w, *shape), columns.view(kernel_w, kernel_h, *shape)
        self.totals = torch.zeros_like(self.panels[0]), torch.zeros_like(self.panels[1])
        self.meetings = [self._meetings(axis) for axis in layer.geometry]

    @staticmethod
    def _meetings(axis: Axis) -> list[tuple[int, int, int]]:
        """(line, tap, edge of x) wherever a tap meets a sample of x on a line."""
        edges, sources = designs.edge_samples(*axis), designs.frame_sources(*axis)
        return [(i, t, edges.index(s)) for i, line in enumerate(sources) for t, s in enumerate(line) if s >= 0]

    def adjoint(self, x_lines: torch.Tensor, d_lines: torch.Tensor, images: int) -> list[torch.Tensor]:
        """Gradients of the spectra of x's rows and of its columns, each [edge, frequency * image * (re, im), tap,
        channel]; the weight's are added to the totals.

        Args:
            x_lines: flat, as ``line_spectra`` left them.
            d_lines: flat [slot][image][re, im][output].
        """
        found = []
        start_x = start_d = 0
        for axis in (0, 1):
            rows = self.t.kept[1 - axis] * images * 2
            shape_x = self.t.edges[axis], rows, max(self.layer.kernel), self.layer.channels
            shape_d = self.t.lines[axis], rows, self.layer.outputs
            x = x_lines[start_x : (start_x := start_x + prod(shape_x))].view(shape_x)
            d = d_lines[start_d : (start_d := start_d + prod(shape_d))].view(shape_d)
            x = x[:, :, : self.layer.kernel[1 - axis]]
            d_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
            for line, tap, edge in self.meetings[axis]:
                self._add(d[line], x[edge], d_x[edge], self.panels[axis][tap], self.totals[axis][tap])
            found.append(d_x)
        return found

    def _add(self, d, x, d_x, panel, total) -> None:
        """d [rows, outputs]; x and d_x [rows, taps, channels]; panel and total [taps, inputs, outputs]."""
        if self.layer.groups == 1:
            d_x.flatten(1).addmm_(d, panel.flatten(0, 1).mT)
            total.flatten(0, 1).addmm_(x.flatten(1).mT, d)
            return
        d, panel, total, x, d_x = (z.unflatten(-1, (self.layer.groups, -1)) for z in (d, panel, total, x, d_x))
        d_x += torch.einsum("rgo,tigo->rtgi", d, panel)
        total += torch.einsum("rtgi,rgo->tigo", x, d)

    def weight_gradient(self) -> torch.Tensor:
        """[outputs, inputs, kernel_h, kernel_w]: the weight's share of all chunks."""
        return self.totals[0].permute(3, 2, 0, 1) + self.totals[1].permute(3, 2, 1, 0)
