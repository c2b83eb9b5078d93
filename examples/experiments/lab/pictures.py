"""Pictures of 224 pixels and ResNets for them.

The ImageNet path (:class:`_ImageNet`, ResNet-50) has not been run.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

import alias_ops
from demo.data import CLASSES, MEAN, STD, photograph
from fgsm.data import Images, augment, pixels
from fgsm.network import PixelNetwork
from lab.images import large_pictures
from lab.networks import device
from lab.resnet import ResNet
from lab.scale import Scale
from lab.store import digest

__all__ = ["KINDS", "SIZE", "Training", "held_out", "network", "source", "squares", "trainings"]

SIZE = 224  # maps of 112, 56, 28, 14, 7: the last halving is of 14
HELD_OUT_SEED = 224
AT_A_TIME = 40
KINDS = (
    ("strided", "centered"),
    *((pool, variant) for pool in ("flc", "asap") for variant in ("centered", "upstream")),
)

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "narrow ResNet": lambda classes: ResNet((1, 1, 1, 1), classes, channels=8),
    "ResNet-18": lambda classes: ResNet((2, 2, 2, 2), classes, channels=64),
    "ResNet-50": lambda classes: import_module("torchvision.models").resnet50(num_classes=classes),
}


@dataclass(frozen=True)
class Training:
    """All that the numbers of one training depend on, beside the machine.

    Args:
        network: a name of ``NETWORKS``.
        pool: "strided", "flc" or "asap"; the stem's convolution stays strided with all of them.
        variant: of the pool that it is trained with.
        crops: of each photograph, to train on; a quarter as many, at least 2, are held out.
        epochs, batch, lr: of the training; the rate rises to ``lr`` and falls again, in a triangle.
        data: "photographs", or a folder with train and val of ImageNet's kind.
        seed: of the crops, the weights and the order.
    """

    network: str
    pool: str
    variant: str
    crops: int
    epochs: int
    batch: int
    lr: float = 0.1
    data: str = "photographs"
    seed: int = 0

    @property
    def key(self) -> str:
        return f"pictures-{self.pool}-{self.variant}-{self.seed}-{digest(self)}"

    @property
    def kept(self) -> int:
        """Held-out crops of each photograph."""
        return max(2, self.crops // 4)

    def __str__(self) -> str:
        how = self.pool if self.pool == "strided" else f"{self.pool} {self.variant}"
        return f"{self.network} at {SIZE} pixels, {how}, seed {self.seed}"


def _torchvision() -> bool:
    try:
        import_module("torchvision.models")
    except (ImportError, RuntimeError):  # the latter where it was built for another PyTorch
        return False
    return True


def trainings(scale: Scale) -> list[Training]:
    """Strided, and either pool in either variant, for every seed."""
    name, data, batch = "narrow ResNet", "photographs", 16
    if scale.name == "gpu":
        name, batch = "ResNet-18", 128
        if scale.imagenet and _torchvision():
            name, data = "ResNet-50", str(scale.imagenet)
    crops, epochs = scale.pictures
    return [
        Training(name, pool, variant, crops, epochs, batch, data=data, seed=seed)
        for seed in range(scale.seeds)
        for pool, variant in KINDS
    ]


class _Photographs:
    """Crops of the photographs; those held out are the same of all seeds, and the same regions at any size."""

    classes, mean, std = len(CLASSES), (MEAN,) * 3, (STD,) * 3

    def __init__(self, training: Training) -> None:
        self.training = training

    def train(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = _train_crops(self.training.crops, self.training.seed).train
        batch = min(self.training.batch, len(images))
        order = torch.randperm(len(images))
        for chosen in order[: len(order) // batch * batch].split(batch):
            yield pixels(augment(images.images[chosen])), images.labels[chosen]

    def steps(self) -> int:
        return max(1, self.classes * self.training.crops // self.training.batch)

    def held_out(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images = _held_out_crops(self.training.kept, size)
        for start in range(0, len(images), AT_A_TIME):
            chosen = slice(start, start + AT_A_TIME)
            yield pixels(images.images[chosen]), images.labels[chosen]


@lru_cache(maxsize=2)
def _train_crops(crops: int, seed: int) -> Any:
    return large_pictures(crops, 1, SIZE, seed)


@lru_cache(maxsize=3)
def _held_out_crops(crops: int, size: int) -> Images:
    return large_pictures(1, crops, size, HELD_OUT_SEED).held_out


class _ImageNet:
    """A folder with train and val, a folder of files for each class, as torchvision reads it."""

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, training: Training) -> None:
        self.training, self.vision = training, import_module("torchvision")
        self.classes = sum(path.is_dir() for path in (Path(training.data) / "train").iterdir())

    def _loader(self, part: str, *steps: Any, **options: Any) -> Any:
        transforms = self.vision.transforms
        transform = transforms.Compose([*steps, transforms.ToTensor()])
        images = self.vision.datasets.ImageFolder(str(Path(self.training.data) / part), transform)
        return torch.utils.data.DataLoader(images, num_workers=os.cpu_count() or 1, pin_memory=True, **options)

    def _training(self) -> Any:
        transforms = self.vision.transforms
        steps = (transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip())
        return self._loader("train", *steps, batch_size=self.training.batch, shuffle=True, drop_last=True)

    def train(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield from self._training()

    def steps(self) -> int:
        return len(self._training())

    def held_out(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        transforms = self.vision.transforms
        yield from self._loader(
            "val", transforms.Resize(size * 8 // 7), transforms.CenterCrop(size), batch_size=AT_A_TIME
        )


def source(training: Training) -> Any:
    """Where its pictures come from: batches of ``train()``, ``steps()`` of them, and ``held_out(size)``."""
    return _Photographs(training) if training.data == "photographs" else _ImageNet(training)


def network(training: Training, variant: str = "") -> PixelNetwork:
    """The untrained network, on the device; the seed's weights, the same whatever the pool.

    Args:
        training: which, and with what.
        variant: of the pool; the training's own if none is named.
    """
    torch.manual_seed(training.seed)
    images = source(training)
    made = NETWORKS[training.network](images.classes)
    if training.pool != "strided":
        alias_ops.replace_downsampling(made, training.pool, variant=variant or training.variant)
    return PixelNetwork(made, images).to(device())


def held_out(training: Training, size: int = SIZE) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of pictures [n, 3, size, size] in 0..1 that no training saw, and their labels, on the device."""
    for x, y in source(training).held_out(size):
        yield x.to(device()), y.to(device())


# Of the squares of every size; nothing else reads them so often.
_photograph = lru_cache(maxsize=len(CLASSES))(photograph)


def squares(size: int, count: int) -> torch.Tensor:
    """Squares of the photographs, pixel by pixel, in 0..1: float64 [count of each photograph, 3, size, size]."""
    generator = torch.Generator().manual_seed(size)
    found = []
    for name in CLASSES:
        image = _photograph(name)
        for down, across in torch.rand(count, 2, generator=generator).tolist():
            top, left = int(down * (image.shape[-2] - size + 1)), int(across * (image.shape[-1] - size + 1))
            found.append(image[:, top : top + size, left : left + size])
    return torch.stack(found).double()
