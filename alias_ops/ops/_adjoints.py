"""Gradients of the two measures, written out: they run wherever the ops run, without autograd of their own.

With D the half plane of bins and c the weight of each in the sum, d|D| contributes c D / |D| (0 at D = 0),
which the adjoint transform takes back to the residual on the strided grid.
"""

import torch

from .. import designs
from ._library import accumulation_dtype
from ._spectra import bin_weights, half_plane, half_plane_adjoint, subtract_low

__all__ = ["alias_l1_backward", "conv2d_alias_l1_backward"]


def _sign(spectrum: torch.Tensor, grad: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """c D / |D| for the bins of every map, times that map's incoming gradient."""
    return spectrum.sgn() * bin_weights(spectrum, outputs) * grad[..., None, None, None]


def alias_l1_backward(grad, x, tables_h, tables_w, stride) -> torch.Tensor:
    wide = accumulation_dtype(x.dtype)
    maps = x.to(wide)
    low_h, dft_h = (t.to(maps) for t in tables_h)
    low_w, dft_w = (t.to(maps) for t in tables_w)
    dx = torch.zeros_like(maps)
    if dx.numel() == 0:
        return dx.to(x.dtype)
    strided = half_plane(maps[..., :: stride[0], :: stride[1]], dft_h, dft_w)
    difference = subtract_low(strided, half_plane(maps, low_h, low_w))
    sign = _sign(difference, grad.to(wide), (dft_h.shape[-1], dft_w.shape[-1]))
    dx[..., :: stride[0], :: stride[1]] = half_plane_adjoint(sign, dft_h, dft_w)
    dx -= half_plane_adjoint(sign[..., : low_h.shape[-2], : low_w.shape[-2]], low_h, low_w)
    return dx.to(x.dtype)


def conv2d_alias_l1_backward(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    """By identity 4, tap by tap: ``r = sum_taps w_tap (S_dy x S_dx^T - P_dy x P_dx^T)``.

    The S part of all taps together is the strided convolution, with PyTorch's own backward.
    """
    wide = accumulation_dtype(x.dtype)
    dx, dweight = torch.zeros_like(x, dtype=wide), torch.zeros_like(weight, dtype=wide)
    if grad.numel() == 0 or x.numel() == 0:
        return dx.to(x.dtype), dweight.to(weight.dtype)
    wide_x, wide_weight = x.to(wide), weight.to(wide)
    low_h, low_w = (
        designs.tap_factors(x.shape[d - 2], weight.shape[d - 2], stride[d], padding[d], dilation[d])[1].to(wide_x)
        for d in (0, 1)
    )
    grouped_x, grouped_weight = wide_x.unflatten(1, (groups, -1)), wide_weight.unflatten(0, (groups, -1))
    taps = [(t, u) for t in range(weight.shape[2]) for u in range(weight.shape[3])]

    def low_tap(t: int, u: int) -> torch.Tensor:
        return low_h[t] @ (grouped_x @ low_w[u].mT)

    geometry = (stride, padding, dilation)
    residual = torch.nn.functional.conv2d(wide_x, wide_weight, None, *geometry, groups).unflatten(1, (groups, -1))
    for t, u in taps:
        residual = residual - torch.einsum("goi,bginm->bgonm", grouped_weight[..., t, u], low_tap(t, u))
    dft_h, dft_w = tables_h[4].to(wide_x), tables_w[4].to(wide_x)
    spectrum = half_plane(residual.flatten(1, 2), dft_h, dft_w)
    sign = _sign(spectrum, grad.to(wide), (dft_h.shape[-1], dft_w.shape[-1]))
    d_residual = half_plane_adjoint(sign, dft_h, dft_w)

    dx, dweight, _ = torch.ops.aten.convolution_backward(
        d_residual, wide_x, wide_weight, None, *geometry, False, [0, 0], groups, [True, True, False]
    )
    d_grouped = d_residual.unflatten(1, (groups, -1))
    for t, u in taps:
        back = torch.einsum("goi,bgonm->bginm", grouped_weight[..., t, u], d_grouped)
        dx = dx - (low_h[t].mT @ back @ low_w[u]).flatten(1, 2)
        dweight[..., t, u] -= torch.einsum("bgonm,bginm->goi", d_grouped, low_tap(t, u)).flatten(0, 1)
    return dx.to(x.dtype), dweight.to(weight.dtype)
