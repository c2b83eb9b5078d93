"""The networks by name: the papers', narrow ones of the same kind for two cores, and one without convolutions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import alias_ops
from alias_ops.models import PreActResNet, preact_resnet18, wide_resnet, wide_resnet28_10
from fgsm.data import Dataset
from fgsm.network import PixelNetwork

__all__ = ["DOWNSAMPLING", "NETWORKS", "can_alias", "device", "make"]

HIDDEN = 512


def _fully_connected(classes: int) -> nn.Module:
    """Three linear layers, two of them hidden."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (3 * 32 * 32, HIDDEN):
        layers += [nn.Linear(inputs, HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, classes))


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "narrow PreActResNet": lambda classes: PreActResNet((1, 1, 1, 1), classes, channels=16),
    "PreActResNet-18": preact_resnet18,
    "narrow WRN": lambda classes: wide_resnet(10, 1, classes),
    "WRN-28-10": wide_resnet28_10,
    "fully connected": _fully_connected,
}


def _max(channels: int | None, stride: Any) -> nn.Module:
    return nn.MaxPool2d(stride)


def _average(channels: int | None, stride: Any) -> nn.Module:
    return nn.AvgPool2d(stride)


def _blur(channels: int | None, stride: Any) -> nn.Module:
    """Zhang's BlurPool with a kernel of three, as the convolution that it is: the monitor sees those."""
    assert channels is not None
    blur = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False, padding_mode="reflect")
    line = torch.tensor([0.25, 0.5, 0.25])
    blur.weight = nn.Parameter((line[:, None] * line).expand_as(blur.weight).clone(), requires_grad=False)
    return blur


# What replace_downsampling takes; "strided" replaces nothing.
DOWNSAMPLING: dict[str, Any] = {
    "strided": None,
    "max": _max,
    "average": _average,
    "blur": _blur,
    "flc": "flc",
    "asap": "asap",
}


def can_alias(network: str, downsampling: str) -> bool:
    """Whether there is anything to measure."""
    return network != "fully connected" and downsampling not in ("flc", "asap")


def device() -> torch.device:
    """Where everything runs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def make(network: str, downsampling: str, data: Dataset, *, variant: str = "centered") -> PixelNetwork:
    """A network of pixels in 0..1; weights from the global generator, the same whatever the downsampling.

    Args:
        network: one of ``NETWORKS``.
        downsampling: one of ``DOWNSAMPLING``. Every strided convolution becomes the pool and the convolution without
            its stride.
        data: whose classes, means and deviations.
        variant: of "flc" and "asap".
    """
    made = NETWORKS[network](data.classes)
    pool = DOWNSAMPLING[downsampling]
    if pool is not None:
        alias_ops.replace_downsampling(made, pool, **({"variant": variant} if isinstance(pool, str) else {}))
    return PixelNetwork(made, data)
