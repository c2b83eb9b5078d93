"""Wide ResNets for 32x32 images."""

import torch
import torch.nn.functional as F
from torch import nn

from ._convolution import convolution

__all__ = ["WideBlock", "WideResNet", "wide_resnet", "wide_resnet28_10"]


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each behind its batch norm and ReLU, beside a shortcut.

    Where the shortcut has a convolution, it reads the pre-activation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float, downsampling: str, variant: str) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride, downsampling, variant)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs, 3, 1, downsampling, variant)
        self.convShortcut = None
        if stride > 1 or inputs != outputs:
            self.convShortcut = convolution(inputs, outputs, 1, stride, downsampling, variant)
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(active)), inplace=True)
        out = F.dropout(out, self.dropout, self.training) if self.dropout else out
        return self.conv2(out) + (x if self.convShortcut is None else self.convShortcut(active))


class WideStage(nn.Module):
    """Blocks of one width, under the name ``layer`` that they have in checkpoints."""

    def __init__(self, *blocks: WideBlock) -> None:
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


class WideResNet(nn.Module):
    """Wide ResNet: a 3x3 convolution, three stages of blocks, batch norm, mean, linear layer.

    The first block of stages 2 and 3 halves the map, in its first convolution and in its shortcut.

    Args:
        depth: 6 n + 4 for stages of n blocks.
        width: channels are 16, 32 and 64 times this.
        num_classes: outputs.
        dropout: probability of zeroing in front of each block's second convolution.
        downsampling: "strided" convolutions, or "flc", "asap", "max" or "avg" pooling and then the convolution at
            stride 1.
        variant: of "flc" and "asap"; see :func:`alias_ops.flc_pool2d` and :func:`alias_ops.asap_pool2d`.

    Shape: [B, 3, H, W] -> [B, num_classes].

    Names of parameters are those of the implementations in common use, whatever the downsampling: checkpoints of
    one load into the other.

    Source: Zagoruyko & Komodakis, BMVC 2016; with FLC pooling Grabinski, Jung, Keuper & Keuper, ECCV 2022.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int = 10,
        *,
        dropout: float = 0.0,
        downsampling: str = "strided",
        variant: str = "centered",
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6 n + 4 with n of at least 1, got {depth}")
        if width < 1:
            raise ValueError(f"width must be a positive int, got {width}")

        def stage(inputs: int, outputs: int, stride: int) -> WideStage:
            first = WideBlock(inputs, outputs, stride, dropout, downsampling, variant)
            count = (depth - 4) // 6 - 1
            return WideStage(
                first, *(WideBlock(outputs, outputs, 1, dropout, downsampling, variant) for _ in range(count))
            )

        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = stage(16, 16 * width, 1)
        self.block2 = stage(16 * width, 32 * width, 2)
        self.block3 = stage(32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(out), inplace=True).mean((-2, -1)))


def wide_resnet(
    depth: int,
    width: int,
    num_classes: int = 10,
    *,
    dropout: float = 0.0,
    downsampling: str = "strided",
    variant: str = "centered",
) -> WideResNet:
    """WRN-``depth``-``width`` for 32x32 images; see :class:`WideResNet`."""
    return WideResNet(depth, width, num_classes, dropout=dropout, downsampling=downsampling, variant=variant)


def wide_resnet28_10(
    num_classes: int = 10, *, dropout: float = 0.0, downsampling: str = "strided", variant: str = "centered"
) -> WideResNet:
    """WRN-28-10 for 32x32 images: four downsampling operations, in two blocks and their shortcuts.

    Args:
        num_classes, dropout, downsampling, variant: see :class:`WideResNet`.

    Source: as in Grabinski, Keuper & Keuper, Machine Learning 2022, and Grabinski et al., ECCV 2022.
    """
    return wide_resnet(28, 10, num_classes, dropout=dropout, downsampling=downsampling, variant=variant)
