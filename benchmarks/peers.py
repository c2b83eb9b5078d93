"""What alias_ops is measured against, imported and never retyped."""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from alias_ops import designs, reference

__all__ = ["Unavailable", "antialiased_cnns", "kornia", "matmul", "max_pool2d", "published", "timm"]

Layer = Callable[[torch.Tensor], torch.Tensor]


class Unavailable(Exception):
    """The peer cannot run here; the message says why."""


def _module(name: str, shell: tuple[str, ...] = ()) -> types.ModuleType:
    """Import a module; packages in ``shell`` as empty shells, where their own import needs much more than the layer."""
    for package in shell:
        if package in sys.modules:
            continue
        parent, _, last = package.rpartition(".")
        if parent:
            places = [str(Path(place) / last) for place in sys.modules[parent].__path__]
        else:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.submodule_search_locations is None:
                raise Unavailable(f"{package} is not installed")
            places = list(spec.submodule_search_locations)
        module = types.ModuleType(package)
        module.__path__ = places
        sys.modules[package] = module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"{name.partition('.')[0]} is not installed ({error})") from error


def kornia(channels: int, device: str, dtype: torch.dtype) -> Layer:
    layer = _module("kornia.filters").BlurPool2D(3, stride=2)
    return layer


def timm(channels: int, device: str, dtype: torch.dtype) -> Layer:
    layer = _module("timm.layers.blur_pool", ("timm", "timm.layers")).BlurPool2d(channels, 3, 2)
    return layer.to(device, dtype)


def antialiased_cnns(channels: int, device: str, dtype: torch.dtype) -> Layer:
    layer = _module("antialiased_cnns.blurpool", ("antialiased_cnns",)).BlurPool(channels, filt_size=3, stride=2)
    return layer.to(device, dtype)


def max_pool2d(x: torch.Tensor) -> torch.Tensor:
    return F.max_pool2d(x, 2)


def avg_pool2d(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, 2)


def depthwise(channels: int, device: str, dtype: torch.dtype) -> Layer:
    weight = torch.full((channels, 1, 3, 3), 1 / 9, device=device, dtype=dtype)
    return lambda x: F.conv2d(x, weight, stride=2, padding=1, groups=channels)


def matmul(height: int, width: int, device: str, dtype: torch.dtype) -> Layer:
    """``P @ (x @ P.T)``, P the real part of FLC's factor: what one would write with a matrix at hand."""
    left, right = designs.pooling_factors("flc", height, width)
    p, q = left[0].to(device, dtype), right[0].to(device, dtype)
    return lambda x: p @ (x @ q.T)


def published(folder: str | None) -> tuple[str, Layer]:
    """The FLC module that people copy, from ``folder`` if given; its calls as `reference` has them otherwise."""
    if folder is None:
        return "fft2 (published module's calls)", reference.flc_pool2d_fft2
    for path in sorted(Path(folder).rglob("*.py")):
        if "class FLC_Pooling" not in path.read_text(errors="replace"):
            continue
        spec = importlib.util.spec_from_file_location(f"upstream_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return "fft2 (published module)", module.FLC_Pooling()
    raise FileNotFoundError(f"{folder} holds no file with a class FLC_Pooling")
