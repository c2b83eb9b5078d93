"""What the network trains on: patches of the bundled photographs, or CIFAR-10 from a folder; nothing is downloaded."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["Dataset", "Images", "augment", "cifar10", "evenly", "photographs", "pixels"]

BATCHES = "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
PADDING = 4  # of a random crop, as is usual for CIFAR-10


def evenly(length: int, most: int) -> torch.Tensor:
    """At most ``most`` indices of ``length``, evenly spaced from the first to near the last."""
    count = min(length, most)
    return torch.arange(count) * length // max(1, count)


@dataclass(frozen=True)
class Images:
    """Bytes [n, 3, 32, 32] and labels [n]."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int) -> "Images":
        """At most ``count`` of them, evenly spaced: of every class where they are sorted."""
        chosen = evenly(len(self), count)
        return Images(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """Images to train on and images held out, with mean and standard deviation of each colour in 0..1."""

    name: str
    classes: int
    train: Images
    held_out: Images
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Bytes to float32 in 0..1."""
    return images.float() / 255


def augment(images: torch.Tensor) -> torch.Tensor:
    """Random shifts by up to 4 pixels, with zeros at the border, and random flips; from PyTorch's global generator."""
    count, size = len(images), images.shape[-1]
    windows = F.pad(images, (PADDING,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    down, across = torch.randint(2 * PADDING + 1, (2, count))
    shifted = windows[torch.arange(count), :, down, across]
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, shifted.flip(-1), shifted)


def photographs(per_class: int, seed: int) -> Dataset:
    """Patches of scikit-image's photographs, to be told apart, and a quarter as many from other regions of them."""
    from demo.data import CLASSES, MEAN, STD, cut_pixels

    train, held_out = (
        Images((255 * patches.images).round().byte(), patches.labels)
        for patches in cut_pixels(per_class, max(2, per_class // 4), seed)
    )
    return Dataset("photographs", len(CLASSES), train, held_out, (MEAN,) * 3, (STD,) * 3)


# What an array's pickle names, by NumPy 1 and by NumPy 2.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """Loads a pickle of plain values and NumPy arrays; one that names anything else could run it.

    The official files are pickles, of Python 2.
    """

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no batch of CIFAR-10 does") from None


def _read(path: Path) -> Images:
    try:
        with path.open("rb") as file:
            batch = _ArraysOnly(file, encoding="bytes").load()
        data, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except OSError:
        raise
    except Exception as error:  # a broken pickle raises almost anything
        raise ValueError(f"{path} is not a batch of CIFAR-10: {error}") from error
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * 32 * 32:
        raise ValueError(f"{path} is not a batch of CIFAR-10: data is {data.dtype} {list(data.shape)}")
    if labels.shape != data.shape[:1] or labels.dtype.kind not in "iu" or not ((labels >= 0) & (labels < 10)).all():
        raise ValueError(f"{path} is not a batch of CIFAR-10: its labels are not one of 0 to 9 for each image")
    return Images(torch.from_numpy(data.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels.astype(np.int64)))


def _join(folder: Path, names: tuple[str, ...]) -> Images:
    parts = [_read(folder / name) for name in names]
    return Images(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))


def cifar10(folder: Path) -> Dataset:
    """CIFAR-10 from the unpacked "python version" of its archive.

    Args:
        folder: ``cifar-10-batches-py`` or the folder that it lies in.

    Raises:
        FileNotFoundError: a batch is missing.
        ValueError: a file is something else.
    """
    for place in (folder / BATCHES, folder):
        missing = [name for name in (*TRAIN, *TEST) if not (place / name).is_file()]
        if not missing:
            mean, std = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
            return Dataset("CIFAR-10", 10, _join(place, TRAIN), _join(place, TEST), mean, std)
    raise FileNotFoundError(
        f"{folder} has no CIFAR-10: expected {TRAIN[0]} to {TRAIN[-1]} and {TEST[0]} in it or in its folder {BATCHES} "
        f"(the archive's Python version, unpacked), but there is no {missing[0]}"
    )
