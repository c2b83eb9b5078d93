"""The public functions: stateless, documented, one line of mathematics each."""

from typing import Any

import torch

from . import designs
from ._checks import (
    check_conv2d,
    check_maps,
    check_output,
    check_reduction,
    check_variant,
    is_dtensor,
    pair,
)
from .ops import _fft, alias_l1, conv2d_alias_l1
from .ops._dtensor import on_every_rank
from .ops._library import LIBRARY, accumulation_dtype, autocasting, beside, exporting_to_onnx, plane
from .ops.separable2d import apply as apply_separable2d
from .ops.separable2d import products

__all__ = ["aliasing", "asap_pool2d", "conv2d_aliasing", "flc_pool2d"]

IntPair = int | tuple[int, int]


def _pool2d(pool: str, x: torch.Tensor, stride: IntPair, variant: str) -> torch.Tensor:
    plain = type(x) is torch.Tensor  # asked once: this is in every call
    if not plain and is_dtensor(x):
        return on_every_rank(lambda maps: _pool2d(pool, maps, stride, variant), x)
    check_maps(x)
    steps = pair(stride, "stride", 1)
    check_variant(pool, variant)
    height, width = plane(x)
    if exporting_to_onnx():  # of any size: ONNX has no complex numbers
        place = accumulation_dtype(x.dtype), x.device
        return products(x, designs.pooling_terms(pool, height, width, steps, variant, *place))
    if max(height, width) > _fft.DENSE_LIMIT:
        axis_h = designs.axis_spectrum(pool, height, steps[0], variant)
        return _fft.pool2d(x, (axis_h, designs.axis_spectrum(pool, width, steps[1], variant)))
    factors = designs.pooling_factors(pool, height, width, steps, variant, designs.factor_dtype(x), x.device)
    return apply_separable2d(x, *(factors if plain else beside(x, factors)))


# What TorchScript calls, which reads no Python with keyword-only arguments.
LIBRARY.define("pool2d(Tensor x, str pool, SymInt[2] stride, str variant) -> Tensor")
LIBRARY.impl("pool2d", lambda x, pool, stride, variant: _pool2d(pool, x, stride, variant), "CompositeImplicitAutograd")


def flc_pool2d(x: torch.Tensor, stride: IntPair = 2, *, variant: str = "centered") -> torch.Tensor:
    """FLC pooling: keep the low frequencies of every map, at their own sampling rate; nothing aliases.

    1. Transform each H x W map to its spectrum.
    2. Keep the ceil(H / s) x ceil(W / s) lowest frequencies, -floor(M / 2) to M - floor(M / 2) - 1.
    3. Transform back at that size and take the real part.

    All three are one separable linear map, computed without an FFT up to 1024 pixels a side.

    Args:
        x: floating [..., H, W], any leading dimensions (empty ones included), any strides.
        stride: downsampling factor s, an int or (height, width).
        variant: "centered" (default), or "upstream", bit-compatible with the published module
            (s = 2), which misplaces DC where H = 2 mod 4.

    Returns:
        [..., ceil(H / s), ceil(W / s)] in x's dtype, channels_last if x is. Accumulated in float32
        at least.

    Gradients: of any order.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Grabinski, Jung, Keuper & Keuper, ECCV 2022, equation 2.
    """
    return _pool2d("flc", x, stride, variant)


def asap_pool2d(x: torch.Tensor, stride: IntPair = 2, *, variant: str = "centered") -> torch.Tensor:
    """ASAP pooling: FLC pooling under the square root of a Hamming window, which rings less at edges.

    The window is ``w(k) = sqrt(0.54 + 0.46 cos(2 pi k / H))`` on the kept frequencies k, so a constant
    map keeps its value exactly.

    Args:
        x: floating [..., H, W], any leading dimensions (empty ones included), any strides.
        stride: downsampling factor s, an int or (height, width).
        variant: "centered" (default), or one of the published modules, bit by bit (s = 2):
            "upstream", "upstream_pad1" (pads one row and column first), "upstream_padlarge"
            (pads to about twice the size and crops the middle of the result).

    Returns:
        [..., ceil(H / s), ceil(W / s)] in x's dtype, channels_last if x is; the upstream variants
        differ from this size where 4 does not divide H or W.

    Gradients: of any order.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Grabinski, Keuper & Keuper, arXiv 2307.09804 (IJCV 2026), section 3.2.
    """
    return _pool2d("asap", x, stride, variant)


