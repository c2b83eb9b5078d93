"""What a model is measured on: a folder of images, the photographs of scikit-image, or noise."""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from .errors import UserError, one_line

__all__ = ["MEAN", "STD", "Images", "choose_images", "find_images", "pixels", "statistics"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

# Photographs inside scikit-image's wheel; what it would download is never asked for.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)

# The statistics most models are trained with (ImageNet); AM is proportional to the scale of the input.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def statistics(channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation that inputs of 1 or 3 channels are normalised with, each [channels, 1, 1]."""
    mean, std = (torch.tensor(s[:channels] if channels == 3 else [sum(s) / 3]) for s in (MEAN, STD))
    return mean[:, None, None], std[:, None, None]


def pixels(path: Path, channels: int, size: int) -> torch.Tensor:
    """One image [channels, size, size] from 0 to 1: shorter side scaled to ``size``, centre cropped."""
    from PIL import Image, ImageOps

    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if image.mode.startswith("I"):
        # 16 bits; PIL would clip them to 8.
        image = image.convert("F").point(lambda level: level / 257).convert("L")
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image, dtype=np.float32) / 255).reshape(size, size, -1).movedim(-1, 0)


def _read(path: Path, channels: int, size: int) -> torch.Tensor:
    """One image, normalised."""
    mean, std = statistics(channels)
    return (pixels(path, channels, size) - mean) / std


@dataclass(frozen=True)
class Images:
    """Images that are read when they are needed.

    Args:
        kind: in words, for titles ("photographs of scikit-image").
        readers: name -> function that reads the image [C, N, N]; it may fail.
    """

    kind: str
    readers: dict[str, Callable[[], torch.Tensor]]

    def named_batches(self, batch_size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
        """Names and batches [B, C, N, N] of the readable images; the others are named on stderr."""
        batch: dict[str, torch.Tensor] = {}
        for name, read in self.readers.items():
            try:
                batch[name] = read()
            except Exception as error:  # decoders raise whatever they please at a damaged file
                print(f"alias-ops: skipped {name}, it cannot be read ({one_line(error)})", file=sys.stderr)
            if len(batch) == batch_size:
                yield list(batch), torch.stack(list(batch.values()))
                batch = {}
        if batch:
            yield list(batch), torch.stack(list(batch.values()))

    def batches(self, batch_size: int) -> Iterator[torch.Tensor]:
        """The batches without the names."""
        for _, batch in self.named_batches(batch_size):
            yield batch


def _from_files(kind: str, paths: list[Path], channels: int, size: int) -> Images:
    return Images(kind, {str(path): partial(_read, path, channels, size) for path in paths})


def find_images(folder: Path, samples: int, seed: int, argument: str = "--images") -> list[Path]:
    """At most ``samples`` images under a folder, in order; where there are none, a UserError names the argument."""
    if not folder.is_dir():
        raise UserError(f"{argument} {folder} is not a folder")
    if find_spec("PIL") is None:
        raise UserError(f"{argument} needs Pillow; pip install 'alias-ops[cli]'")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"{argument} {folder} holds no image ({', '.join(s[1:] for s in SUFFIXES)})")
    return sorted(random.Random(seed).sample(paths, samples)) if len(paths) > samples else paths


def _photographs() -> list[Path]:
    package = find_spec("skimage")
    if package is None or package.origin is None or find_spec("PIL") is None:
        return []
    folder = Path(package.origin).parent / "data"
    return [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]


def choose_images(folder: str | None, samples: int, channels: int, size: int, seed: int) -> Images:
    """Images for a model.

    Args:
        folder: of images, or None for photographs, or else noise.
        samples: images at most.
        channels: of the model's input; 1 and 3 can be photographs.
        size: their side.
        seed: for noise, and for which images of a larger folder.

    Returns:
        The images, not yet read.

    Raises:
        UserError: the folder does not exist or holds none, or it cannot be read here.
    """
    if channels not in (1, 3) and folder is not None:
        raise UserError(f"--images are of 1 or 3 channels, and the model takes {channels}; leave it out to use noise")
    if folder is not None:
        return _from_files(f"images of {folder}", find_images(Path(folder), samples, seed), channels, size)
    photographs = _photographs() if channels in (1, 3) else []
    if photographs:
        return _from_files("photographs of scikit-image", photographs[:samples], channels, size)
    why = "scikit-image is not installed" if channels in (1, 3) else f"the model takes {channels} channels"
    print(f"alias-ops: measured on white noise, which aliases more than images do, since {why}", file=sys.stderr)
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return torch.randn(channels, size, size, generator=generator)

    return Images("images of white noise", {f"noise {i}": noise for i in range(samples)})
