"""A ResNet for pictures of 224 pixels, without torchvision."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["ResNet"]


class _Block(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut; the first one strided, as is the shortcut's."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """A 7x7 convolution of stride 2, max pooling, four stages, mean, linear layer: an input of N pixels is halved to
    N/2, N/4, N/8, N/16 and N/32.

    Args:
        blocks: of each of the four stages; (2, 2, 2, 2) with 64 channels is ResNet-18.
        classes: outputs.
        channels: of the first stage; every further one has twice as many.

    Source: He et al., CVPR 2016, with basic blocks.
    """

    def __init__(self, blocks: Sequence[int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = channels
        stages = []
        for stage, count in enumerate(blocks):
            outputs = channels << stage
            strides = (1 if stage == 0 else 2, *[1] * (count - 1))
            stages.append(nn.Sequential(*(_Block(outputs if i else inputs, outputs, s) for i, s in enumerate(strides))))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x)), inplace=True))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((-2, -1)))