def _reduce(maps: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "none":
        return maps
    return maps.mean() if reduction == "mean" else maps.sum()


def aliasing(x: torch.Tensor, stride: IntPair = 2, *, reduction: str = "mean") -> torch.Tensor:
    """Aliasing measure (AM) of a downsampling layer, from its stride-1 maps.

    Per map ``sum_kl |F_s[k, l] - F_low[k, l]|``: F_s is the spectrum of ``x[::s, ::s]``, F_low the
    part of the spectrum of x that fits its size, both with ``norm="forward"``. 0 means that nothing
    folded. Sizes that s does not divide are extended by their last row and column.

    Args:
        x: stride-1 maps, floating [..., H, W], any strides.
        stride: s of the layer, an int or (height, width).
        reduction: "mean" over all maps (AM), "sum", or "none" for one value per map.

    Returns:
        A scalar, or [...] with "none"; float32 for half-precision x, otherwise x's dtype. The mean
        of no maps is NaN, as in torch.

    Gradients: first order; ``|0|`` has gradient 0.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """
    check_reduction(reduction)
    if is_dtensor(x):
        return _reduce(on_every_rank(lambda maps: aliasing(maps, stride, reduction="none"), x), reduction)
    check_maps(x)
    steps = pair(stride, "stride", 1)
    return _reduce(alias_l1(x, steps), reduction)


def _autocast(x: Any, *others: Any) -> tuple[Any, ...]:
    """As ``F.conv2d`` does under autocast: float32 and half tensors take the region's dtype."""
    device = x.device.type if isinstance(x, torch.Tensor) else ""
    if not (device and autocasting(device)):
        return x, *others
    taken = (torch.float32, torch.bfloat16, torch.float16)
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if isinstance(t, torch.Tensor) and t.dtype in taken else t for t in (x, *others))


def conv2d_aliasing(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: IntPair = 2,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    groups: int = 1,
    *,
    output: torch.Tensor | None = None,
    through_output: bool = False,
    reduction: str = "mean",
) -> torch.Tensor:
    """Aliasing measure of a strided convolution, without running it at stride 1.

    The same number as ``aliasing(F.conv2d(x, weight, bias, 1, padding, dilation, groups), stride)``.
    The low band of the stride-1 map comes from the low bands of x and weight; the strided output is
    computed, or given.

    Args:
        x: floating [B, Cin, H, W] or [Cin, H, W], zero-padded by ``padding``. For other padding modes
            pad first and pass ``padding=0``.
        weight: [Cout, Cin / groups, kH, kW] in x's dtype.
        bias: [Cout] or None. A constant cannot alias: it changes nothing.
        stride, padding, dilation: an int or (height, width), as in ``torch.nn.functional.conv2d``.
        groups: as in ``torch.nn.functional.conv2d``.
        output: the layer's own strided output for this x (with ``bias`` in it), if at hand; saves
            the convolution. Taken at its word, and treated as a constant.
        through_output: ``output`` has a graph that leads back to this x and weight, and the backward will go
            through it anyway, as where a task's loss is added. What of the gradient can go that way then does,
            which costs far less; x and weight get the same sum in the end.
        reduction: "mean" over all maps (AM), "sum", or "none" for [B, Cout].

    Returns:
        A scalar, [B, Cout] or [Cout] (unbatched) with "none"; float32 for half-precision x,
        otherwise x's dtype.

    Gradients: first order with respect to x and weight (the whole derivative, ``output`` or not; with
    ``through_output``, whole with what comes through it); ``|0|`` has gradient 0. Where they will be
    wanted of float32 or float64, the CPU keeps one number for each of the strided output's until then.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3; identities 4 and 7 of the
    design for the computation.
    """
    steps, pads, dilations = pair(stride, "stride", 1), pair(padding, "padding", 0), pair(dilation, "dilation", 1)
    check_reduction(reduction)
    x, weight, bias, output = _autocast(x, weight, bias, output)
    stride_1 = check_conv2d(x, weight, bias, steps, pads, dilations, groups)
    if output is not None:
        check_output(output, x, weight, stride_1, steps)
        output = output if through_output else output.detach()
    batched = x.dim() == 4
    if not batched:
        x, output = x.unsqueeze(0), None if output is None else output.unsqueeze(0)
    maps = conv2d_alias_l1(x, weight, bias, output, steps, pads, dilations, groups)
    return _reduce(maps if batched else maps[0], reduction)
