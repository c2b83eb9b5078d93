"""The defences D1 and D2 by their strength, and the attacks that they are held against."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from foolbox import PyTorchModel
from foolbox.attacks import L2CarliniWagnerAttack, L2DeepFoolAttack, LinfFastGradientAttack
from torch import nn

from alias_ops.frequency import LowPass2d, smooth_kernels_
from lab.checks import accuracy

__all__ = [
    "CARLINI",
    "CLEAN",
    "D1",
    "D2_RADIUS",
    "D2_RHO",
    "DEEPFOOL",
    "FGSM",
    "STRENGTHS",
    "TRANSFERRED",
    "WHITE",
    "Strength",
    "attack",
    "attacks",
    "defended",
    "held_against",
]

D1, D2_RADIUS, D2_RHO = "D1, radius", "D2, radius", "D2, rho"
FGSM, DEEPFOOL, CARLINI = "FGSM", "DeepFool", "C&W"
CLEAN, TRANSFERRED, WHITE = "no attack", (FGSM, DEEPFOOL, CARLINI), "FGSM through the defence"


class Strength(NamedTuple):
    """How much a defence does.

    Attributes:
        value: the radius, or rho.
        layers: convolutions that are smoothed, the first ones; 0 for D1.
    """

    value: float
    layers: int = 0

    def __str__(self) -> str:
        return f"{self.value:g}" + (f" ×{self.layers}" if self.layers > 1 else "")


# From none to the strongest. 23 is beyond the farthest bin of a 32x32 image, 2 beyond that of a 3x3 kernel.
STRENGTHS: dict[str, tuple[Strength, ...]] = {
    D1: tuple(map(Strength, (23, 16, 12, 10, 8, 6, 4))),
    D2_RADIUS: (Strength(2, 1), Strength(1.2, 1), Strength(1.2, 4), Strength(1, 1), Strength(1, 4)),
    D2_RHO: tuple(Strength(rho, 1) for rho in (0, 0.01, 0.05, 0.2)),
}


def attacks(epsilon: float, steps: int) -> dict[str, tuple[Any, float | None]]:
    """Attacks and their budgets: of FGSM the largest change of a pixel in 0..1; the others look for the least L2.

    ``steps`` is DeepFool's; Carlini & Wagner's has three times as many in each of three searches, far fewer than
    published.
    """
    search = {"binary_search_steps": 3, "steps": 3 * steps, "stepsize": 0.02}
    return {
        FGSM: (LinfFastGradientAttack(random_start=False), epsilon),
        DEEPFOOL: (L2DeepFoolAttack(steps=steps, candidates=4), None),
        CARLINI: (L2CarliniWagnerAttack(**search, initial_const=1, abort_early=False), None),
    }


def attack(model: nn.Module, x: torch.Tensor, y: torch.Tensor, how: Any, epsilon: float | None) -> torch.Tensor:
    """One of Foolbox's attacks.

    Args:
        model: in evaluation mode, takes pixels in 0..1; its parameters want no gradients.
        x, y: images [n, 3, H, W] and labels [n].
        how, epsilon: as of :func:`attacks`.

    Returns:
        [n, 3, H, W]; where an attack without epsilon found nothing, the image as it came.
    """
    _, found, success = how(PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=epsilon)
    if epsilon is not None:
        return found.detach()
    # Foolbox's Carlini & Wagner returns black images where it finds nothing, and a black one may pass as found.
    nothing = ~success | ((found == 0).flatten(1).all(1) & (x != 0).flatten(1).any(1))
    return torch.where(nothing[:, None, None, None], x, found.detach())


def defended(model: nn.Module) -> Iterator[tuple[str, Strength, nn.Module]]:
    """Every defence of ``STRENGTHS`` and the defended network, to be used before the next.

    D2 changes the model in place and gives it back as it was.

    Source: Wang et al., CVPR 2020, section 6.
    """
    for strength in STRENGTHS[D1]:
        yield D1, strength, nn.Sequential(LowPass2d(strength.value), model).eval()
    for strength in STRENGTHS[D2_RADIUS]:
        with smooth_kernels_(model, strength.value, strength.layers):
            yield D2_RADIUS, strength, model
    for strength in STRENGTHS[D2_RHO]:
        with smooth_kernels_(model, rho=strength.value, layers=strength.layers):
            yield D2_RHO, strength, model


def held_against(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, epsilon: float, steps: int
) -> Iterator[dict[str, Any]]:
    """Accuracy of a network behind each defence under each attack.

    Attacks are made on the undefended network and shown to the defended one, as in the paper; that is what a defence
    does against somebody who does not know of it. FGSM is made once more through the defence.

    Args:
        model, x, y: as for :func:`attack`.
        epsilon, steps: as for :func:`attacks`.

    Yields:
        defence, strength, layers, attack, median_l2 (of the attack's change), accuracy in 0..1.
    """
    hows = attacks(epsilon, steps)
    made = {CLEAN: x, **{name: attack(model, x, y, *how) for name, how in hows.items()}}
    for defence, strength, network in defended(model):
        shown = {**made, WHITE: attack(network, x, y, *hows[FGSM])}
        for name, images in shown.items():
            where = {"defence": defence, "strength": strength.value, "layers": strength.layers, "attack": name}
            change = float((images - x).flatten(1).norm(dim=1).median())
            yield {**where, "median_l2": change, "accuracy": accuracy(network, images, y)}
