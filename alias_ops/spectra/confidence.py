"""How sure a classifier is of clean and of attacked images, where it is right and where it is wrong."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from ..ops._library import accumulation_dtype
from ._batches import at_rest, batches, check_labels

__all__ = ["Confidence", "ConfidenceReport", "confidence_report"]


@dataclass(frozen=True)
class Confidence:
    """Predictions of one set of images; NaN where there are none of a kind.

    Args:
        images: how many.
        accuracy: share of right predictions, 0..1.
        mean: mean confidence of all predictions, 0..1.
        right: of the right predictions alone.
        wrong: of the wrong predictions alone.
    """

    images: int
    accuracy: float
    mean: float
    right: float
    wrong: float


@dataclass(frozen=True)
class ConfidenceReport:
    """Confidence on clean and on adversarial images; ``str`` of it is a table.

    Args:
        clean: on the images as they are.
        adversarial: on the attacked ones.
    """

    clean: Confidence
    adversarial: Confidence

    def __str__(self) -> str:
        def cell(value: float) -> str:
            return "-" if math.isnan(value) else f"{100 * value:.1f} %"

        head = f"{'':<12}{'images':>8}{'accuracy':>10}{'confidence':>12}{'if right':>10}{'if wrong':>10}"
        rows = [
            f"{name:<12}{of.images:>8}{cell(of.accuracy):>10}{cell(of.mean):>12}{cell(of.right):>10}{cell(of.wrong):>10}"
            for name, of in (("clean", self.clean), ("adversarial", self.adversarial))
        ]
        return "\n".join([head, *rows])


@torch.no_grad()
def _confidence(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, batch_size: int) -> Confidence:
    tops, rights = [], []
    for images, truth in batches(batch_size, x, labels):
        logits = model(images)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2 or len(logits) != len(images):
            came = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            raise ValueError(f"model must return logits [{len(images)}, classes], got {came}")
        top, guess = logits.to(accumulation_dtype(logits.dtype)).softmax(-1).max(-1)
        tops.append(top)
        rights.append(guess == truth.to(guess.device))
    top, right = torch.cat(tops), torch.cat(rights)
    mean, of_right, of_wrong = (part.mean().item() for part in (top, top[right], top[~right]))  # of none: NaN
    return Confidence(len(top), right.float().mean().item(), mean, of_right, of_wrong)


def confidence_report(
    model: nn.Module,
    clean: torch.Tensor,
    adversarial: torch.Tensor,
    labels: torch.Tensor,
    *,
    batch_size: int = 100,
) -> ConfidenceReport:
    """How sure a classifier is of clean and of attacked images.

    The confidence of a prediction is the greatest of the softmax probabilities. Its mean is taken over all images,
    over those that are classified right and over those that are classified wrong: a network that is as sure of its
    errors as of the rest is over-confident. The model is in evaluation mode meanwhile, and as before afterwards.

    Args:
        model: images [B, C, H, W] -> logits [B, K].
        clean: floating [B, C, H, W], on the model's device.
        adversarial: the same images attacked, [B, C, H, W] as ``clean``.
        labels: the true classes, int64 [B].
        batch_size: images that go through the model at a time.

    Returns:
        A :class:`ConfidenceReport`; ``print`` it.

    Raises:
        TypeError, ValueError: an argument, or what the model returns, is not of this kind.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 4.3.3. The paper speaks of the confidence of
    clean, adversarial and wrong predictions; that it is the softmax's maximum, and that wrong ones are counted for
    either set, is this package's reading.
    """
    check_labels(model, clean, labels, ("clean", "labels"))
    check_labels(model, adversarial, labels, ("adversarial", "labels"))
    if adversarial.shape != clean.shape:
        raise ValueError(
            f"adversarial must be of the shape of clean, {list(clean.shape)}, got {list(adversarial.shape)}"
        )
    with at_rest(model):
        return ConfidenceReport(*(_confidence(model, x, labels, batch_size) for x in (clean, adversarial)))
