"""A network with one way of downsampling, and the seconds of its training."""

import math
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

import alias_ops
from fgsm.data import Images, augment, pixels
from fgsm.network import PixelNetwork
from lab.images import dataset
from lab.networks import NETWORKS, device
from lab.pools import Kind
from lab.scale import Scale

__all__ = ["Racer"]

STEPS = 10  # that are timed of an epoch, so that one of them is a monitor's tenth
PASSES = 3  # through the pools alone


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Racer:
    """A network with one kind of downsampling, and the steps of its training.

    Raises:
        NotInstalled: the pool's library is missing.
    """

    def __init__(self, kind: Kind, scale: Scale) -> None:
        recipe = scale.recipe()
        data = dataset(recipe)
        self.device = device()
        self.images: Images = data.train
        self.batch = min(recipe.batch, len(data.train))
        self.epoch = len(data.train) // self.batch
        self.steps = min(STEPS, self.epoch)
        self.pools: list[nn.Module] = []
        torch.manual_seed(recipe.seed)
        made = NETWORKS[recipe.network](data.classes)
        if kind.pool is not None:
            alias_ops.replace_downsampling(made, self._noted(kind.pool))
        self.model = PixelNetwork(made, data).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)
        # Detached as soon as nothing holds it.
        self.monitor = alias_ops.AliasingMonitor(self.model, every=kind.every) if kind.every else None
        self.inputs = self._inputs()

    def _noted(self, make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def pool(channels: int, stride: int) -> nn.Module:
            self.pools.append(make(channels=channels, stride=stride))
            return self.pools[-1]

        return pool

    def _inputs(self) -> list[torch.Tensor]:
        """What every pool gets of one batch."""
        got: list[torch.Tensor] = []
        hooks = [pool.register_forward_pre_hook(lambda _, x: got.append(x[0].detach().clone())) for pool in self.pools]
        if hooks:
            self.model(pixels(self.images.images[: self.batch]).to(self.device))
        for hook in hooks:
            hook.remove()
        return got

    def step(self, index: int) -> float:
        """Seconds of one step of an epoch, with the same images whatever the pool."""
        self.model.train()
        torch.manual_seed(index // self.steps)
        chosen = torch.randperm(len(self.images))[index % self.steps * self.batch :][: self.batch]
        _wait()
        start = time.perf_counter()
        x = pixels(augment(self.images.images[chosen])).to(self.device)
        loss = F.cross_entropy(self.model(x), self.images.labels[chosen].to(self.device))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        _wait()
        return time.perf_counter() - start

    def alone(self) -> float:
        """Seconds of an epoch's forwards and backwards of the pools, without the network; NaN where it has none."""
        pairs = [(pool, x.requires_grad_()) for pool, x in zip(self.pools, self.inputs)]
        if not pairs:
            return math.nan
        taken = []
        for _ in range(PASSES):
            _wait()
            start = time.perf_counter()
            for pool, x in pairs:
                x.grad = None
                out = pool(x)
                out.backward(torch.ones_like(out))
            _wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken) * self.epoch
