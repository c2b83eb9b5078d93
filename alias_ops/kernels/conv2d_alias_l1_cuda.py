"""``conv2d_alias_l1`` by CUDA C++ kernels: identity 4 in one pass, for stride 2 and maps of up to 112 x 112 outputs.

What it does not serve is for the Triton kernels: other strides, kernels of even size or above 7, larger maps, and calls
that bring the layer's output, which identity 7 makes cheaper than any convolution.
"""

from functools import cache, lru_cache

import torch

from .. import _backend
from ._precision import products
from .conv2d_alias_l1_cuda_tables import PRECISIONS, STRIDE, Plan, packed_weight, scale_of, tables

__all__ = ["conv2d_alias_l1", "images_at_once", "plan_of", "precision_of", "scratch_numbers"]

# The first architecture with clusters of blocks.
CLUSTERS = 90

# Where a map's bands make no cluster, or are too many for one, its residual goes through memory, a chunk of images at a
# time: about what the second level of an H200's caches holds.
LARGEST_SCRATCH = 64 << 20

# Images of a block at most: beyond it, a plan does not depend on the batch.
MOST_IMAGES = 16

# What csrc/cuda/conv2d_ops.cpp takes as a number of a layer.
LARGEST_NUMBER = 1 << 24

PLANS = 1024  # remembered


def precision_of(x: torch.Tensor) -> str | None:
    """How the kernel takes products of x's dtype, None if it does not."""
    if x.dtype is torch.float32:
        return "tf32x3" if products(x) == 3 else "tf32"
    return {torch.bfloat16: "bfloat16", torch.float16: "float16"}.get(x.dtype)


def _shared_memory(device: torch.device) -> int:
    """Bytes that a block may ask for. PyTorch's builds for other makers do not say."""
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0)


@cache
def _clusters(device: torch.device) -> bool:
    """Whether blocks can read each other's shared memory: the chip has clusters, and code was compiled for it."""
    major, minor = torch.cuda.get_device_capability(device)
    extension, _ = _backend.cuda_extension()
    compiled = extension.build_info()["architectures"].split() if extension else []
    # A chip takes the newest code that is no newer than itself.
    return any(CLUSTERS <= int(architecture) <= 10 * major + minor for architecture in compiled)


@lru_cache(maxsize=PLANS)
def _plan(*numbers: int, shared_memory: int, clusters: bool) -> Plan:
    made = torch.ops.alias_ops._cuda_conv2d_alias_l1_plan(torch.empty(0), numbers, shared_memory, clusters)
    return Plan(*made.tolist())


def plan_of(numbers: list[int], shared_memory: int, clusters: bool) -> Plan:
    """The plan of a layer; its batch counts as far as a block's images do."""
    return _plan(min(numbers[0], MOST_IMAGES), *numbers[1:], shared_memory=shared_memory, clusters=clusters)


def scratch_numbers(plan: Plan, images: int, outputs: int, groups: int, area: int) -> int:
    """Numbers of the residuals that go through memory."""
    return 0 if plan.on_chip else images * groups * -(-outputs // groups // 8) * 8 * area


def images_at_once(plan: Plan, batch: int, outputs: int, groups: int, area: int) -> int:
    each = 4 * scratch_numbers(plan, 1, outputs, groups, area)
    return batch if each == 0 else min(batch, max(1, LARGEST_SCRATCH // each))


def conv2d_alias_l1(
    x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups, *, out: torch.Tensor
) -> bool:
    """Write the norms to ``out`` if the kernel serves the call; ``ops.conv2d_alias_l1`` has its arguments.

    Args:
        out: float32 [B, Cout], contiguous.

    Returns:
        False if it does not; ``out`` is as it was.
    """
    precision = precision_of(x)
    if precision is None or weight.dtype is not x.dtype or output is not None or tuple(stride) != (STRIDE, STRIDE):
        return False
    if out.numel() == 0:
        return True
    axes = [(x.shape[d + 2], weight.shape[d + 2], padding[d], dilation[d]) for d in (0, 1)]
    layer = [x.shape[1], len(weight), groups, PRECISIONS.index(precision), *axes[0], *axes[1]]
    if x.shape[1] == 0 or max(len(x), *layer) >= LARGEST_NUMBER:
        return False
    shared_memory, clusters = _shared_memory(x.device), _clusters(x.device)
    plan = plan_of([len(x), *layer], shared_memory, clusters)
    if not plan.shared:
        return False
    area = 1
    for size, kernel, p, d in axes:
        area *= -(-(size + 2 * p - d * (kernel - 1)) // STRIDE)
    height, width = ((size, kernel, STRIDE, p, d) for size, kernel, p, d in axes)
    prepared = tables((height, width), plan, precision, x.device)
    packed = packed_weight(weight, groups, plan, precision)
    together = images_at_once(plan, len(x), len(weight), groups, area)
    scratch = out.new_empty(scratch_numbers(plan, together, len(weight), groups, area))
    for first in range(0, len(x), together):
        piece = x[first : first + together]
        images = len(piece)
        served = torch.ops.alias_ops._cuda_conv2d_alias_l1(
            piece, packed, *prepared, [images, *layer], shared_memory, clusters, scale_of(precision),
            scratch[: scratch_numbers(plan, images, len(weight), groups, area)], out[first : first + together],
        )  # fmt: skip
        if not served:
            return False
    return True
