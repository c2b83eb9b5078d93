"""Exchange the downsampling layers of a model for ones that do not alias."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from ._checks import FLOATING, check_variant, pair
from ._downsampling import Downsampling, describe, has_own_forward
from ._pooled import PooledAvgPool2d, PooledConv2d, PooledMaxPool2d, TrimmedPool2d
from ._selection import Layers, by_names, check_layers, named_downsampling
from .nn import ASAPPool2d, FLCPool2d

__all__ = ["Replacement", "ReplacementReport", "replace_downsampling"]

POOLS: dict[str, Callable[..., nn.Module]] = {"flc": FLCPool2d, "asap": ASAPPool2d}
# Grey or RGB: a convolution of so few channels reads an image.
IMAGE_CHANNELS = 3
AT_STRIDE_1 = (PooledConv2d, PooledMaxPool2d, PooledAvgPool2d)
# AvgPool2d(n) from here on is taken for the mean over the whole last map.
GLOBAL_KERNEL = 4


class Replacement(NamedTuple):
    """One downsampling layer of a model and what became of it.

    Attributes:
        name: qualified name, the first one of a module that has several.
        before: kind, kernel and stride, as "conv 3x3 /2".
        after: what runs now, in order, as "FLCPool2d /2, conv 3x3 /1"; None for a layer left as it is.
        reason: why it was left; "" for a replaced layer.
    """

    name: str
    before: str
    after: str | None
    reason: str = ""


class ReplacementReport(tuple[Replacement, ...]):
    """What :func:`alias_ops.replace_downsampling` did: a :class:`Replacement` for each layer; prints as a table."""

    __slots__ = ()

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        return tuple(row for row in self if row.after is not None)

    @property
    def left(self) -> tuple[Replacement, ...]:
        return tuple(row for row in self if row.after is None)

    def __str__(self) -> str:
        rows = [("layer", "before", "after")]
        rows += [(row.name or "(model)", row.before, row.after or f"left: {row.reason}") for row in self]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f"{name:{widths[0]}}  {before:{widths[1]}}  {after}" for name, before, after in rows]
        return "\n".join([*lines, f"{len(self.replaced)} replaced, {len(self.left)} left"])


class _Pool(NamedTuple):
    """The pool asked for, and how to make one."""

    make: Callable[..., nn.Module]
    settings: dict[str, Any]

    def __call__(self, channels: int | None, stride: tuple[int, int], like: torch.Tensor | None) -> nn.Module:
        step = stride[0] if stride[0] == stride[1] else stride
        pool = self.make(channels=channels, stride=step, **self.settings)
        if not isinstance(pool, nn.Module):
            raise TypeError(f"pool(channels={channels}, stride={step}) must be an nn.Module, got {type(pool).__name__}")
        return pool if like is None else pool.to(like.device, like.dtype)


def _pool(pool: Any, variant: str) -> _Pool:
    if isinstance(pool, str) and pool in POOLS:
        check_variant(pool, variant)
        return _Pool(POOLS[pool], {"variant": variant})
    if not callable(pool):
        raise (ValueError if isinstance(pool, str) else TypeError)(
            f"pool must be 'flc', 'asap' or a callable (channels, stride) -> nn.Module, got {pool!r}"
        )
    if variant != "centered":
        raise ValueError(f"variant is for a pool by name, got {variant!r} with {pool!r}")
    return _Pool(pool, {})


def _geometry(module: Downsampling) -> list[tuple[int, int, int, int]]:
    """(kernel, stride, padding, dilation) of each axis."""
    padding = 0 if module.padding == "valid" else module.padding
    kernel, stride = pair(module.kernel_size, "kernel_size", 1), pair(module.stride, "stride", 1)
    dilation = pair(getattr(module, "dilation", 1), "dilation", 1)
    return list(zip(kernel, stride, pair(padding, "padding", 0), dilation, strict=True))


def _extras(module: nn.Module) -> list[str]:
    own = [*module._parameters, *module._buffers, *module._modules]
    return [name for name in own if name not in ("weight", "bias")]


def _obstacle(name: str, module: Downsampling, pool: _Pool) -> str:
    """Why a layer cannot be replaced, "" if it can."""
    hooks = [kind for kind, hooks in vars(module).items() if kind.endswith("_hooks") and hooks]
    steps = pair(module.stride, "stride", 1)
    if not name:
        return "it is the model itself, which has no place to put another in; wrap it in nn.Sequential"
    if has_own_forward(module):
        return f"{type(module).__name__} has a forward of its own"
    if any(map(is_lazy, module.parameters(recurse=False))):
        return "its weight is not initialised yet; run a forward first"
    if parametrize.is_parametrized(module):
        return "it is parametrized; remove the parametrizations first"
    if hooks:
        return "it has hooks, as of a monitor, of weight_norm or of pruning; remove them first"
    if _extras(module):
        return f"it has parameters, buffers or modules of its own: {', '.join(_extras(module))}"
    if isinstance(module, nn.Conv2d) and module.weight.dtype not in FLOATING:
        return f"its weight is {str(module.weight.dtype).removeprefix('torch.')}"
    if getattr(module, "return_indices", False):
        return "it returns indices, which a pool does not have"
    variant = pool.settings.get("variant", "centered")
    return f"variant {variant!r} knows stride 2 alone" if variant != "centered" and steps != (2, 2) else ""


def _rule(module: Downsampling, stem: bool) -> str:
    """Why a layer that nobody named should stay, "" if it should not."""
    if isinstance(module, nn.Conv2d) and module.in_channels <= IMAGE_CHANNELS and not stem:
        return f"stem: {module.in_channels} input channels are an image; stem=True replaces it"
    geometry = _geometry(module)
    if isinstance(module, nn.AvgPool2d) and all(k == s >= GLOBAL_KERNEL and not p for k, s, p, _ in geometry):
        return "taken for a mean over the whole map; name it in layers to replace it"
    return ""


def _conv(module: nn.Conv2d, make: Callable[[int], nn.Module]) -> PooledConv2d:
    # Pooling first gives ceil(size / stride); the strided layer agrees where its padding is centred.
    first = all(s == 1 or 2 * p == d * (k - 1) for k, s, p, d in _geometry(module))
    new = PooledConv2d(
        module.in_channels,
        module.out_channels,
        module.kernel_size,
        padding=module.padding,
        dilation=module.dilation,
        groups=module.groups,
        bias=module.bias is not None,
        padding_mode=module.padding_mode,
        device="meta",
        pool=make(module.in_channels if first else module.out_channels),
        pool_first=first,
    )
    new.weight, new.bias = module.weight, module.bias
    return new


def _average(module: nn.AvgPool2d, make: Callable[[None], nn.Module], steps: tuple[int, int]) -> nn.Module:
    axes = _geometry(module)
    blocks = all(k == s and not p for k, s, p, _ in axes)
    # AvgPool2d(1, 2) too: the pool alone where an axis that is not strided is not averaged either.
    centred = all(2 * p == k - 1 and (s > 1 or k == 1) for k, s, p, _ in axes) and not module.ceil_mode
    if module.divisor_override is None and (centred or blocks):
        return make(None) if centred or module.ceil_mode else TrimmedPool2d(make(None), steps)
    return PooledAvgPool2d(
        module.kernel_size,
        steps,
        padding=module.padding,
        ceil_mode=module.ceil_mode,
        count_include_pad=module.count_include_pad,
        divisor_override=module.divisor_override,
        pool=make(None),
    )


def _successor(module: Downsampling, pool: _Pool, like: torch.Tensor | None) -> nn.Module:
    """The module that takes the layer's place, with its parameters."""
    steps = pair(module.stride, "stride", 1)
    new: nn.Module
    if isinstance(module, nn.Conv2d):
        weight = module.weight
        new = _conv(module, lambda channels: pool(channels, steps, weight))
    elif isinstance(module, nn.MaxPool2d):
        new = PooledMaxPool2d(
            module.kernel_size,
            steps,
            padding=module.padding,
            dilation=module.dilation,
            ceil_mode=module.ceil_mode,
            pool=pool(None, steps, like),
        )
    else:
        new = _average(module, lambda channels: pool(channels, steps, like), steps)
    return new.train(module.training)


