"""DTensors: every map is taken by itself, so every rank takes those it has."""

from collections.abc import Callable
from typing import Any

import torch

from ._library import channels_last

__all__ = ["on_every_rank"]


def on_every_rank(function: Callable[[torch.Tensor], torch.Tensor], x: Any) -> Any:
    """``function(x)`` for a DTensor x, whatever it makes of each map.

    1. Put maps together that are cut, and sums that are not summed yet.
    2. Apply ``function`` to what this rank has.

    Args:
        function: of [..., H, W], with the leading dimensions in its result, in their order.
        x: DTensor [..., H, W].

    Returns:
        A DTensor, sharded as x where x is sharded along leading dimensions, replicated otherwise.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [p if type(p) is Shard and p.dim < x.dim() - 2 else Replicate() for p in x.placements]
    local = function(x.redistribute(placements=placements).to_local())
    shape = torch.Size((*x.shape[:-2], *local.shape[x.dim() - 2 :]))
    everything = torch.empty_strided(x.shape, x.stride(), device="meta")
    form = torch.channels_last if len(shape) == 4 and channels_last(everything) else torch.contiguous_format
    stride = torch.empty(shape, device="meta", memory_format=form).stride()
    return DTensor.from_local(local, x.device_mesh, placements, run_check=False, shape=shape, stride=stride)
