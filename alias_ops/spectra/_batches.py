"""A classifier at rest: in evaluation mode, without gradients for its parameters, on some images at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .._checks import check_positive
from .images import check_images

__all__ = ["at_rest", "batches", "check_labels"]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients that an attack would add to the parameters; all as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for module, training in modes.items():
            module.training = training


def check_labels(model: nn.Module, x: torch.Tensor, labels: torch.Tensor, names: tuple[str, str]) -> None:
    """Raise TypeError or ValueError unless x is [B, C, H, W], and labels are int64 [B]."""
    name, of_labels = names
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    check_images(x, name)
    if x.dim() != 4:
        raise ValueError(f"{name} must be images [B, C, H, W], got {list(x.shape)}")
    if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64:
        came = str(labels.dtype) if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise TypeError(f"{of_labels} must be an int64 tensor [B], got {came}")
    if labels.shape != x.shape[:1]:
        raise ValueError(f"{of_labels} must be int64 [{len(x)}], one label an image, got {list(labels.shape)}")


def batches(batch_size: int, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Slices of tensors of the same length."""
    check_positive("batch_size", batch_size)
    yield from zip(*(tensor.split(batch_size) for tensor in tensors), strict=True)
