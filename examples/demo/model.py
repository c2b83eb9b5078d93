"""A small pre-activation ResNet whose downsampling is either strided or done by a pooling of alias_ops."""

import torch
import torch.nn.functional as F
from torch import nn

import alias_ops

__all__ = ["POOLS", "VARIANTS", "Block", "ResNet"]

POOLS = {"FLC": alias_ops.FLCPool2d, "ASAP": alias_ops.ASAPPool2d}
VARIANTS = ("strided", *POOLS)


class Block(nn.Module):
    """Pre-activation residual block; as published, a pooling comes first and the convolutions lose their stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, variant: str) -> None:
        super().__init__()
        pooled = stride > 1 and variant in POOLS
        self.norm1 = nn.BatchNorm2d(inputs)
        self.pool = POOLS[variant](inputs, stride) if pooled else None
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1 if pooled else stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, 1 if pooled else stride, bias=False) if stride > 1 else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(x))
        if self.pool is not None:
            y = self.pool(y)
        skip = x if self.shortcut is None else self.shortcut(y)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(y))))


class ResNet(nn.Module):
    """Stem, three stages (32, 16 and 8 pixels a side for 32 x 32 patches), global average, linear classifier.

    Every variant has the same parameters under the same names.
    """

    def __init__(self, classes: int, variant: str, width: int = 16) -> None:
        super().__init__()
        self.variant = variant
        self.stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.stage1 = Block(width, width, 1, variant)
        self.stage2 = Block(width, 2 * width, 2, variant)
        self.stage3 = Block(2 * width, 4 * width, 2, variant)
        self.norm = nn.BatchNorm2d(4 * width)
        self.classifier = nn.Linear(4 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.classifier(F.relu(self.norm(x)).mean((-2, -1)))
