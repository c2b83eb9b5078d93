"""The network, and how it is called by whom."""

import torch
from torch import nn

from alias_ops.models import PreActResNet, preact_resnet18, wide_resnet28_10
from fgsm.data import Dataset
from fgsm.settings import Settings

__all__ = ["PREFIX", "PixelNetwork", "Trained", "network"]

PREFIX = "module.network."  # of the layers' names, where the monitor stands


class PixelNetwork(nn.Module):
    """A network that takes pixels in 0..1, which is where attacks have their bounds."""

    def __init__(self, network: nn.Module, data: Dataset) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            value = torch.tensor(getattr(data, name)).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network((images - self.mean) / self.std)


class Trained(nn.Module):
    """What the training step calls where there is no DDP.

    The monitor is attached to this or to DDP and so counts the forwards that train and no others: attacks and checks
    call the network inside.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images)


def network(settings: Settings, data: Dataset) -> PixelNetwork:
    """The network that the settings name, for the data's pixels and classes; weights from the global generator."""
    options = {"downsampling": settings.downsampling}
    if settings.model == "small":
        return PixelNetwork(PreActResNet((1, 1, 1, 1), data.classes, channels=16, **options), data)
    build = preact_resnet18 if settings.model == "preact_resnet18" else wide_resnet28_10
    return PixelNetwork(build(data.classes, **options), data)
