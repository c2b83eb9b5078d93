"""One of two processes of the tests in test_monitor_distributed.py: ``python distributed_monitor.py FOLDER RANK``.

Rank 0 writes what it found to FOLDER/results.json; whatever is wrong with rank 1 ends it with a traceback.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from helpers import randn
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from alias_ops import AliasingMonitor, AliasingPenalty

WORLD = 2
BATCHES = (3, 5)  # images of each rank


class Residual(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, 2, bias=False))

    def forward(self, x):
        return F.relu(self.norm1(self.conv1(x)) + self.shortcut(x))


def net():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2), Residual(8, 8), Residual(8, 16))
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)).eval()


def images(rank):
    return randn(BATCHES[rank], 3, 32, 32, seed=rank, dtype=torch.float32)


def wrapped(model, how):
    if how == "ddp":
        return DistributedDataParallel(model)
    if how == "fsdp":
        policy = lambda module, recurse, **_: recurse or isinstance(module, Residual)  # noqa: E731
        return FullyShardedDataParallel(
            model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
        )
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    for module in (*model[0][2:], model[0][0], model):  # the strided stem by itself, blocks as wholes, the rest
        fully_shard(module, mesh=mesh)
    return model


def plain(name):
    """A layer's name without what a wrapper adds to it."""
    return ".".join(part for part in name.split(".") if part not in ("module", "_fsdp_wrapped_module"))


def measure(how, attach, rank):
    """AM of every layer and block, from a monitor attached before or after wrapping, and a training step with it."""
    model = net()
    if attach == "before":
        monitor = AliasingMonitor(model)
        model = wrapped(model, how)
    else:
        model = wrapped(model, how)
        monitor = AliasingMonitor(model)
    loss = model(images(rank)).square().mean()
    found = {
        "layers": {plain(name): value for name, value in monitor.compute().items()},
        "blocks": {plain(name): value for name, value in monitor.compute("block").items()},
        "mean": monitor.mean(),
        "again": list(monitor.compute().values()) == list(monitor.compute().values()),
        "local": list(monitor.compute(sync=False).values()),
        "last": list(monitor.last().values()),
    }
    loss.backward()
    assert monitor.compute() == dict(zip(monitor.layers, found["layers"].values(), strict=True))
    return found


def uneven(rank):
    """One rank has measured nothing, channels are told apart; a group of one rank; ranks of different layers."""
    model = net()
    alone = dist.new_group([0])  # every process has to make it
    monitor = AliasingMonitor(model, per_channel=True)
    mine = AliasingMonitor(model, process_group=alone)
    other = AliasingMonitor(model, layers=["0.0"] if rank else ["0.1"])
    if rank == 1:
        model(images(1))
    found = {
        "layers": monitor.compute(),
        "channels": {name: value.tolist() for name, value in monitor.compute("channel").items()},
        "local": monitor.compute("channel", sync=False)["0.0"].tolist(),
        "alone": mine.mean(),
    }
    try:
        other.compute()
    except RuntimeError as error:
        found["error"] = str(error)
    return found


def penalised(rank):
    """The gradients of a penalty on DDP, which are the mean over ranks."""
    model = net()
    with AliasingPenalty(model) as penalty:
        parallel = DistributedDataParallel(model)
        y = parallel(images(rank))
        (0 * y.sum() + penalty()).backward()
    return {name: p.grad.tolist() for name, p in model.named_parameters()}


def penalised_shards(rank):
    """The same of sharded weights, put together."""
    model = net()
    with AliasingPenalty(model) as penalty:
        y = wrapped(model, "fsdp2")(images(rank))
        (0 * y.sum() + penalty()).backward()
    return {name: p.grad.full_tensor().tolist() for name, p in model.named_parameters()}


def main(folder, rank):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD, timeout=timedelta(seconds=60)
    )
    found = {}
    for how in ("ddp", "fsdp2", "fsdp"):
        for attach in ("before", "after"):
            found[f"{how} {attach}"] = measure(how, attach, rank)
    found |= {"uneven": uneven(rank), "penalty": penalised(rank), "penalty fsdp2": penalised_shards(rank)}
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
