"""What is asked of a network at rest: accuracies, aliasing, confidence, spectra of perturbations."""

import time
from dataclasses import dataclass

import torch
from torch import nn

from alias_ops import AliasingMonitor, AliasingPenalty
from alias_ops.spectra import confidence_report, perturbation_spectrum
from fgsm.attack import fgsm, pgd, pgd_survivors
from fgsm.data import evenly
from lab.networks import can_alias
from lab.recipe import Recipe

__all__ = ["Check", "accuracy", "check", "measure", "pgd", "some", "survivors"]

AT_A_TIME = 160
AM_IMAGES = 100  # as in the 2022 paper


@dataclass(frozen=True)
class Check:
    """A network's numbers on held-out images; shares and confidences in 0..1.

    Args:
        clean: accuracy on all that is held out.
        fgsm, pgd: accuracy on the checked images under FGSM and PGD.
        am: mean of ``layers``, on clean images; None where no layer can alias.
        relative: the mean of AM over the standard deviation of the layer's output, block by block: what is left of a
            difference in AM when the scale of the maps is taken out.
        layers: AM of every downsampling layer.
        sure_clean, sure_attacked: mean confidence on the checked images, clean and under PGD.
        sure_wrong: of those under PGD that it gets wrong; NaN where there are none.
        spectrum: [3, H, W], mean log10 spectrum of what PGD adds.
        seconds_am, seconds_pgd: of measuring AM on 100 images, and of attacking as many of the checked ones.
    """

    clean: float
    fgsm: float
    pgd: float
    am: float | None
    relative: float | None
    layers: dict[str, float]
    sure_clean: float
    sure_attacked: float
    sure_wrong: float
    spectrum: torch.Tensor
    seconds_am: float
    seconds_pgd: float


def some(held_out: tuple[torch.Tensor, torch.Tensor], most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At most so many images and their labels, evenly spaced: they lie in order of class."""
    images, labels = held_out
    chosen = evenly(len(labels), most)
    return images[chosen], labels[chosen]


@torch.no_grad()
def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of images [n, 3, H, W] in 0..1 that a network in evaluation mode gets right."""
    parts = zip(images.split(AT_A_TIME), labels.split(AT_A_TIME))
    return sum(int((model(x).argmax(1) == y).sum()) for x, y in parts) / len(labels)


def survivors(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, steps: int) -> float:
    """Accuracy of a network in evaluation mode under PGD within ``epsilon``, in 0..1."""
    return pgd_survivors(model, x, y, epsilon, steps) / len(y)


def measure(model: nn.Module, images: torch.Tensor) -> dict[str, float]:
    """AM of every downsampling layer on at most 100 images, spread over all of them; empty where none can alias."""
    with AliasingMonitor(model, max_samples=AM_IMAGES) as monitor:
        monitor.update(_few(images))
        return {name.removeprefix("network."): value for name, value in monitor.compute("layer").items()}


def _few(images: torch.Tensor) -> torch.Tensor:
    return images[evenly(len(images), AM_IMAGES)]


def _relative(model: nn.Module, images: torch.Tensor) -> float:
    with AliasingPenalty(model, relative=True) as penalty:
        model(_few(images))
        return float(penalty().detach())


def check(model: nn.Module, recipe: Recipe, held_out: tuple[torch.Tensor, torch.Tensor], seed: int) -> Check:
    """All of it, in evaluation mode; the model is in evaluation mode afterwards.

    Args:
        model: takes pixels in 0..1.
        recipe: how many images to check, how strong the attacks are.
        held_out: images [n, 3, H, W] in 0..1 and labels [n].
        seed: of the attacks' starts.
    """
    model.eval()
    torch.manual_seed(seed)
    images, labels = held_out
    x, y = some(held_out, recipe.checked)
    epsilon = recipe.judged / 255
    start = time.perf_counter()
    measured = can_alias(recipe.network, recipe.downsampling)
    layers = measure(model, x) if measured else {}
    seconds_am = time.perf_counter() - start
    relative = _relative(model, x) if measured else None
    start = time.perf_counter()
    found = perturbation_spectrum(model, x, y, pgd(recipe.pgd_steps), epsilon=epsilon, batch_size=AT_A_TIME)
    seconds_pgd = (time.perf_counter() - start) * min(AM_IMAGES, len(x)) / len(x)
    report = confidence_report(model, x, found.adversarial, y, batch_size=AT_A_TIME)
    return Check(
        clean=accuracy(model, images, labels),
        fgsm=accuracy(model, fgsm(model, x, y, epsilon, random_start=False), y),
        pgd=report.adversarial.accuracy,
        am=sum(layers.values()) / len(layers) if layers else None,
        relative=relative,
        layers=layers,
        sure_clean=report.clean.mean,
        sure_attacked=report.adversarial.mean,
        sure_wrong=report.adversarial.wrong,
        spectrum=found.channels.cpu(),
        seconds_am=seconds_am,
        seconds_pgd=seconds_pgd,
    )
