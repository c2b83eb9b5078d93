"""What halves a network's maps in a timing: this package's pools, the published ones, BlurPool of three libraries."""

import importlib.util
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import alias_ops
from alias_ops import reference

__all__ = ["Kind", "NotInstalled", "kinds"]

ROOT = Path(__file__).resolve().parents[3]


class NotInstalled(Exception):
    """A library that the pool comes from is missing; the message says which."""


@dataclass(frozen=True)
class Kind:
    """One way of training the same network.

    Args:
        name: in the table.
        family: "strided", "pooling", "blur", "published", "ours" or "watched".
        pool: called as ``pool(channels=..., stride=...)``; None leaves the strided convolutions. Raises
            :class:`NotInstalled`.
        every: a monitor measures each so manieth step; None for none.
    """

    name: str
    family: str
    pool: Callable[..., nn.Module] | None = None
    every: int | None = None


class _Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class _PublishedASAP(nn.Module):
    """The published ASAP, whose first forward puts its window onto a GPU; here it gets one where its input is."""

    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.made.window2d is None:
            sizes = x.shape[-1:-3:-1] if self.made.transpose else x.shape[-2:]
            window = np.sqrt(np.outer(*(np.abs(np.hamming(size)) for size in sizes)))
            self.made.window2d = torch.as_tensor(window, dtype=torch.float32, device=x.device)
        return self.made(x)


def _loaded(path: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _published(folder: Path, name: str) -> Callable[[], Any]:
    """The class of that name, from whichever file of a folder has it.

    Raises:
        FileNotFoundError: none has.
    """
    for path in sorted(folder.rglob("*.py")):
        if f"class {name}(" in path.read_text(errors="replace"):
            return getattr(_loaded(path), name)
    raise FileNotFoundError(f"{folder} holds no file with a class {name}")


def _blur(library: str) -> Callable[..., nn.Module]:
    """BlurPool with a kernel of three of a library, imported as the benchmarks import it."""

    def pool(channels: int, stride: int) -> nn.Module:
        peers = _loaded(ROOT / "benchmarks" / "peers.py")
        if stride != 2:
            raise ValueError(f"stride must be 2, got {stride}")
        try:
            return getattr(peers, library)(channels, "cpu", torch.float32)
        except peers.Unavailable as error:
            raise NotInstalled(f"{library} is not installed") from error

    return pool


def _max(channels: int, stride: int) -> nn.Module:
    return nn.MaxPool2d(stride)


def _average(channels: int, stride: int) -> nn.Module:
    return nn.AvgPool2d(stride)


def _fft_kinds(upstream: Path | None) -> list[Kind]:
    """The published modules from their folder; without one, this package's reference, by torch.fft as they are."""
    if upstream is None:

        def flc(channels: int, stride: int) -> nn.Module:
            return _Call(reference.flc_pool2d_fft2)

        def asap(channels: int, stride: int) -> nn.Module:
            return _Call(lambda x: reference.asap_pool2d(x, stride, variant="upstream"))

        names = ("FLC by torch.fft (reference, published calls)", "ASAP by torch.fft (reference)")
        return [Kind(name, "published", pool) for name, pool in zip(names, (flc, asap))]
    flc_class, asap_class = _published(upstream, "FLC_Pooling"), _published(upstream, "ASAP")
    return [
        Kind("FLC of the published module", "published", lambda channels, stride: flc_class()),
        Kind("ASAP of the published module", "published", lambda channels, stride: _PublishedASAP(asap_class())),
    ]


def kinds(upstream: Path | None) -> list[Kind]:
    """All that is compared, "strided" first.

    Args:
        upstream: the folder of the published modules, if at hand.
    """
    return [
        Kind("strided", "strided"),
        Kind("max pooling", "pooling", _max),
        Kind("average pooling", "pooling", _average),
        Kind("BlurPool of kornia", "blur", _blur("kornia")),
        Kind("BlurPool of timm", "blur", _blur("timm")),
        Kind("BlurPool of antialiased-cnns", "blur", _blur("antialiased_cnns")),
        *_fft_kinds(upstream),
        Kind("FLC of alias_ops", "ours", alias_ops.FLCPool2d),
        Kind("ASAP of alias_ops", "ours", alias_ops.ASAPPool2d),
        Kind("strided, AM at every step", "watched", every=1),
        Kind("strided, AM at every 10th step", "watched", every=10),
    ]
