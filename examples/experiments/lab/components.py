"""What a network says of parts of an image: of low and high frequencies, of large and small singular values."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from alias_ops.frequency import Components, split, svd_split
from lab.checks import AT_A_TIME

__all__ = ["AS_IS", "CUTS", "FREQUENCIES", "SINGULAR_VALUES", "WITH_MEAN", "components", "energy", "predict", "shares"]

FREQUENCIES, SINGULAR_VALUES = "frequencies", "singular values"
AS_IS, WITH_MEAN = "as it is", "with the image's mean"

# Radii in bins and ranks; the last of either leaves 32x32 images whole, as the farthest bin is at 22.6.
CUTS: dict[str, tuple[int, ...]] = {
    FREQUENCIES: (2, 4, 6, 8, 10, 12, 16, 20, 23),
    SINGULAR_VALUES: (1, 2, 3, 4, 6, 8, 16, 32),
}
_SPLITS: dict[str, Callable[[torch.Tensor, int], Components]] = {FREQUENCIES: split, SINGULAR_VALUES: svd_split}


def energy(part: torch.Tensor, images: torch.Tensor) -> float:
    """Mean share of the images' energy that is in a part of them, 0..1; [n, C, H, W] both."""
    inside, whole = (maps.flatten(1).square().sum(1) for maps in (part, images))
    return float((inside / whole.clamp(min=torch.finfo(whole.dtype).tiny)).mean())


@torch.no_grad()
def predict(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Labels [n] that a network in evaluation mode gives to images [n, 3, H, W]."""
    return torch.cat([model(x).argmax(1) for x in images.split(AT_A_TIME)])


def shares(
    whole: torch.Tensor, low: torch.Tensor, high: torch.Tensor, without: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Of predictions [n] for images and for their parts: shares of all images, in 0..1.

    Args:
        whole, low, high: labels given to the images, to their low and to their high part.
        without: labels given to the mean colours alone, which are what is left of a high part that nothing is in.
        labels: the true ones.

    Returns:
        plain, low, high: right about the image, about either part.
        high_alone: the paper's point: right about high and about the image, wrong about low.
        by_chance: what ``high_alone`` would be if predictions for high had nothing to do with the images, those dealt
            anew among all of them: a network that calls every dark image the same is right on some.
        by_mean: what it would be of the mean colours in place of high.
        low_alone: right about low and about the image, wrong about high.

    Source: Wang et al., CVPR 2020, sections 1 and 3; ``by_chance`` and ``by_mean`` are ours.
    """
    right = whole == labels
    lost = right & (low != labels)
    often = torch.bincount(high, minlength=int(labels.max()) + 1) / len(labels)
    found = {
        "plain": right,
        "low": low == labels,
        "high": high == labels,
        "high_alone": lost & (high == labels),
        "by_chance": lost * often[labels],
        "by_mean": lost & (without == labels),
        "low_alone": right & (low == labels) & (high != labels),
    }
    return {name: float(which.double().mean()) for name, which in found.items()}


def components(models: dict[str, nn.Module], images: torch.Tensor, labels: torch.Tensor) -> Iterator[dict[str, Any]]:
    """What networks say of either part, in every way of ``CUTS``. Nothing is clipped, as in the paper.

    High is shown as it is, which is a dark image, and with the mean colours of the image, which low has, too: then
    what differs between the two is their frequencies and not how light they are.

    Args:
        models: in evaluation mode, by the name of their training.
        images, labels: [n, 3, H, W] in 0..1 and [n].

    Yields:
        training, by, at (the radius or the rank), energy_high, shown, and the :func:`shares`.
    """
    mean = images.mean((-2, -1), keepdim=True)
    whole = {kind: predict(model, images) for kind, model in models.items()}
    without = {kind: predict(model, mean.expand_as(images)) for kind, model in models.items()}
    for by, places in CUTS.items():
        for at in places:
            low, high = _SPLITS[by](images, at)
            forms = {AS_IS: high, WITH_MEAN: high - high.mean((-2, -1), keepdim=True) + mean}
            where = {"by": by, "at": at, "energy_high": energy(high, images)}
            for kind, model in models.items():
                of_low = predict(model, low)
                for shown, form in forms.items():
                    numbers = shares(whole[kind], of_low, predict(model, form), without[kind], labels)
                    yield {"training": kind, **where, "shown": shown, **numbers}
