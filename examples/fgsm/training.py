"""The training itself: an epoch against FGSM, the two measurements after it, the two rules."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from alias_ops import AliasingEarlyStopping, AliasingMonitor
from fgsm.attack import PGDEarlyStopping, fgsm, pgd_survivors
from fgsm.clock import Clock
from fgsm.data import Dataset, Images, augment, pixels
from fgsm.network import PREFIX, Trained, network
from fgsm.processes import Processes
from fgsm.settings import ALIAS_FREE, Settings

__all__ = ["Diverged", "Epoch", "Training"]

EVALUATED_AT_A_TIME = 256


class Diverged(ArithmeticError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Epoch:
    """An epoch's numbers. Accuracies in 0..1; those under FGSM and PGD are of the same held-out images.

    ``am`` is the mean of ``blocks``; neither is there for a network without a layer that can alias.
    """

    epoch: int
    learning_rate: float
    loss: float
    train_accuracy: float  # on the attacked images, before the step that each takes part in
    clean_accuracy: float
    fgsm_accuracy: float
    pgd_accuracy: float
    am: float | None
    blocks: dict[str, float]
    seconds_training: float
    seconds_am: float
    seconds_pgd: float
    am_stop: bool
    pgd_stop: bool


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Training:
    """A training as far as it has come; between epochs ``state_dict`` is all there is to it.

    Each epoch seeds PyTorch's generators with the run's seed, its own number and the process's rank, and the monitor
    is reset after it: neither has to be saved for a resumed run to be the same bit for bit.
    """

    def __init__(self, settings: Settings, data: Dataset, processes: Processes) -> None:
        self.settings, self.data, self.processes = settings, data, processes
        self.batch = min(settings.batch, len(data.train))
        if self.batch % processes.world:
            raise ValueError(f"--batch must be a multiple of the {processes.world} processes, got {self.batch}")
        if settings.pgd_images < processes.world:
            raise ValueError(
                f"--pgd-images must be at least {processes.world}, one a process, got {settings.pgd_images}"
            )
        self.steps = len(data.train) // self.batch
        self.epsilon = settings.epsilon / 255
        self.history: list[Epoch] = []
        torch.manual_seed(settings.seed)
        self.model = network(settings, data).to(processes.device)
        self.trained: nn.Module = Trained(self.model)
        if processes.world > 1:
            self.trained = DistributedDataParallel(self.model)
        # FLC and ASAP leave no strided layer, and nothing to measure.
        self.monitor = None
        if settings.downsampling not in ALIAS_FREE:
            self.monitor = AliasingMonitor(self.trained, max_samples=settings.max_samples, every=settings.every)
        self.clock = Clock(self.trained, self.monitor, processes.device)
        self.am_rule, self.pgd_rule = AliasingEarlyStopping(settings.threshold), PGDEarlyStopping(settings.pgd_drop)
        self.optimizer = torch.optim.SGD(self.model.parameters(), settings.lr, momentum=0.9, weight_decay=5e-4)

    @property
    def stopped(self) -> bool:
        """Whether the rule in charge has said stop."""
        rules = {"aliasing": self.am_rule, "pgd": self.pgd_rule}
        return self.settings.stop in rules and rules[self.settings.stop].stopped

    def learning_rate(self, epochs: float) -> float:
        """Up in a straight line and down again, as Wong et al. have it."""
        return self.settings.lr * float(np.interp(epochs / self.settings.epochs, (0, 0.5, 1), (0, 1, 0)))

    def epoch(self, show: Callable[[int, float, float], None], asked: Callable[[], bool]) -> Epoch | None:
        """Train for the next epoch and measure after it.

        Args:
            show: called after every step with its number, loss and accuracy.
            asked: whether to give up, asked after every step of the training.

        Returns:
            Its numbers, which ``history`` has too; None if it was given up.

        Raises:
            Diverged: the loss is NaN or infinite.
        """
        number = len(self.history) + 1
        start = time.perf_counter()
        trained = self._train(number, show, asked)
        if trained is None:
            return None
        loss, accuracy, rate = trained
        if not math.isfinite(loss):
            raise Diverged(f"the loss of epoch {number} is {loss}: try a lower --lr")
        self.processes.average_statistics(self.model)
        seconds_training = time.perf_counter() - start - self.clock.read()

        am, blocks, seconds_am = self._aliasing()
        clean, attacked, robust, seconds_pgd = self._check()
        am_stop = am is not None and self.am_rule.step(am)
        pgd_stop = self.pgd_rule.step(robust)
        rates = rate, loss, accuracy, clean, attacked, robust
        times = seconds_training, seconds_am, seconds_pgd
        self.history.append(Epoch(number, *rates, am, blocks, *times, am_stop, pgd_stop))
        return self.history[-1]

    def _train(self, number: int, show: Callable, asked: Callable) -> tuple[float, float, float] | None:
        order = torch.randperm(
            len(self.data.train), generator=torch.Generator().manual_seed(_seed(self.settings.seed, number))
        )
        torch.manual_seed(_seed(self.settings.seed, number, self.processes.rank + 1))
        self.model.train()
        losses, right, seen, rate = 0.0, 0, 0, 0.0
        for step in range(self.steps):
            chosen = self.processes.share(order[step * self.batch : (step + 1) * self.batch])
            images = augment(self.data.train.images[chosen]).to(self.processes.device)
            labels = self.data.train.labels[chosen].to(self.processes.device)
            rate = self.learning_rate(number - 1 + (step + 1) / self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            attacked = fgsm(self.model, pixels(images), labels, self.epsilon, random_start=self.settings.random_start)
            logits = self.trained(attacked)  # measured, in every n-th step
            loss = F.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses += loss.item() * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            seen += len(labels)
            show(step + 1, losses / seen, right / seen)
            (interrupted,) = self.processes.totals(asked())
            if interrupted:
                return None
        losses, right, seen = self.processes.totals(losses, right, seen)
        return losses / seen, right / seen, rate

    def _aliasing(self) -> tuple[float | None, dict[str, float], float]:
        """AM since the last epoch, of the blocks, and the seconds that it took all in all."""
        if self.monitor is None:
            return None, {}, 0.0
        start = time.perf_counter()
        am = self.monitor.mean()
        seconds = time.perf_counter() - start + self.clock.read(reset=True)
        blocks = {name.removeprefix(PREFIX): value for name, value in self.monitor.compute("block").items()}
        self.monitor.reset()
        return am, blocks, seconds

    def _check(self) -> tuple[float, float, float, float]:
        """Accuracy on all that is held out, under FGSM and PGD on a batch of it, and the seconds that PGD took."""
        self.model.eval()
        torch.manual_seed(_seed(self.settings.seed, 0, self.processes.rank + 1))  # the attacks' starts: always the same
        right, seen = 0, 0
        everything = self._part(self.data.held_out)
        for images, labels in zip(*(part.split(EVALUATED_AT_A_TIME) for part in everything), strict=True):
            right += self._right(pixels(images), labels)
            seen += len(labels)
        images, labels = self._part(self.data.held_out.spread(self.settings.pgd_images))
        attacked = fgsm(self.model, pixels(images), labels, self.epsilon, random_start=self.settings.random_start)
        survived = self._right(attacked, labels)
        start = time.perf_counter()
        robust = pgd_survivors(self.model, pixels(images), labels, self.epsilon, self.settings.pgd_steps)
        seconds = time.perf_counter() - start
        right, seen, survived, robust, checked = self.processes.totals(right, seen, survived, robust, len(labels))
        return right / seen, survived / checked, robust / checked, seconds

    def _part(self, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        device = self.processes.device
        return self.processes.share(images.images).to(device), self.processes.share(images.labels).to(device)

    @torch.no_grad()
    def _right(self, images: torch.Tensor, labels: torch.Tensor) -> int:
        return int((self.model(images).argmax(1) == labels).sum())

    def state_dict(self) -> dict[str, Any]:
        """Everything, of tensors and plain values: loads with ``torch.load(weights_only=True)``."""
        return {
            "run": self._run(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "am_rule": self.am_rule.state_dict(),
            "pgd_rule": self.pgd_rule.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: it is of a run with other settings.
        """
        mine, its = self._run(), state["run"]
        other = [
            f"{name} was {its.get(name)}, is {mine.get(name)}" for name in mine | its if mine.get(name) != its.get(name)
        ]
        if other:
            raise ValueError(f"the run to resume had other settings: {'; '.join(other)}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.am_rule.load_state_dict(state["am_rule"])
        self.pgd_rule.load_state_dict(state["pgd_rule"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]

    def _run(self) -> dict[str, Any]:
        data = {"data": self.data.name, "images": len(self.data.train)}
        return {**self.settings.of_the_run(), **data, "processes": self.processes.world}
