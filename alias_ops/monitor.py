"""Watch the aliasing measure of a network's downsampling layers while it trains."""

import difflib
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ._downsampling import Downsampling, describe, downsamples, has_own_forward, layer_aliasing

__all__ = ["AliasingMonitor"]

Layers = Iterable[str] | Callable[[str, nn.Module], bool]


class _Hook:
    """A forward hook that keeps its monitor neither alive nor in a copy of the model.

    A model that is deep-copied or pickled while it is monitored takes its hooks along. What a copy of
    this one turns into accepts any arguments, does nothing, and is of the standard library, so that an
    EMA copy never writes into the original's monitor and a checkpoint loads without alias_ops.
    """

    def __init__(self, method: Callable[..., None], *arguments: object) -> None:
        self._method = weakref.WeakMethod(method)
        self._arguments = arguments
        # Here and not as a decorator: it imports the compiler, which takes as long as half of PyTorch.
        self._run = torch.compiler.disable(self._forward)

    def __call__(self, *call: object) -> None:
        if not torch.compiler.is_exporting():
            self._run(*call)

    def _forward(self, *call: object) -> None:
        method = self._method()
        if method is not None:
            method(*self._arguments, *call)

    def __reduce__(self) -> tuple:
        return getattr, (nullcontext(), "__exit__")


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


@dataclass
class _Layer:
    """What was measured of one layer since the last reset; ``total`` stays on the device."""

    description: str
    total: torch.Tensor | None = None
    maps: int = 0

    def add(self, maps: torch.Tensor) -> None:
        total = maps.sum(dtype=torch.float32 if maps.device.type == "mps" else torch.float64)
        self.total = total if self.total is None else self.total.to(total.device) + total
        self.maps += maps.numel()

    def mean(self) -> float:
        return float("nan") if self.total is None else self.total.item() / self.maps


def _named_downsampling(model: nn.Module) -> dict[str, Downsampling]:
    """Every downsampling layer by every name it has, in the order of ``named_modules``."""
    return {name: module for name, module in model.named_modules(remove_duplicate=False) if downsamples(module)}


def _by_names(model: nn.Module, names: list[str]) -> dict[str, Downsampling]:
    found = _named_downsampling(model)
    for name in names:
        if name in found and has_own_forward(found[name]):
            raise ValueError(
                f"layers: {name!r} is a {type(found[name]).__name__} with a forward of its own, "
                "its stride-1 map is not known"
            )
        if name not in found:
            valid = difflib.get_close_matches(str(name), found, n=3, cutoff=0.0)
            known = name in dict(model.named_modules(remove_duplicate=False))
            problem = "does not downsample" if known else "is not a module of the model"
            nearest = f"; nearest downsampling layers: {', '.join(map(repr, valid))}" if valid else ""
            raise ValueError(f"layers: {name!r} {problem}{nearest}")
    return {name: found[name] for name in found if name in names}


def _by_predicate(model: nn.Module, predicate: Callable[[str, nn.Module], bool]) -> dict[str, Downsampling]:
    found = {name: module for name, module in _named_downsampling(model).items() if predicate(name, module)}
    unknown = [name for name, module in found.items() if has_own_forward(module)]
    if unknown:
        warnings.warn(
            f"AliasingMonitor leaves out {', '.join(map(repr, unknown))}: a forward of their own, "
            "so their stride-1 map is not known",
            stacklevel=4,
        )
    return {name: module for name, module in found.items() if name not in unknown}


def _select(model: nn.Module, layers: Layers | None) -> dict[str, Downsampling]:
    """The layers to watch, each module once under its first name."""
    if isinstance(layers, str):
        raise TypeError(f"layers must be an iterable of names, a predicate or None, got the str {layers!r}")
    if layers is None or callable(layers):
        chosen = _by_predicate(model, layers or (lambda name, module: True))
    elif isinstance(layers, Iterable):
        chosen = _by_names(model, list(layers))
    else:
        raise TypeError(f"layers must be an iterable of names, a predicate or None, got {type(layers).__name__}")
    once = {id(module): name for name, module in reversed(chosen.items())}
    chosen = {name: module for name, module in chosen.items() if once[id(module)] == name}
    if not chosen:
        raise ValueError(
            f"{type(model).__name__} has no downsampling layer to measure: no selected nn.Conv2d, nn.MaxPool2d or "
            "nn.AvgPool2d with a stride above 1"
        )
    return chosen


