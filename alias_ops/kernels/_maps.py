"""Tensors [..., H, W] as a kernel walks them: images of channels of maps, by strides, never copied."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

__all__ = ["alignment", "first_sample", "images", "in_units", "needs_wide_offsets", "offsets"]


def images(x: torch.Tensor, *others: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """x [..., H, W] as views [images, channels, H, W], with views of the others' same maps [..., any, any].

    One tuple wherever the strides of x allow it, which they do for up to four dimensions; otherwise as many as
    the outermost dimensions demand.
    """
    tensors = (x, *others)
    if x.dim() <= 4:
        yield tuple(t[(None,) * (4 - t.dim())] for t in tensors)
        return
    try:
        yield tuple(t.view(-1, *t.shape[-3:]) for t in tensors)
    except RuntimeError:
        for part in zip(*(t.unbind(0) for t in tensors), strict=True):
            yield from images(*part)


def alignment(x: torch.Tensor, *multiples: int) -> int:
    """The power of two, at most 16 bytes, that divides every map's place in samples, and ``multiples``.

    Triton finds out only whether an argument is a multiple of 16; maps of 28 or 56 columns are not and still allow
    loads of four. So kernels get strides and widths in units of this, see :func:`in_units`.
    """
    if x.stride(3) != 1:
        return 1
    align = 16 // x.element_size()
    strides = [x.stride(d) for d in range(3) if x.shape[d] > 1]
    while any(size % align for size in (*strides, *multiples)):
        align //= 2
    return align


def in_units(t: torch.Tensor, align: int) -> tuple[int, ...]:
    """Strides of [images, channels, H, W], all but the last in units of ``align`` samples.

    0 along dimensions of one element, where any number would do.
    """
    image, channel, row, column = (stride if size > 1 else 0 for stride, size in zip(t.stride(), t.shape))
    return image // align, channel // align, row // align, column


def needs_wide_offsets(*tensors: torch.Tensor) -> bool:
    """Whether a sample can be 2^31 or more samples away from the first one of its map."""
    return any(sum((t.shape[d] - 1) * abs(t.stride(d)) for d in (-2, -1)) >= 2**31 for t in tensors)


@triton.jit
def first_sample(tensor, index, channels, image_stride, channel_stride, ALIGN: tl.constexpr):
    """Pointer to map ``index`` (int64), counted through all images; strides in units of ALIGN."""
    return tensor + ((index // channels) * image_stride + (index % channels) * channel_stride) * ALIGN


@triton.jit
def offsets(position, stride, WIDE: tl.constexpr):
    """position * stride, in 64 bits only where a map may be that large: addresses take up registers."""
    if WIDE:
        return position.to(tl.int64) * stride
    return position * stride
