"""Load checkpoints whose keys are called otherwise."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["load_published"]

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
SHOWN = 4


def _unwrapped(checkpoint: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint under the names that the network itself gave them."""
    while isinstance(checkpoint, Mapping):
        inner = next((checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping)), None)
        if inner is None:
            break
        checkpoint = inner
    if not isinstance(checkpoint, Mapping):
        hint = "; pass its state_dict()" if isinstance(checkpoint, nn.Module) else ""
        raise TypeError(f"state_dict must be a mapping of names to tensors, got {type(checkpoint).__name__}{hint}")
    other = [key for key, value in checkpoint.items() if not isinstance(value, torch.Tensor)]
    if other or not checkpoint:
        came = f"{type(checkpoint[other[0]]).__name__} under {other[0]!r}" if other else "an empty one"
        raise TypeError(f"state_dict must be a mapping of names to tensors, got {came}")
    tensors = dict(checkpoint)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _name(key: str, known: Mapping[str, Any]) -> str:
    """The model's name for a published key.

    The published networks have ``Sequential(pool, convolution)`` where this package's have one layer: the weight
    of layer2.0.conv1 is called layer2.0.conv1.1.weight there.
    """
    path, _, leaf = key.rpartition(".")
    if key in known or not path.endswith(".1"):
        return key
    outer = path.removesuffix(".1")
    return next((name for name in (f"{outer}.{leaf}", f"{outer}.0.{leaf}") if name in known), key)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def load_published(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a checkpoint that differs from the model in names alone, such as the published ones with FLC pooling.

        model = alias_ops.models.preact_resnet18(downsampling="flc")
        alias_ops.models.load_published(model, torch.load(file, weights_only=True))

    1. Takes the weights out of a wrapping "state_dict", "model_state_dict", "model" or "net".
    2. Takes off the prefixes of data parallelism and compilation, "module." and "_orig_mod.", and "model.", "net.".
    3. Takes "conv1.1.weight" for "conv1.weight" or "conv1.0.weight", whichever the model has: the published networks
       keep pool and convolution in a Sequential.
    4. Leaves out "sub_block1", which published wide ResNets may hold and never run.
    5. Loads, if names and shapes are then the model's.

    The published networks called "normalized" subtract the mean of the images and divide by their deviation
    themselves, with numbers that are not in the checkpoint. These here do not: normalise before.

    Args:
        model: of the checkpoint's architecture; one of this package, or one that
            :func:`alias_ops.replace_downsampling` changed.
        state_dict: as ``torch.load`` returns it.

    Raises:
        TypeError: state_dict is no mapping of names to tensors.
        ValueError: names or shapes differ in other ways; nothing is loaded then.
    """
    known = model.state_dict()
    tensors: dict[str, torch.Tensor] = {}
    for key, value in _unwrapped(state_dict).items():
        name = _name(key, known)
        if name.startswith("sub_block1.") and name not in known:
            continue
        if name in tensors:
            raise ValueError(f"state_dict must have one tensor for {name!r}, got two, one of them under {key!r}")
        tensors[name] = value
    # Checkpoints from before PyTorch 0.4.1 do not count batches; nothing but momentum=None reads them.
    missing = [name for name in known if name not in tensors and not name.endswith(".num_batches_tracked")]
    unknown = [name for name in tensors if name not in known]
    shapes = [
        f"{name} {list(tensors[name].shape)} instead of {list(known[name].shape)}"
        for name in tensors
        if name in known and tensors[name].shape != known[name].shape
    ]
    problems = [
        f"it {said} {_listed(names)}"
        for said, names in (("lacks", missing), ("has besides", unknown), ("has", shapes))
        if names
    ]
    if problems:
        raise ValueError(f"state_dict must fit {type(model).__name__}, but {'; '.join(problems)}")
    model.load_state_dict({**known, **tensors})
