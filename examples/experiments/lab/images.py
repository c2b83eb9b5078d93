"""What the networks train on, and pictures as large as ImageNet's."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from demo.data import CLASSES, MEAN, STD, photograph
from fgsm import data
from fgsm.data import Dataset, Images
from lab.recipe import Recipe

__all__ = ["dataset", "large_pictures"]


def _photographs(patches: int, seed: int) -> Dataset:
    return data.photographs(patches, seed)


@lru_cache(maxsize=1)
def _cifar10(folder: str) -> Dataset:
    return data.cifar10(Path(folder))


def _smaller(images: Images, size: int) -> Images:
    square = images.images.shape[-1] // size
    return Images(F.avg_pool2d(images.images.float(), square).round().byte(), images.labels)


@lru_cache(maxsize=2)
def _dataset(data: str, patches: int, size: int, seed: int) -> Dataset:
    found = _photographs(patches, seed) if data == "photographs" else _cifar10(data)
    if size == found.train.images.shape[-1]:
        return found
    return replace(found, train=_smaller(found.train, size), held_out=_smaller(found.held_out, size))


def dataset(recipe: Recipe) -> Dataset:
    """Images of ``recipe.size``: patches of the photographs, cut anew for every seed, or CIFAR-10 from its folder.

    Raises:
        FileNotFoundError, ValueError: the folder does not hold CIFAR-10.
    """
    return _dataset(recipe.data, recipe.patches, recipe.size, recipe.seed)


def _crops(image: torch.Tensor, count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random squares of 0.6 to 1 of the shorter side, brought to ``size``, half of them mirrored; bytes."""
    height, width = image.shape[-2:]
    crops = []
    for _ in range(count):
        scale, down, across, mirrored = torch.rand(4, generator=generator).tolist()
        side = int(min(height, width) * (0.6 + 0.4 * scale))
        top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
        crop = image[:, top : top + side, left : left + side]
        crop = F.interpolate(crop[None], size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0]
        crops.append(crop.flip(-1) if mirrored < 0.5 else crop)
    return (255 * torch.stack(crops)).round().clamp(0, 255).byte()


def large_pictures(train: int, held_out: int, size: int, seed: int) -> Dataset:
    """Crops of the photographs, the left two thirds to train on, the right third held out.

    Args:
        train, held_out: crops of each photograph.
        size: of the pictures, as of ImageNet 224.
        seed: of the crops.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for name in CLASSES:
        image = photograph(name)
        cut = 2 * image.shape[-1] // 3
        for part, half, count in zip(parts, (image[..., :cut], image[..., cut:]), (train, held_out)):
            part.append(_crops(half, count, size, generator))
    labels = (torch.arange(len(CLASSES)).repeat_interleave(count) for count in (train, held_out))
    sets = [Images(torch.cat(part), label) for part, label in zip(parts, labels)]
    return Dataset(f"photographs at {size} pixels", len(CLASSES), *sets, (MEAN,) * 3, (STD,) * 3)
