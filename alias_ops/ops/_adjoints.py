"""Gradients of the two measures, written out: they run wherever the ops run, without autograd of their own.

With D the half plane of bins and c the weight of each in the sum, d|D| contributes c D / |D| (0 at D = 0),
which the adjoint transforms take back to the strided output and, with a minus, to the low band.
"""

import torch

from ._library import accumulation_dtype
from ._spectra import alias_spectrum, bin_weights, half_plane, half_plane_adjoint, subtract_low
from ._spectral_conv2d import LowSpectrum, dense_axes

__all__ = ["alias_l1_backward", "conv2d_alias_l1_backward", "conv2d_alias_l1_parts", "convolution_backward"]


def _sign(spectrum: torch.Tensor, grad: torch.Tensor, outputs: tuple[int, int]) -> torch.Tensor:
    """c D / |D| for the bins of every map, times that map's incoming gradient."""
    return spectrum.sgn() * (bin_weights(spectrum, outputs) * grad)


def alias_l1_backward(grad, x, tables_h, tables_w, stride) -> torch.Tensor:
    wide = accumulation_dtype(x.dtype)
    maps = x.to(wide)
    low_h, dft_h = tables_h = [t.to(maps) for t in tables_h]
    low_w, dft_w = tables_w = [t.to(maps) for t in tables_w]
    dx = torch.zeros_like(maps)
    if dx.numel() == 0:
        return dx.to(x.dtype)
    spectrum = alias_spectrum(maps, tables_h, tables_w, stride)
    sign = _sign(spectrum, grad.to(wide), (dft_h.shape[-1], dft_w.shape[-1]))
    dx[..., :: stride[0], :: stride[1]] = half_plane_adjoint(sign, dft_h, dft_w)
    dx -= half_plane_adjoint(sign[:, : low_h.shape[-2], : low_w.shape[-2]], low_h, low_w)
    return dx.to(x.dtype)


def convolution_backward(grad, x, weight, stride, padding, dilation, groups) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's own gradients of the strided layer with respect to x and weight."""
    dx, dweight, _ = torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [True, True, False])
    )
    return dx, dweight


def conv2d_alias_l1_parts(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the low band takes off the gradients of x and weight, and the gradient of the strided output."""
    geometry = (stride, padding, dilation)
    strided = torch.nn.functional.conv2d(x, weight, None, *geometry, groups)
    dft_h, dft_w = tables_h[4].to(x), tables_w[4].to(x)
    low = LowSpectrum(weight, dense_axes(x, weight, tables_h, tables_w, *geometry), groups)
    inputs = low.inputs(x)
    low_spectrum = low.forward(inputs)
    spectrum = half_plane(strided, dft_h, dft_w)
    sign = _sign(subtract_low(spectrum, low_spectrum), grad, (dft_h.shape[-1], dft_w.shape[-1]))
    taken_off = low.adjoint(inputs, sign[:, : low_spectrum.shape[1], : low_spectrum.shape[2]])
    return *taken_off, half_plane_adjoint(sign, dft_h, dft_w)


def conv2d_alias_l1_backward(
    grad, x, weight, tables_h, tables_w, stride, padding, dilation, groups
) -> tuple[torch.Tensor, torch.Tensor]:
    """By identity 7: PyTorch's own backward for the strided output, the adjoint of the low spectrum for the rest."""
    wide = accumulation_dtype(x.dtype)
    if grad.numel() == 0 or x.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(weight)
    operands, geometry = (x.to(wide), weight.to(wide)), (stride, padding, dilation, groups)
    *low, d_strided = conv2d_alias_l1_parts(grad.to(wide), *operands, tables_h, tables_w, *geometry)
    gradients = convolution_backward(d_strided, *operands, *geometry)
    dx, dweight = (whole.sub_(part) for whole, part in zip(gradients, low, strict=True))
    return dx.to(x.dtype), dweight.to(weight.dtype)
