"""What the monitor costs, timed inside of the training."""

import time
from typing import Any

import torch
from torch import nn

from alias_ops import AliasingMonitor

__all__ = ["Clock"]


class Clock:
    """Seconds spent in a monitor's hooks on the layers of a model.

    Two more hooks on each layer, one that runs before the monitor's and one after it. On a GPU they record events,
    so that nothing waits before ``read``.
    """

    def __init__(self, model: nn.Module, monitor: AliasingMonitor | None, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._spans: list[tuple[Any, Any]] = []
        self._start: Any = None
        for name in monitor.layers if monitor else ():
            layer = model.get_submodule(name)
            layer.register_forward_hook(self._begin, prepend=True)
            layer.register_forward_hook(self._end)

    def read(self, *, reset: bool = False) -> float:
        """Seconds since the last reset."""
        if self._gpu:
            torch.cuda.synchronize()
        seconds = sum(a.elapsed_time(b) / 1000 if self._gpu else b - a for a, b in self._spans)
        if reset:
            self._spans.clear()
        return seconds

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _begin(self, *call: object) -> None:
        self._start = self._now()

    def _end(self, *call: object) -> None:
        self._spans.append((self._start, self._now()))
