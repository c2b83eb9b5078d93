"""Patches of the photographs that the scikit-image wheel carries; nothing is downloaded."""

from dataclasses import dataclass

import numpy as np
import skimage.data
import torch

__all__ = ["CLASSES", "MEAN", "STD", "Patches", "cut_patches", "cut_pixels", "normalise", "photograph"]

CLASSES = (
    "astronaut",
    "brick",
    "camera",
    "cat",
    "coffee",
    "coins",
    "grass",
    "gravel",
    "hubble",
    "moon",
    "motorcycle",
    "page",
    "retina",
    "rocket",
    "text",
    "tissue",
)
SOURCE_NAMES = {"cat": "chelsea", "hubble": "hubble_deep_field", "tissue": "immunohistochemistry"}

# About those of all pixels of all photographs, in 0..1.
MEAN, STD = 0.43, 0.245

PATCH = 32
# A patch lies inside one cell, and a cell is for training or held out as a whole: the two never share a pixel.
CELL = 48


@dataclass(frozen=True)
class Patches:
    """Patches [n, 3, 32, 32], normalised or of pixels in 0..1, and which of ``CLASSES`` each was cut from."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


def photograph(name: str) -> torch.Tensor:
    """One of ``CLASSES`` as float32 [3, H, W] in 0..1; a grey one has three equal channels."""
    if name == "motorcycle":
        pixels = skimage.data.stereo_motorcycle()[0]
    else:
        pixels = getattr(skimage.data, SOURCE_NAMES.get(name, name))()
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1).contiguous()


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Scale 0..1 to about zero mean and unit variance over all photographs."""
    return (pixels - MEAN) / STD


def _cells(image: torch.Tensor, held_out: bool) -> list[tuple[int, int]]:
    """Top left corners of the cells of a photograph; every fourth, on slanted lines, is held out."""
    rows, columns = image.shape[-2] // CELL, image.shape[-1] // CELL
    return [(r * CELL, c * CELL) for r in range(rows) for c in range(columns) if ((r + 2 * c) % 4 == 0) == held_out]


def _cut(photographs: list[torch.Tensor], per_class: int, held_out: bool, generator: torch.Generator) -> Patches:
    images, labels = [], []
    for label, image in enumerate(photographs):
        cells = _cells(image, held_out)
        order = torch.randperm(len(cells), generator=generator).repeat(-(-per_class // len(cells)))
        shift = torch.randint(CELL - PATCH + 1, (per_class, 2), generator=generator)
        for cell, (down, across) in zip(order[:per_class].tolist(), shift.tolist(), strict=True):
            top, left = cells[cell][0] + down, cells[cell][1] + across
            images.append(image[:, top : top + PATCH, left : left + PATCH])
            labels.append(label)
    return Patches(torch.stack(images), torch.tensor(labels))


def cut_pixels(train: int, held_out: int, seed: int) -> tuple[Patches, Patches]:
    """Cut patches at random places, in disjoint regions of each photograph.

    Args:
        train, held_out: patches per photograph.
        seed: of the places.

    Returns:
        Training patches and held-out patches of pixels in 0..1, in the order of ``CLASSES``.
    """
    generator = torch.Generator().manual_seed(seed)
    photographs = [photograph(name) for name in CLASSES]
    return _cut(photographs, train, False, generator), _cut(photographs, held_out, True, generator)


def cut_patches(train: int, held_out: int, seed: int) -> tuple[Patches, Patches]:
    """The patches of :func:`cut_pixels`, normalised."""
    first, second = (Patches(normalise(p.images), p.labels) for p in cut_pixels(train, held_out, seed))
    return first, second
