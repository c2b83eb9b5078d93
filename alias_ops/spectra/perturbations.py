"""Which frequencies an attack adds to images: for each channel, and for each class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ._batches import at_rest, batches, check_labels
from .images import FLOOR, check_floor, log_magnitude

__all__ = ["PerturbationSpectrum", "perturbation_spectrum"]

Attack = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class PerturbationSpectrum:
    """Mean log-magnitude spectra of ``adversarial - clean``; levels and axes as of :func:`spectrum`.

    Args:
        channels: [C, H, W], over all images; NaN where the attack changed none.
        classes: class -> [C, H, W], over its images; empty unless asked for. A class none of whose images was
            changed is not in it.
        images: how many the means are of.
        unchanged: images that the attack left as they were, which are in no mean.
        adversarial: [B, C, H, W], what the attack returned, for :func:`confidence_report`.
    """

    channels: torch.Tensor
    classes: dict[int, torch.Tensor]
    images: int
    unchanged: int
    adversarial: torch.Tensor


def _library(attack: object) -> str:
    """Name of the library that a class or one of its bases comes from; "" for any other."""
    packages = {base.__module__.partition(".")[0] for base in type(attack).__mro__}
    return next((name for name in ("foolbox", "torchattacks") if name in packages), "")


def _adapt(attack: Any, model: nn.Module, epsilon: float | None, bounds: tuple[float, float]) -> Attack:
    """Any of the kinds of attack as a callable (model, x, y)."""
    library = _library(attack)
    if library == "foolbox":
        from foolbox import PyTorchModel

        def of_foolbox(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            victim = PyTorchModel(model, bounds=bounds, device=x.device)
            return attack(victim, x, y, epsilons=epsilon)[1]  # raw, clipped, success

        return of_foolbox
    if epsilon is not None:
        raise ValueError("epsilon is for attacks of foolbox alone: others are made with theirs")
    if library == "torchattacks":
        if attack.model is not model:
            raise ValueError(f"attack was made for another model, a {type(attack.model).__name__}")
        return lambda model, x, y: attack(x, y)
    if not callable(attack) or isinstance(attack, type):
        raise TypeError(
            "attack must be an attack of foolbox or torchattacks, or a function (model, x, y) -> adversarial images, "
            f"got {attack!r}"
        )
    return attack


def _check_adversarial(adversarial: object, x: torch.Tensor) -> torch.Tensor:
    if not isinstance(adversarial, torch.Tensor):
        raise TypeError(f"attack must return a tensor, got {type(adversarial).__name__}")
    if adversarial.shape != x.shape:
        raise ValueError(f"attack must return images {list(x.shape)}, got {list(adversarial.shape)}")
    return adversarial.detach().to(x)


def perturbation_spectrum(
    model: nn.Module,
    x: torch.Tensor,
    y: torch.Tensor,
    attack: Any,
    *,
    epsilon: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
    by_class: bool = False,
    batch_size: int = 100,
    floor: float = FLOOR,
) -> PerturbationSpectrum:
    """Spectrum of what an attack adds to images.

    1. Attacks the images, in evaluation mode and without gradients for the parameters; the model is as before
       afterwards.
    2. Takes the log-magnitude spectrum of each perturbation, ``adversarial - x``, as :func:`spectrum` does. Images
       that come back unchanged (commonly those that are classified wrong before the attack) have no spectrum; they
       are counted.
    3. Means over the images, and over those of each class.

    Args:
        model: images -> logits, in the range of pixels that the attack works in. Normalise within the model.
        x: floating [B, C, H, W], on the model's device.
        y: the true classes, int64 [B].
        attack: of foolbox (``foolbox.attacks.LinfPGD()``), of torchattacks, made for this model, or a function
            ``(model, x, y) -> adversarial images``.
        epsilon: of an attack of foolbox: the largest norm of a perturbation. None for attacks that look for the
            smallest one.
        bounds: of an attack of foolbox: the least and the greatest value of a pixel.
        by_class: also the mean of each class of ``y``.
        batch_size: images that are attacked at a time.
        floor: as for :func:`spectrum`.

    Returns:
        A :class:`PerturbationSpectrum`.

    Raises:
        TypeError, ValueError: an argument, or what the attack returns, is not of this kind.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 4.3; the logarithm as of :func:`spectrum`.
    """
    check_labels(model, x, y, ("x", "y"))
    check_floor(floor)
    attacked = _adapt(attack, model, epsilon, bounds)
    found, levels, labels = [], [], []
    with at_rest(model):
        for images, truth in batches(batch_size, x, y):
            adversarial = _check_adversarial(attacked(model, images, truth), images)
            changed = (adversarial != images).flatten(1).any(1)
            found.append(adversarial)
            levels.append(log_magnitude((adversarial - images)[changed], floor))
            labels.append(truth[changed.to(truth.device)])
    level, label = torch.cat(levels), torch.cat(labels)
    classes = [int(one) for one in label.unique()] if by_class else []
    return PerturbationSpectrum(
        channels=level.mean(0),
        classes={one: level[(label == one).to(level.device)].mean(0) for one in classes},
        images=len(level),
        unchanged=len(x) - len(level),
        adversarial=torch.cat(found),
    )
