"""One of two processes of the tests in test_layers_in_use.py: ``python distributed_layers.py FOLDER RANK``.

Rank 0 writes what it found to FOLDER/results.pt; whatever is wrong with rank 1 ends it with a traceback.
"""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import alias_ops

WORLD, STEPS, BATCH = 2, 3, 6
PLACEMENTS = {"batch": Shard(0), "channels": Shard(1), "rows": Shard(2), "none": Replicate()}
FUNCTIONS = {
    "flc": alias_ops.flc_pool2d,
    "asap": lambda x: alias_ops.asap_pool2d(x, (1, 3)),
    "aliasing": alias_ops.aliasing,
    "maps": lambda x: alias_ops.aliasing(x, reduction="none"),
}


def net():
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), alias_ops.FLCPool2d(6))
    second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), alias_ops.ASAPPool2d(6))
    return nn.Sequential(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double()


def batches(step):
    return randn(BATCH, 3, 14, 12, seed=step), torch.arange(BATCH) % 4


def train(model, rank=0, world=1):
    """Some steps on this rank's part of every batch."""
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    for step in range(STEPS):
        x, labels = (t.chunk(world)[rank] for t in batches(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()


def trained(how, rank):
    """Every rank's weights after training with DDP or FSDP2: {name: [world, ...]}."""
    model = net()
    if how == "ddp":
        train(DistributedDataParallel(model), rank, WORLD)
        weights = {name: p.detach() for name, p in model.named_parameters()}
    else:
        mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
        for module in (model[0], model[1], model):
            fully_shard(module, mesh=mesh)
        train(model, rank, WORLD)
        weights = {name: p.detach().full_tensor() for name, p in model.named_parameters()}
    everyone = {name: [torch.empty_like(p) for _ in range(WORLD)] for name, p in weights.items()}
    for name, p in weights.items():
        dist.all_gather(everyone[name], p.contiguous())
    return {name: torch.stack(ps) for name, ps in everyone.items()}


def maps():
    """Five images: not as many for one rank as for the other."""
    return randn(5, 4, 9, 12)


def sharded(name, placement):
    """A function of a DTensor: the result, how it is sharded, its strides, and the gradient."""
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    x = distribute_tensor(maps(), mesh, [placement]).requires_grad_()
    y = FUNCTIONS[name](x)
    y.square().sum().backward()
    return y.detach().full_tensor(), str(y.placements[0]), y.stride(), x.grad.full_tensor()


def refused():
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    x = distribute_tensor(maps(), mesh, [Shard(0)])
    try:
        alias_ops.conv2d_aliasing(x, randn(4, 4, 3, 3))
    except TypeError as error:
        return str(error)


def main(folder, rank):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = {how: trained(how, rank) for how in ("ddp", "fsdp2")}
    found |= {(name, place): sharded(name, PLACEMENTS[place]) for name in FUNCTIONS for place in PLACEMENTS}
    found["refused"] = refused()
    if rank == 0:
        torch.save(found, folder / "results.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
