"""Pre-activation ResNets for 32x32 images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ._convolution import convolution

__all__ = ["PreActBlock", "PreActResNet", "preact_resnet18"]


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each behind its batch norm and ReLU, beside a shortcut.

    The 1x1 convolution of the shortcut reads what came in and not its pre-activation, as in the networks of the
    papers and of most code for adversarial training. He et al. take the pre-activation there.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, downsampling: str, variant: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride, downsampling, variant)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1, downsampling, variant)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.append(convolution(inputs, outputs, 1, stride, downsampling, variant))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(F.relu(self.bn1(x), inplace=True))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        return out + self.shortcut(x)


class PreActResNet(nn.Module):
    """Pre-activation ResNet: a 3x3 convolution, four stages of blocks, batch norm, mean, linear layer.

    The first block of stages 2, 3 and 4 halves the map, in its first convolution and in its shortcut.

    Args:
        blocks: number of blocks of each of the four stages.
        num_classes: outputs.
        channels: of the first stage; every further one has twice as many.
        downsampling: "strided" convolutions, or "flc", "asap", "max" or "avg" pooling and then the convolution at
            stride 1.
        variant: of "flc" and "asap"; see :func:`alias_ops.flc_pool2d` and :func:`alias_ops.asap_pool2d`.

    Shape: [B, 3, H, W] -> [B, num_classes].

    Names of parameters are those of the implementations in common use, whatever the downsampling: checkpoints of
    one load into the other.

    Source: He, Zhang, Ren & Sun, ECCV 2016; with FLC pooling Grabinski, Jung, Keuper & Keuper, ECCV 2022.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        num_classes: int = 10,
        *,
        channels: int = 64,
        downsampling: str = "strided",
        variant: str = "centered",
    ) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks must be four positive ints, got {blocks!r}")

        def stage(inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
            first = PreActBlock(inputs, outputs, stride, downsampling, variant)
            return nn.Sequential(
                first, *(PreActBlock(outputs, outputs, 1, downsampling, variant) for _ in range(count - 1))
            )

        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.layer1 = stage(channels, channels, blocks[0], 1)
        self.layer2 = stage(channels, 2 * channels, blocks[1], 2)
        self.layer3 = stage(2 * channels, 4 * channels, blocks[2], 2)
        self.layer4 = stage(4 * channels, 8 * channels, blocks[3], 2)
        self.bn = nn.BatchNorm2d(8 * channels)
        self.linear = nn.Linear(8 * channels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(F.relu(self.bn(out), inplace=True).mean((-2, -1)))


def preact_resnet18(num_classes: int = 10, *, downsampling: str = "strided", variant: str = "centered") -> PreActResNet:
    """PreActResNet-18 for 32x32 images: six downsampling operations, in three blocks and their shortcuts.

    Args:
        num_classes, downsampling, variant: see :class:`PreActResNet`.

    Source: as in Grabinski, Keuper & Keuper, Machine Learning 2022, and Grabinski et al., ECCV 2022.
    """
    return PreActResNet((2, 2, 2, 2), num_classes, downsampling=downsampling, variant=variant)