class AliasingMonitor:
    """Aliasing measure (AM) of every downsampling layer of a model, taken during its ordinary forwards.

        monitor = AliasingMonitor(model, every=100)      # keep it: dropped, it detaches
        for x, labels in loader:        # training as ever
            ...
        print(monitor.compute())        # {"layer2.0.conv1": 0.31, ...}
        monitor.reset()                 # once an epoch, say

    1. Finds nn.Conv2d, nn.MaxPool2d and nn.AvgPool2d with a stride above 1 and hooks their forward.
       Downsampling done otherwise (a slice, an interpolation, a pooling function) is not seen.
       A subclass with a forward of its own is left out with a warning: its stride-1 map is not known.
    2. During a forward of the model, measures up to ``max_samples`` images of what each layer received
       and returned, without graph, random numbers or any effect on the layer. A layer that runs twice
       in one forward is measured twice.
    3. Adds up on the device; nothing waits for it before ``compute``.

    Forwards that PyTorch repeats in a backward (activation checkpointing) and those of a layer called by
    itself are not measured; neither is tracing or export. Attach before ``torch.compile``: the monitored
    layers then run outside of the compiled graph. Under data parallelism each process measures its own
    images. Values are those of the layer's output dtype, bfloat16 under a bfloat16 autocast.

    The monitor keeps the model alive as little as the model keeps the monitor: once it is detached or
    garbage-collected, the model is as it was. A copy of the model (``deepcopy``, pickle) is not
    monitored; a copy of the monitor keeps the results and is detached.

    Args:
        model: any nn.Module, on any device, in any mode; it may be moved afterwards.
        max_samples: images of a batch that are measured, the first ones; the paper takes 100.
        every: measure the first and then every n-th forward of the model since the last reset.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``
            asked about each downsampling layer.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a name is not one of a downsampling layer (the nearest ones are listed), the model
            has none, or a number is under 1.
        RuntimeError: (from the model's forward) a layer cannot be measured, with its name.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """

    def __init__(
        self, model: nn.Module, *, max_samples: int = 100, every: int = 1, layers: Layers | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        for name, value in (("max_samples", max_samples), ("every", every)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be a positive int, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be a positive int, got {value}")
        self.max_samples = max_samples
        self.every = every
        chosen = _select(model, layers)
        self._layers = {name: _Layer(describe(module)) for name, module in chosen.items()}
        self._forwards = 0
        self._measuring = False
        self._model: weakref.ref[nn.Module] | None = weakref.ref(model)
        handles = [
            module.register_forward_hook(_Hook(self._observe, name), prepend=True, with_kwargs=True)
            for name, module in chosen.items()
        ]
        handles.append(model.register_forward_pre_hook(_Hook(self._begin), prepend=True))
        handles.append(model.register_forward_hook(_Hook(self._end), always_call=True))
        self._detach: weakref.finalize | None = weakref.finalize(self, _remove, handles)
        self._detach.atexit = False

    @property
    def layers(self) -> dict[str, str]:
        """Names of the layers in the model's order, each with its kind, kernel and stride."""
        return {name: layer.description for name, layer in self._layers.items()}

    @property
    def attached(self) -> bool:
        """Whether the model's forwards are watched."""
        return self._detach is not None and self._detach.alive

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Run the model on given inputs, without gradients and in its current mode, and measure.

        For a monitor used as a metric of its own, on a fixed set of images. The model's ordinary forwards
        are measured without it. Measures whatever ``every`` is, and does not count as one of those forwards.

        Args:
            args, kwargs: as for ``model(...)``. A model in training mode updates its batch statistics: call
                ``model.eval()`` first if it should not.

        Raises:
            RuntimeError: the monitor is detached, or a layer cannot be measured.
        """
        model = self._model() if self._model and self.attached else None
        if model is None:
            raise RuntimeError("update needs the model, but the monitor is detached from it")
        forwards, self._forwards = self._forwards, 0
        try:
            with torch.no_grad():
                model(*args, **kwargs)
        finally:
            self._forwards = forwards

    def compute(self) -> dict[str, float]:
        """AM of each layer: the mean over all maps measured since the last reset, NaN where there are none.

        Returns:
            Layer name -> AM, always of all layers, in the model's order.
        """
        return {name: layer.mean() for name, layer in self._layers.items()}

    def reset(self) -> None:
        """Forget what was measured; the next forward is the first of ``every``."""
        self._layers = {name: _Layer(layer.description) for name, layer in self._layers.items()}
        self._forwards = 0

    def detach(self) -> None:
        """Take the hooks off the model, leaving it as it was found; results stay. Does nothing a second time."""
        if self._detach is not None:
            self._detach()

    def _begin(self, module: nn.Module, args: tuple) -> None:
        self._measuring = self._forwards % self.every == 0
        self._forwards += 1

    def _end(self, module: nn.Module, args: tuple, output: object) -> None:
        self._measuring = False

    def _observe(self, name: str, module: Downsampling, args: tuple, kwargs: dict, output: Any) -> None:
        if not self._measuring or torch.jit.is_tracing():
            return
        x = args[0] if args else kwargs["input"]
        if isinstance(output, tuple):
            output = output[0]
        if x.dim() == 4:
            x, output = x[: self.max_samples], output[: self.max_samples]
        if x.numel() == 0:
            return
        try:
            # Autocast has done its part: it chose the dtype of the output, in which the layer is measured.
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self._layers[name].add(self._measure(name, module, x, output))
        except Exception as error:
            raise RuntimeError(
                f"AliasingMonitor cannot measure layer {name!r} ({self._layers[name].description}): {error}"
            ) from error

    def _measure(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """AM of one call of a layer, per map; the command line times it here."""
        return layer_aliasing(module, x, output)

    def __enter__(self) -> "AliasingMonitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_detach": None, "_measuring": False}

    def __repr__(self) -> str:
        state = "" if self.attached else ", detached"
        count = f"{len(self._layers)} layer{'s' * (len(self._layers) != 1)}"
        return f"AliasingMonitor({count}, max_samples={self.max_samples}, every={self.every}{state})"
