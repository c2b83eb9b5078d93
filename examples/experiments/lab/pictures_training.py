"""A training on pictures of 224 pixels, and what its network is asked afterwards, as it is and with the other variant.

Kept in the store of all trainings, beside those of ``lab.training``.
"""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lab.pictures import SIZE, Training, held_out, network, source
from lab.store import keep

__all__ = ["AGREES", "SHIFTS", "load", "other", "predict", "train", "trained"]

AGREES = 256  # 128, 64, 32, 16, 8: 4 divides whatever is halved
SHIFTS = range(1, 9)  # pixels, downwards and to the right at once


def other(training: Training) -> str | None:
    """The variant that it was not trained with."""
    if training.pool == "strided":
        return None
    return "upstream" if training.variant == "centered" else "centered"


@torch.no_grad()
def predict(model: nn.Module, training: Training, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [n, classes] and labels [n] of what is held out, at one size."""
    logits, labels = zip(*((model(x), y) for x, y in held_out(training, size)))
    return torch.cat(logits), torch.cat(labels)


@torch.no_grad()
def _consistency(model: nn.Module, training: Training) -> float:
    """Share of held-out pictures that get the same class when their window of 224 pixels moves.

    Every picture is moved by a single one of ``SHIFTS``, each as often as the others.
    """
    same, count = 0, 0
    for x, _ in held_out(training, SIZE + max(SHIFTS)):
        by = [SHIFTS[(count + index) % len(SHIFTS)] for index in range(len(x))]
        moved = torch.stack([image[:, s : s + SIZE, s : s + SIZE] for image, s in zip(x, by)])
        same += int((model(x[..., :SIZE, :SIZE]).argmax(1) == model(moved).argmax(1)).sum())
        count += len(x)
    return same / count


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


def _checked(model: nn.Module, training: Training) -> dict[str, Any]:
    """Held-out accuracies and consistency of a network in evaluation mode, and its logits at either size."""
    at_size, at_other = predict(model, training, SIZE), predict(model, training, AGREES)
    return {
        "accuracy": _accuracy(*at_size),
        "accuracy_256": _accuracy(*at_other),
        "consistency": _consistency(model, training),
        "logits": {SIZE: at_size[0].cpu(), AGREES: at_other[0].cpu()},
    }


def _learn(training: Training) -> tuple[nn.Module, dict[str, Any]]:
    model, images = network(training), source(training)
    optimizer = torch.optim.SGD(model.parameters(), training.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps, start, taken = images.steps(), time.perf_counter(), 0
    losses: list[float] = []
    right = 0.0
    for epoch in range(training.epochs):
        torch.manual_seed(1000 * training.seed + epoch)
        model.train()
        losses, right = [], 0.0
        for x, y in images.train():
            taken += 1
            done = taken / (steps * training.epochs)
            for group in optimizer.param_groups:
                group["lr"] = training.lr * float(np.interp(done, (0, 0.25, 1), (0.1, 1, 0)))
            x, y = x.to(model.mean.device), y.to(model.mean.device)
            logits = model(x)
            loss = F.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            right += _accuracy(logits, y)
    seconds = time.perf_counter() - start
    numbers = {"loss": sum(losses) / len(losses), "train": right / len(losses), "seconds": seconds}
    return model, {"classes": images.classes, **numbers}


def _run(training: Training) -> dict[str, Any]:
    model, result = _learn(training)
    weights = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    checks = {"own": _checked(model.eval(), training)}
    if variant := other(training):
        checks["other"] = _checked(trained(training, weights, variant), training)
    return {"training": asdict(training), "weights": weights, "result": result, "checks": checks}


def trained(training: Training, weights: dict[str, torch.Tensor], variant: str = "") -> nn.Module:
    """The network with its weights, in evaluation mode; ``variant`` in place of the one it was trained with."""
    model = network(training, variant)
    model.load_state_dict(weights)
    return model.eval()


def _path(training: Training, store: Path) -> Path:
    return store / f"{training.key}.pt"


def train(training: Training, store: Path) -> bool:
    """Train, check and keep it in the store, unless it is there; returns whether it was."""
    return keep(_path(training, store), lambda: _run(training))


def load(training: Training, store: Path) -> dict[str, Any]:
    """What :func:`train` left: ``weights``, ``result`` of the training, ``checks`` with "own" and "other" variant.

    Raises:
        FileNotFoundError: it is not there.
    """
    return torch.load(_path(training, store), weights_only=True)
