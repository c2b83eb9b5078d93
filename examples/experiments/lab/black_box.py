"""Attacks by labels alone: high frequencies taken away, salt and pepper, and a single pixel."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from foolbox import PyTorchModel
from foolbox.attacks import SaltAndPepperNoiseAttack
from torch import nn

from alias_ops.frequency import high_frequency_attack
from alias_ops.frequency.attack import schedule
from lab.checks import AT_A_TIME
from lab.components import predict

__all__ = [
    "HIGH",
    "PEPPER",
    "PIXEL",
    "Found",
    "black_box",
    "budget",
    "high_frequencies",
    "one_pixel",
    "salt_and_pepper",
]

HIGH, PEPPER, PIXEL = "high frequencies", "salt and pepper", "one pixel"
STEP = 3  # of the distinct radii every third


class Found(NamedTuple):
    """What an attack found.

    Attributes:
        images: [n, 3, H, W]; as they came where it found nothing.
        success: bool [n].
        norm: L2 of the change over channels and pixels in 0..1, [n]; inf where nothing was found.
        queries: int64 [n], how often the network was asked, the image itself included.
    """

    images: torch.Tensor
    success: torch.Tensor
    norm: torch.Tensor
    queries: torch.Tensor


def budget(height: int, width: int) -> int:
    """Queries that the high-frequency attack makes of an image at most; the others have as many."""
    return 1 + len(schedule(height, width, STEP, None))


def _norm(images: torch.Tensor, x: torch.Tensor, success: torch.Tensor) -> torch.Tensor:
    return torch.where(success, (images - x).flatten(1).norm(dim=1), torch.inf)


def high_frequencies(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Found:
    """The high-frequency attack down to a quarter of the image's side, clipped to valid pixels as the others are.

    Args:
        model: in evaluation mode, takes pixels in 0..1.
        x, y: images [n, 3, H, W] and labels [n].
    """
    found = high_frequency_attack(model, x, y, step=STEP, batch_size=AT_A_TIME, bounds=(0, 1))
    return Found(found.images, found.success, found.norm, found.queries)


def salt_and_pepper(model: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int) -> Found:
    """Foolbox's: noise on a growing share of pixels, then on a smaller one; never done before its queries are.

    Args:
        model, x, y: as for :func:`high_frequencies`.
        seed: of the noise.
    """
    torch.manual_seed(seed)
    queries = budget(*x.shape[-2:])
    noise = SaltAndPepperNoiseAttack(steps=queries - 1)
    _, images, success = noise(PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=None)
    return Found(images, success, _norm(images, x, success), torch.full_like(y, queries))


def one_pixel(model: nn.Module, x: torch.Tensor, y: torch.Tensor, queries: int, seed: int) -> Found:
    """Random search over one pixel: any place, any of the eight corners of the colours, until the network errs.

    Foolbox has no attack on one pixel that does with labels. The published one (Su et al., 2019) evolves pixels by the
    network's confidence and asks thousands of times.

    Args:
        model, x, y: as for :func:`high_frequencies`.
        queries: of an image at most, the first of which is about the image itself.
        seed: of places and colours.
    """
    generator = torch.Generator().manual_seed(seed)
    count, channels, height, width = x.shape
    images, success = x.clone(), predict(model, x) != y
    asked = torch.ones_like(y)
    for _ in range(queries - 1):
        # For all images, those that are done included: what is drawn for one depends on no other.
        at = torch.randint(height * width, (count,), generator=generator).to(x.device)
        colour = torch.randint(2, (count, channels), generator=generator).to(x.device, x.dtype)
        going = (~success).nonzero()[:, 0]
        if not len(going):
            break
        row, column = at[going] // width, at[going] % width
        same = (x[going, :, row, column] == colour[going]).all(1, keepdim=True)
        candidates = x[going]
        candidates[torch.arange(len(going)), :, row, column] = torch.where(same, 1 - colour[going], colour[going])
        asked[going] += 1
        fooled = predict(model, candidates) != y[going]
        images[going[fooled]], success[going[fooled]] = candidates[fooled], True
    return Found(images, success, _norm(images, x, success), asked)


def black_box(model: nn.Module, x: torch.Tensor, y: torch.Tensor, seed: int) -> Iterator[dict[str, Any]]:
    """All three on the images that the network gets right, with as many queries each.

    Yields:
        attack, image (which of x), success, l2 (inf where nothing was found), queries.
    """
    right = (predict(model, x) == y).nonzero()[:, 0]
    if not len(right):
        return
    x, y = x[right], y[right]
    attacks = {
        HIGH: high_frequencies(model, x, y),
        PEPPER: salt_and_pepper(model, x, y, seed),
        PIXEL: one_pixel(model, x, y, budget(*x.shape[-2:]), seed),
    }
    for name, found in attacks.items():
        columns = (column.tolist() for column in (right, found.success, found.norm, found.queries))
        for image, success, l2, queries in zip(*columns):
            yield {"attack": name, "image": image, "success": success, "l2": l2, "queries": queries}
