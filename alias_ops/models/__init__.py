"""The networks of the papers for 32x32 images, with every way of downsampling that they compare."""

from ._checkpoints import load_published
from ._preact_resnet import PreActResNet, preact_resnet18
from ._wide_resnet import WideResNet, wide_resnet, wide_resnet28_10

__all__ = ["PreActResNet", "WideResNet", "load_published", "preact_resnet18", "wide_resnet", "wide_resnet28_10"]
