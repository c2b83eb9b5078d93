"""The attack that the network trains against, the one that checks it, and the rule built on the check."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from foolbox import PyTorchModel
from foolbox.attacks import LinfPGD
from torch import nn

__all__ = ["PGDEarlyStopping", "fgsm", "frozen", "pgd", "pgd_survivors"]


def fgsm(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float, *, random_start: bool = True
) -> torch.Tensor:
    """Images moved by one step along the sign of the loss's gradient, where the network is more likely to fail.

    1. Starts anywhere within ``epsilon`` of the image, or at the image.
    2. Steps by 1.25 ``epsilon``, from the image by ``epsilon``.
    3. Comes back to within ``epsilon`` of the image and to valid pixels.

    The model's parameters get no gradients. In training mode its batch statistics are updated.

    Args:
        model: takes pixels, returns logits.
        images: [n, 3, H, W] in 0..1.
        labels: [n].
        epsilon: largest change of a pixel, in the same units.
        random_start: False for the attack as Goodfellow et al. published it.

    Returns:
        [n, 3, H, W] in 0..1, without graph.

    Source: Wong, Rice & Kolter, "Fast is better than free", ICLR 2020, Algorithm 3.
    """
    start = images
    if random_start:
        start = (images + torch.empty_like(images).uniform_(-epsilon, epsilon)).clamp(0, 1)
    start = start.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), labels), start)
    step = 1.25 * epsilon if random_start else epsilon
    moved = start.detach() + step * gradient.sign()
    return moved.clamp(images - epsilon, images + epsilon).clamp(0, 1)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No gradients for the parameters: the attack library would add its own to those of the training."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def pgd(steps: int) -> LinfPGD:
    """Projected gradient descent from a random start, each step a quarter of epsilon: 2/255 for 8/255."""
    return LinfPGD(rel_stepsize=0.25, steps=steps, random_start=True)


def pgd_survivors(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, epsilon: float, steps: int) -> int:
    """How many images a model in evaluation mode still gets right under projected gradient descent.

    As in Wong et al.'s check.

    Args:
        model, images, labels, epsilon: as for :func:`fgsm`.
        steps: of the descent, each a forward and a backward; one more forward judges.
    """
    with frozen(model):
        victim = PyTorchModel(model, bounds=(0, 1), device=images.device)
        _, _, fooled = pgd(steps)(victim, images, labels, epsilons=epsilon)
    return int((~fooled).sum())


class PGDEarlyStopping:
    """Stops a training when the accuracy under PGD falls by more than ``drop`` from one epoch to the next.

    The rule that :class:`alias_ops.AliasingEarlyStopping` does without the attack for; its state is saved alike.

    Source: Wong, Rice & Kolter, "Fast is better than free", ICLR 2020, section 5.
    """

    def __init__(self, drop: float = 0.2) -> None:
        self.drop = drop
        self.reason: str | None = None
        self._last: float | None = None

    @property
    def stopped(self) -> bool:
        return self.reason is not None

    def step(self, accuracy: float) -> bool:
        """Record the accuracy of an epoch, in 0..1, and say whether to stop; once stopped it stays so."""
        last, self._last = self._last, accuracy
        if not self.stopped and last is not None and last - accuracy > self.drop:
            fall = f"from {100 * last:.1f} % to {100 * accuracy:.1f} %"
            self.reason = f"accuracy under PGD fell {fall}, by more than {100 * self.drop:g} points"
        return self.stopped

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last, "reason": self.reason}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._last, self.reason = state["last"], state["reason"]
