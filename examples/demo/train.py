"""Train one variant of the network and measure its aliasing after every epoch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from data import CLASSES, Patches
from measure import measure_model
from model import ResNet

__all__ = ["Epoch", "Run", "train"]

BATCH = 64
LEARNING_RATE = 0.1


@dataclass(frozen=True)
class Epoch:
    """Where a run stands after an epoch; epoch 0 is before training, without a training accuracy."""

    epoch: int
    loss: float | None
    train_accuracy: float | None
    held_out_accuracy: float
    aliasing: dict[str, float]


@dataclass
class Run:
    """One variant's training, as far as it has come."""

    variant: str
    model: ResNet
    epochs: int
    history: list[Epoch] = field(default_factory=list)
    progress: float = 0.0  # 0 to 1
    loss: float | None = None
    train_accuracy: float | None = None

    @classmethod
    def start(cls, variant: str, epochs: int, seed: int) -> "Run":
        """A run with the initial weights of ``seed``: the same for every variant."""
        torch.manual_seed(seed)
        return cls(variant, ResNet(len(CLASSES), variant), epochs)

    @property
    def last(self) -> Epoch:
        return self.history[-1]

    @property
    def finished(self) -> bool:
        return len(self.history) == self.epochs + 1


@torch.no_grad()
def _accuracy(model: ResNet, patches: Patches) -> float:
    model.eval()
    guesses = [model(images).argmax(1) for images in patches.images.split(256)]
    return (torch.cat(guesses) == patches.labels).double().mean().item()


def _record(run: Run, held_out: Patches, probe: torch.Tensor) -> None:
    aliasing = measure_model(run.model, probe)
    accuracy = _accuracy(run.model, held_out)
    run.history.append(Epoch(len(run.history), run.loss, run.train_accuracy, accuracy, aliasing))


def train(
    run: Run,
    patches: Patches,
    held_out: Patches,
    probe: torch.Tensor,
    seed: int,
    show: Callable[[Run], None],
    term: Callable[[], torch.Tensor] | None = None,
) -> None:
    """Run all epochs of ``run``.

    Args:
        patches: to train on, in an order and with flips that depend on ``seed`` alone.
        held_out: for the accuracy after each epoch.
        probe: images that AM is measured on, before training and after each epoch.
        show: called whenever ``run`` has changed.
        term: what is added to the loss of each forward, if anything.
    """
    optimizer = torch.optim.SGD(run.model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=5e-4, nesterov=True)
    generator = torch.Generator().manual_seed(seed)
    batches = len(patches) // min(BATCH, len(patches))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=run.epochs * batches)
    _record(run, held_out, probe)
    show(run)
    steps = 0
    for _ in range(run.epochs):
        run.model.train()
        seen, right, losses = 0, 0, 0.0
        # A last batch of less than BATCH would weigh more than the others.
        for indices in torch.randperm(len(patches), generator=generator).tensor_split(batches):
            images, labels = patches.images[indices], patches.labels[indices]
            flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            logits = run.model(torch.where(flipped, images.flip(-1), images))
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            (loss if term is None else loss + term()).backward()
            optimizer.step()
            schedule.step()
            seen += len(labels)
            right += int((logits.argmax(1) == labels).sum())
            losses += loss.item() * len(labels)
            run.loss, run.train_accuracy = losses / seen, right / seen
            steps += 1
            run.progress = steps / (run.epochs * batches)
            show(run)
        _record(run, held_out, probe)
        show(run)
