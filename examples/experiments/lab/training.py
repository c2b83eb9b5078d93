"""One training by its recipe, and the store that makes every training one of all experiments."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from foolbox import PyTorchModel

from fgsm.attack import fgsm, frozen, pgd
from fgsm.data import augment, pixels
from fgsm.network import PixelNetwork
from lab.checks import check
from lab.images import dataset
from lab.networks import device, make
from lab.recipe import Recipe
from lab.store import keep

__all__ = ["Trained", "held_out", "load", "network", "train", "trained"]


@dataclass(frozen=True)
class Trained:
    """What a training left: its weights, and its checks, of every epoch or of the last one.

    ``history`` has the fields of :class:`lab.checks.Check` and besides ``epoch``, ``loss``, ``train`` (accuracy on the
    images trained on, attacked as they were) and ``seconds_training``.
    """

    recipe: Recipe
    weights: dict[str, torch.Tensor]
    history: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        return self.history[-1]


def _rate(recipe: Recipe, epochs: float) -> float:
    if recipe.schedule == "flat":
        return recipe.lr
    return recipe.lr * float(np.interp(epochs / recipe.epochs, (0, 0.5, 1), (0, 1, 0)))


def _attacked(model: PixelNetwork, x: torch.Tensor, y: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The images that the step trains on, in the same mode as the step, as Wong et al. have it."""
    if recipe.attack == "none":
        return x
    epsilon = recipe.epsilon / 255
    if recipe.attack != "pgd":
        return fgsm(model, x, y, epsilon, random_start=recipe.attack == "fgsm-rs")
    model.eval()  # Foolbox warns of anything else
    with frozen(model):
        victim = PyTorchModel(model, bounds=(0, 1), device=x.device)
        _, attacked, _ = pgd(recipe.steps)(victim, x, y, epsilons=epsilon)
    model.train()
    return attacked.detach()


def network(recipe: Recipe, *, variant: str = "centered") -> PixelNetwork:
    """The untrained network of a recipe, on the device; the seed's weights."""
    torch.manual_seed(recipe.seed)
    return make(recipe.network, recipe.downsampling, dataset(recipe), variant=variant).to(device())


def held_out(recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [n, 3, H, W] in 0..1 that the training did not see, and their labels, on the device."""
    images = dataset(recipe).held_out
    return pixels(images.images).to(device()), images.labels.to(device())


def _run(recipe: Recipe) -> Trained:
    model, data, judges = network(recipe), dataset(recipe).train, held_out(recipe)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(wanted, recipe.lr, momentum=0.9, weight_decay=5e-4)
    batch = min(recipe.batch, len(data))
    steps, history = len(data) // batch, []
    for epoch in range(recipe.epochs):
        torch.manual_seed(1000 * recipe.seed + epoch)
        model.train()
        order, start = torch.randperm(len(data)), time.perf_counter()
        losses, right = 0.0, 0
        for step in range(steps):
            chosen = order[step * batch : (step + 1) * batch]
            images = augment(data.images[chosen]) if recipe.augmented else data.images[chosen]
            x, y = pixels(images).to(device()), data.labels[chosen].to(device())
            for group in optimizer.param_groups:
                group["lr"] = _rate(recipe, epoch + (step + 1) / steps)
            logits = model(_attacked(model, x, y, recipe))
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.item()
            right += int((logits.argmax(1) == y).sum())
        seconds = time.perf_counter() - start
        if recipe.every_epoch or epoch + 1 == recipe.epochs:
            checked = check(model, recipe, judges, recipe.seed)
            numbers = {"epoch": epoch + 1, "loss": losses / steps, "train": right / (steps * batch)}
            history.append({**numbers, **asdict(checked), "seconds_training": seconds})
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    return Trained(recipe, weights, history)


def _path(recipe: Recipe, store: Path) -> Path:
    return store / f"{recipe.key}.pt"


def train(recipe: Recipe, store: Path) -> bool:
    """Train and keep it in the store, unless it is there; returns whether it was. The same bit for bit, one thread."""
    return keep(_path(recipe, store), lambda: asdict(_run(recipe)))


def load(recipe: Recipe, store: Path) -> Trained:
    """A training from the store.

    Raises:
        FileNotFoundError: it is not there.
    """
    state = torch.load(_path(recipe, store), weights_only=True)
    return Trained(recipe, state["weights"], state["history"])


def trained(recipe: Recipe, store: Path) -> PixelNetwork:
    """The network of a training from the store: in evaluation mode, its parameters without gradients."""
    model = network(recipe)
    model.load_state_dict(load(recipe, store).weights)
    return model.eval().requires_grad_(False)
