"""Hooks on the downsampling layers of a model: which forwards count, what each layer received and returned."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ._downsampling import Downsampling, describe
from ._selection import Blocks, Layers, group, select

__all__ = ["LayerWatch", "in_backward"]

Watch = TypeVar("Watch", bound="LayerWatch")


class _Hook:
    """A forward hook that keeps its watcher neither alive nor in a copy of the model.

    A model that is deep-copied or pickled while it is watched takes its hooks along. What a copy of
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


def in_backward() -> bool:
    """Whether a backward is under way: what runs forward then is activation checkpointing, for a second time."""
    return torch._C._current_graph_task_id() != -1


class LayerWatch:
    """What the monitor and the penalty have in common; see there for the arguments."""

    def __init__(
        self, model: nn.Module, layers: Layers | None, blocks: Blocks | None, max_samples: int | None, kind: str
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
        self._kind = kind
        self.max_samples = max_samples
        chosen = select(model, layers, kind)
        self._descriptions = {name: describe(module) for name, module in chosen.items()}
        self._blocks = group(model, chosen, blocks)
        self._measuring = False
        self._seen = False
        self._model: weakref.ref[nn.Module] | None = weakref.ref(model)
        handles = [
            module.register_forward_hook(_Hook(self._observe, name), prepend=True, with_kwargs=True)
            for name, module in chosen.items()
        ]
        handles.append(model.register_forward_pre_hook(_Hook(self._enter), prepend=True))
        handles.append(model.register_forward_hook(_Hook(self._leave), always_call=True))
        self._detach: weakref.finalize | None = weakref.finalize(self, _remove, handles)
        self._detach.atexit = False

    @property
    def layers(self) -> dict[str, str]:
        """Names of the layers in the model's order, each with its kind, kernel and stride."""
        return dict(self._descriptions)

    @property
    def blocks(self) -> dict[str, list[str]]:
        """Names of the blocks, each with those of its layers."""
        blocks: dict[str, list[str]] = {}
        for layer, block in self._blocks.items():
            blocks.setdefault(block, []).append(layer)
        return blocks

    @property
    def attached(self) -> bool:
        """Whether the model's forwards are watched."""
        return self._detach is not None and self._detach.alive

    def detach(self) -> None:
        """Take the hooks off the model, leaving it as it was found; results stay. Does nothing a second time."""
        if self._detach is not None:
            self._detach()

    def _begin(self) -> bool:
        """A forward of the model begins: whether to measure it."""
        raise NotImplementedError

    def _take(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> None:
        """Measure a call of a layer; no autocast, at least one map."""
        raise NotImplementedError

    def _enter(self, module: nn.Module, args: tuple) -> None:
        if not in_backward():
            self._measuring = self._begin()

    def _leave(self, module: nn.Module, args: tuple, output: object) -> None:
        measured, self._measuring = self._measuring, False
        # Read from the module: a compiled model has its wrapper's type, and an import of that is the compiler's.
        if measured and not self._seen and output is not None and hasattr(module, "_orig_mod"):
            raise RuntimeError(
                f"{self._kind} sees no layer of a model that was compiled before it was attached: call "
                "torch.compiler.reset() once after attaching, or attach before the first forward"
            )

    def _observe(self, name: str, module: Downsampling, args: tuple, kwargs: dict, output: Any) -> None:
        if not self._wanted() or torch.jit.is_tracing():
            return
        self._seen = True
        x = args[0] if args else kwargs["input"]
        if isinstance(output, tuple):
            output = output[0]
        if x.dim() == 4:
            x, output = x[: self.max_samples], output[: self.max_samples]
        if x.numel() == 0:
            return
        try:
            # Autocast has done its part: it chose the dtype of the output, in which the layer is measured.
            with torch.autocast(x.device.type, enabled=False):
                self._take(name, module, x, output)
        except Exception as error:
            if in_backward():  # how a checkpoint ends its repetition
                raise
            raise RuntimeError(
                f"{self._kind} cannot measure layer {name!r} ({self._descriptions[name]}): {error}"
            ) from error

    def _wanted(self) -> bool:
        return self._measuring

    def __enter__(self: Watch) -> Watch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None, "_detach": None, "_measuring": False}

    def __repr__(self) -> str:
        count = f"{len(self._descriptions)} layer{'s' * (len(self._descriptions) != 1)}"
        parts = [count, *(f"{name}={value}" for name, value in self._settings().items())]
        return f"{self._kind}({', '.join(parts)}{'' if self.attached else ', detached'})"

    def _settings(self) -> dict[str, object]:
        return {"max_samples": self.max_samples}
