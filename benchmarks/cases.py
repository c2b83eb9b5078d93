"""What is measured: shapes only, no code."""

from typing import NamedTuple

import torch

__all__ = ["CHANNELS", "CONV_ROWS", "DTYPES", "GROWTH", "LAYERS", "POOL_BARS", "POOL_SWEEP", "Conv", "maps_of"]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The shapes that the bars are set for, and N alone at four million samples.
POOL_BARS = [(64, 64, 32, 32), (16, 64, 56, 56), (16, 64, 112, 112), (4, 64, 224, 224)]
SAMPLES = 4_000_000
CHANNELS = 64


def maps_of(n: int, samples: int = SAMPLES) -> tuple[int, int, int, int]:
    """[B, C, n, n] of about ``samples`` samples."""
    channels = CHANNELS if n <= 256 else 8
    return max(1, round(samples / (channels * n * n))), channels, n, n


POOL_SWEEP = [maps_of(n) for n in (8, 14, 16, 28, 32, 56, 112, 224, 512)]

# Odd, prime and even sizes between and beyond those of image networks.
GROWTH = [4, 5, 6, 7, 8, 10, 12, 13, 14, 15, 16, 17, 20, 24, 28, 30, 31, 32, 33, 40, 48, 56, 60, 61, 64, 65, 80, 96, 97]
GROWTH += [112, 113, 128, 144, 160, 192, 193, 224, 225, 256, 257, 288, 320, 384, 385, 448, 449, 511, 512]


class Conv(NamedTuple):
    """A strided convolution of a network: stride 2 and the padding that keeps the size."""

    name: str
    batch: int
    channels: int
    outputs: int
    size: int
    kernel: int


CONV_ROWS = [
    Conv("64→128 at 32, 3x3", 100, 64, 128, 32, 3),
    Conv("64→128 at 32, 1x1", 100, 64, 128, 32, 1),
    Conv("128→256 at 16, 3x3", 100, 128, 256, 16, 3),
    Conv("256→512 at 8, 3x3", 100, 256, 512, 8, 3),
    Conv("64→128 at 56, 3x3", 16, 64, 128, 56, 3),
]

LAYERS = [
    Conv("ResNet-18/50 stem", 8, 3, 64, 224, 7),
    Conv("ResNet-18 layer2.0.conv1", 16, 64, 128, 56, 3),
    Conv("ResNet-18 layer3.0.conv1", 16, 128, 256, 28, 3),
    Conv("ResNet-18 layer4.0.conv1", 16, 256, 512, 14, 3),
    Conv("ResNet-18 layer2.0.downsample", 16, 64, 128, 56, 1),
    Conv("ResNet-18 layer3.0.downsample", 16, 128, 256, 28, 1),
    Conv("ResNet-18 layer4.0.downsample", 16, 256, 512, 14, 1),
    Conv("ResNet-50 layer2.0.conv2", 16, 128, 128, 56, 3),
    Conv("ResNet-50 layer3.0.conv2", 16, 256, 256, 28, 3),
    Conv("ResNet-50 layer4.0.conv2", 16, 512, 512, 14, 3),
    Conv("ResNet-50 layer2.0.downsample", 16, 256, 512, 56, 1),
    Conv("ResNet-50 layer3.0.downsample", 16, 512, 1024, 28, 1),
    Conv("ResNet-50 layer4.0.downsample", 16, 1024, 2048, 14, 1),
    Conv("PreActResNet-18 layer2.0.conv1", 100, 64, 128, 32, 3),
    Conv("PreActResNet-18 layer3.0.conv1", 100, 128, 256, 16, 3),
    Conv("PreActResNet-18 layer4.0.conv1", 100, 256, 512, 8, 3),
    Conv("PreActResNet-18 layer3.0.shortcut", 100, 128, 256, 16, 1),
    Conv("PreActResNet-18 layer4.0.shortcut", 100, 256, 512, 8, 1),
    Conv("WRN-28-10 block2.0.conv1", 25, 160, 320, 32, 3),
    Conv("WRN-28-10 block3.0.conv1", 25, 320, 640, 16, 3),
    Conv("WRN-28-10 block2.0.shortcut", 25, 160, 320, 32, 1),
    Conv("WRN-28-10 block3.0.shortcut", 25, 320, 640, 16, 1),
]
