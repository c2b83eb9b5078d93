"""Which layers of a model are watched, and which block of the network each belongs to."""

import difflib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn

from ._downsampling import Downsampling, downsamples, has_own_forward

__all__ = ["Blocks", "Layers", "by_names", "check_layers", "group", "named_downsampling", "select"]

Layers = Iterable[str] | Callable[[str, nn.Module], bool]
Blocks = Mapping[str, str] | Callable[[str], str]

# Modules whose parts follow one another, or of which nothing is known: no blocks.
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def named_downsampling(model: nn.Module) -> dict[str, Downsampling]:
    """Every downsampling layer by every name it has, in the order of ``named_modules``."""
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if downsamples(module)}


def check_layers(layers: object) -> None:
    """Raise TypeError unless ``layers`` is None, an iterable other than a str, or callable."""
    if isinstance(layers, str) or not (layers is None or callable(layers) or isinstance(layers, Iterable)):
        came = f"the str {layers!r}" if isinstance(layers, str) else type(layers).__name__
        raise TypeError(f"layers must be an iterable of names, a predicate or None, got {came}")


def by_names(model: nn.Module, names: list[str]) -> dict[str, Downsampling]:
    """The named layers, in the model's order; ValueError for a name of none that can be measured."""
    found = named_downsampling(model)
    for name in names:
        if name in found and has_own_forward(found[name]):
            raise ValueError(
                f"layers: {name!r} is a {type(found[name]).__name__} with a forward of its own, "
                "its stride-1 map is not known"
            )
        if name not in found:
            valid = difflib.get_close_matches(str(name), found, n=3, cutoff=0.0)
            known = name in dict(model.named_modules(remove_duplicate=False))
            problem = "does not downsample" if known else "is not a module of the model"
            nearest = f"; nearest downsampling layers: {', '.join(map(repr, valid))}" if valid else ""
            raise ValueError(f"layers: {name!r} {problem}{nearest}")
    return {name: found[name] for name in found if name in names}


def _by_predicate(
    model: nn.Module, predicate: Callable[[str, nn.Module], bool], watcher: str
) -> dict[str, Downsampling]:
    found = {name: module for name, module in named_downsampling(model).items() if predicate(name, module)}
    unknown = [name for name, module in found.items() if has_own_forward(module)]
    if unknown:
        warnings.warn(
            f"{watcher} leaves out {', '.join(map(repr, unknown))}: a forward of their own, "
            "so their stride-1 map is not known",
            stacklevel=5,  # whoever made the watcher
        )
    return {name: module for name, module in found.items() if name not in unknown}


def select(model: nn.Module, layers: Layers | None, watcher: str) -> dict[str, Downsampling]:
    """The layers to watch, each module once under its first name.

    Args:
        model: where to look.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``.
        watcher: whom a warning about layers left out speaks of.

    Raises:
        TypeError, ValueError: as :class:`alias_ops.AliasingMonitor` says.
    """
    check_layers(layers)
    if layers is None or callable(layers):
        chosen = _by_predicate(model, layers or (lambda name, module: True), watcher)
    else:
        chosen = by_names(model, list(layers))
    once = {id(module): name for name, module in reversed(chosen.items())}
    chosen = {name: module for name, module in chosen.items() if once[id(module)] == name}
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no downsampling layer to measure: no selected nn.Conv2d, nn.MaxPool2d or "
            "nn.AvgPool2d with a stride above 1"
        )
    return chosen


def _around(name: str) -> Iterator[str]:
    """The modules around a module, innermost first, the model ("") last."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _network(model: nn.Module) -> set[str]:
    """Names of the model itself and of what wrappers (DDP, a compiled module) or a training module put it into.

    That is, of modules with all parameters of the model in them.
    """
    parameters, name = len(list(model.parameters())), ""
    names = {name}
    while parameters and not isinstance(model, CONTAINERS):
        for child_name, child in model.named_children():
            if len(list(child.parameters())) == parameters:
                model, name = child, f"{name}.{child_name}".lstrip(".")
                names.add(name)
                break
        else:
            break
    return names


def _find_blocks(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    modules = dict(model.named_modules(remove_duplicate=False))
    inside: dict[str, set[int]] = defaultdict(set)
    for name, module in named_downsampling(model).items():
        for outer in _around(name):
            inside[outer].add(id(module))
    no_block = _network(model) | {name for name, module in modules.items() if isinstance(module, CONTAINERS)}
    # Of each layer, the innermost module that has another one in it, too.
    shared = {name: next((o for o in _around(name) if len(inside[o]) > 1), "") for name in names}
    branched = set(shared.values()) - no_block
    branched = {o for o in branched if not any(smaller.startswith(f"{o}.") for smaller in branched)}
    return {
        name: outer
        if outer in branched
        else next((o for o in _around(name) if len(inside[o]) == 1 and o not in no_block), name)
        for name, outer in shared.items()
    }


def group(model: nn.Module, names: Iterable[str], blocks: Blocks | None = None) -> dict[str, str]:
    """The block that each downsampling layer belongs to: main and shortcut branch of a residual block are one.

    1. Of each layer, take the innermost module with at least one more downsampling layer in it.
    2. That is its block, unless it is an nn.Sequential, nn.ModuleList or nn.ModuleDict (its parts follow one
       another), the network itself (all parameters of the model are in it), or has a smaller block in it.
    3. Otherwise the layer is a block of its own, with the name of the innermost module around it that is
       none of these and has no other downsampling layer in it; its own name where there is none.

    So ``layer2.0.conv2`` and ``layer2.0.downsample.0`` belong to ``layer2.0``, while the stem's ``conv1`` and
    ``maxpool`` and the "0" and "3" of an nn.Sequential are blocks of their own. What a module's forward does
    is not seen: two strided layers one behind the other in a module that is none of step 2 pass for a block.

    Args:
        model: where the layers are.
        names: qualified names of the layers.
        blocks: overrides it, layer name -> block name: a mapping, of some layers or all, or a function.

    Returns:
        Layer name -> block name, in the order of ``names``.

    Raises:
        TypeError: blocks is neither, or a block's name is no str.
        ValueError: blocks names something that is not among the layers.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3 (mean of both branches).
    """
    found = _find_blocks(model, names)
    if blocks is None:
        return found
    if callable(blocks):
        found = {name: blocks(name) for name in found}
    elif isinstance(blocks, Mapping):
        unknown = [name for name in blocks if name not in found]
        if unknown:
            raise ValueError(f"blocks: {unknown[0]!r} is not among the layers {', '.join(map(repr, found))}")
        found.update(blocks)
    else:
        raise TypeError(
            f"blocks must be a mapping, a function (layer name -> block name) or None, got {type(blocks).__name__}"
        )
    for name, block in found.items():
        if not isinstance(block, str):
            raise TypeError(f"blocks: the block of {name!r} must be a str, got {block!r}")
    return found