def _after(new: nn.Module, steps: tuple[int, int]) -> str:
    pool: Any = new.pool if isinstance(new, (*AT_STRIDE_1, TrimmedPool2d)) else new
    parts = [f"{type(pool).__name__} /{steps[0] if steps[0] == steps[1] else f'{steps[0]}x{steps[1]}'}"]
    if isinstance(new, AT_STRIDE_1):
        parts.insert(1 if getattr(new, "pool_first", False) else 0, describe(new))
    return ", ".join(parts)


def _chosen(model: nn.Module, found: dict[str, Downsampling], layers: Layers | None) -> set[int]:
    """Identities of the modules that ``layers`` selects."""
    check_layers(layers)
    if layers is None:
        return set(map(id, found.values()))
    if callable(layers):
        return {id(module) for name, module in found.items() if layers(name, module)}
    return set(map(id, by_names(model, list(layers)).values()))


def replace_downsampling(
    model: nn.Module,
    pool: str | Callable[..., nn.Module] = "asap",
    *,
    stem: bool = False,
    layers: Layers | None = None,
    variant: str = "centered",
) -> ReplacementReport:
    """Put alias-free downsampling into a model, in place: a ResNet of torchvision, a network of timm, your own.

        print(alias_ops.replace_downsampling(model, "flc"))

    1. A strided nn.Conv2d becomes the pool and the same convolution at stride 1, in this order, as published. Where
       that would change the output's size (padding that is not half of the kernel, as of 2x2 /2 without padding),
       the convolution comes first, at stride 1, then the pool: exact, but stride^2 times the convolution.
    2. An nn.MaxPool2d becomes the same max pooling at stride 1, then the pool.
    3. An nn.AvgPool2d becomes the pool. One whose windows overlap unevenly, or with a divisor of its own, is kept at
       stride 1 before the pool.

    With a centred pool every layer goes on to return the size it returned, at any size of input. Parameters are the
    same objects under the same names: checkpoints load as before, an optimizer made before goes on. Device, dtype,
    mode, channels_last and requires_grad stay. A module that the model has twice is replaced once, in both places.

    Left as they are, with a reason in the report:

    - convolutions of at most three input channels, the *stem*: a pool there throws away most of the image before any
      layer has seen it. The published FLC and ASAP ResNets do so; ``stem=True`` does it too.
    - AvgPool2d whose kernel is its stride and 4 or more: the mean over the last map, of which one sample is left;
    - subclasses with a forward of their own, layers with hooks or parametrizations or not yet initialised, max
      poolings that return indices.

    Args:
        model: any nn.Module. Do it before ``torch.compile``, data parallelism and an AliasingMonitor.
        pool: "flc", "asap", or a callable that is called as ``pool(channels=..., stride=...)`` and returns a module,
            as timm's ``aa_layer``. channels is None for the poolings, stride an int or (height, width).
        stem: whether to replace convolutions that read an image.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``. A layer that
            is named is replaced, stem or mean over the map or not; a predicate is asked about each downsampling layer.
        variant: of the pool by name; see :func:`alias_ops.flc_pool2d` and :func:`alias_ops.asap_pool2d`. The published
            ones differ in size where 4 does not divide the input's.

    Returns:
        One row for each downsampling layer, replaced or not; ``print`` it.

    Raises:
        TypeError, ValueError: an argument is wrong, a name is not one of a downsampling layer, or a named layer
            cannot be replaced. The model is then as it was.

    Source: Grabinski, Jung, Keuper & Keuper, ECCV 2022, and arXiv 2307.09804, with the networks published along.
    That a convolution with other padding comes first is this package's own.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    make = _pool(pool, variant)
    found = named_downsampling(model)
    chosen = _chosen(model, found, layers)
    named = layers is not None and not callable(layers)
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), None)
    rows: dict[int, Replacement] = {}
    successors: dict[int, nn.Module] = {}
    for name, module in found.items():
        if id(module) in rows:
            continue
        reason = "not among layers" if id(module) not in chosen else _obstacle(name, module, make)
        if reason and named and id(module) in chosen:
            raise ValueError(f"layers: {name!r} cannot be replaced: {reason}")
        reason = reason or ("" if named else _rule(module, stem))
        after = None
        if not reason:
            successors[id(module)] = _successor(module, make, like)
            after = _after(successors[id(module)], pair(module.stride, "stride", 1))
        rows[id(module)] = Replacement(name, describe(module), after, reason)
    for name, module in found.items():
        if id(module) in successors:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, successors[id(module)])
    return ReplacementReport(rows.values())
