"""Stop a training when the aliasing measure rises: the early stopping of the 2022 paper."""

import copy
import math
from collections.abc import Mapping
from numbers import Real
from statistics import fmean, median
from typing import Any

import torch
from torch import nn

from ._checks import check_positive

__all__ = ["AliasingEarlyStopping"]


def _number(value: Any, name: str) -> float:
    """A finite float from a number or a 0-d tensor."""
    if isinstance(value, torch.Tensor):
        value = value.detach()
    one = isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_complex()
    if not one and (not isinstance(value, Real) or isinstance(value, bool)):
        came = f"a tensor {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise TypeError(f"{name} must be a number, a 0-d tensor or a mapping of them, got {came}")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(
            f"{name} must be finite, got {number}: either nothing was measured since the monitor's last reset, "
            "or the network has diverged"
        )
    return number


def _mean(value: Any) -> float:
    if not isinstance(value, Mapping):
        return _number(value, "value")
    if not value:
        raise ValueError("value must have at least one layer, got an empty mapping")
    return fmean(_number(one, f"value[{layer!r}]") for layer, one in value.items())


def _kept(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state_dict that nothing else writes into, on the CPU, with the versions that torch keeps beside the keys."""
    kept: Any = copy.copy(state)
    for name, value in state.items():
        tensor = isinstance(value, torch.Tensor)
        kept[name] = value.detach().to("cpu", copy=True) if tensor else copy.deepcopy(value)
    return kept


class AliasingEarlyStopping:
    """Stops a training when the aliasing measure (AM) rises above its recent median.

        stopping = AliasingEarlyStopping(keep_best=True)
        for epoch in range(epochs):
            ...                                           # train, monitored
            stop = stopping.step(monitor.mean(), model)
            monitor.reset()
            if stop:
                print(stopping.reason)
                stopping.restore(model)                   # the weights of the last step before the rise
                break

    In single-step adversarial training AM jumps when the network starts to overfit to its attack; no
    stronger attack has to be run to see it.

    1. Takes the median of the last ``window`` values before the new one, of an even number the mean of
       the middle two.
    2. Stops if the new value is above this median by more than ``threshold``: a difference of AMs, not a
       ratio of them.
    3. Does not judge before ``window`` values are there. AM changes fast while a network leaves its random
       weights, and a median of one or two such values says nothing about a rise.

    Once stopped it stays so: ``step`` goes on to record values and returns True. A step is commonly an epoch.

    Args:
        threshold: how far above the median AM may be, a non-negative number in units of AM.
        window: number of values in the median, a positive int.
        keep_best: remember the model's weights of the last step that did not stop, on the CPU. Those of
            the step that stops are already past the rise.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, Algorithm 1. Point 3 is this package's own.
    """

    def __init__(self, threshold: float = 0.33, window: int = 5, *, keep_best: bool = False) -> None:
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise TypeError(f"threshold must be a non-negative number, got {threshold!r}")
        if not threshold >= 0:
            raise ValueError(f"threshold must be a non-negative number, got {threshold}")
        check_positive("window", window)
        self.threshold = float(threshold)
        self.window = window
        self.keep_best = keep_best
        self._history: list[float] = []
        self._reason: str | None = None
        self._best: dict[str, Any] | None = None

    @property
    def stopped(self) -> bool:
        """Whether a step has said stop."""
        return self._reason is not None

    @property
    def reason(self) -> str | None:
        """Why it stopped, in one sentence; None while it has not."""
        return self._reason

    @property
    def history(self) -> list[float]:
        """The value of every step so far, a copy."""
        return list(self._history)

    @property
    def best_state_dict(self) -> dict[str, Any] | None:
        """State of the model at the last step that did not stop, on the CPU; None if none was kept."""
        return self._best

    def step(self, value: Any, model: nn.Module | None = None) -> bool:
        """Record the AM of an epoch and say whether to stop.

        Args:
            value: a number as of ``AliasingMonitor.mean()``, a 0-d tensor, or a mapping of them as of ``compute()``,
                of which the mean is taken.
            model: whose weights to remember; needed with ``keep_best``.

        Returns:
            True from the step on that found the rise.

        Raises:
            TypeError: value is of another kind, or the model is missing.
            ValueError: value is NaN or infinite, which no rule can judge. Nothing is recorded then.
        """
        if self.keep_best and not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module where keep_best is set, got {type(model).__name__}")
        new = _mean(value)
        recent = self._history[-self.window :]
        self._history.append(new)
        if self.stopped:
            return True
        if len(recent) == self.window:
            usual = median(recent)
            if new - usual > self.threshold:
                self._reason = (
                    f"AM {new:.4g} at step {len(self._history)} is {new - usual:.4g} above {usual:.4g}, "
                    f"the median of the last {self.window}, more than {self.threshold:.4g}"
                )
                return True
        if self.keep_best and model is not None:
            self._best = _kept(model.state_dict())
        return False

    def restore(self, model: nn.Module) -> None:
        """Load the remembered weights into ``model``, wherever it is.

        Raises:
            RuntimeError: no weights were kept, or they do not fit the model.
        """
        if self._best is None:
            asked = "no step has gone well yet" if self.keep_best else "keep_best was not set"
            raise RuntimeError(f"restore has no weights to load: {asked}")
        model.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, of plain values and tensors: loads with ``torch.load(weights_only=True)``.

        ``threshold`` and ``window`` are not in it: a resumed run takes those that it is made with.
        """
        return {"history": self.history, "reason": self._reason, "best": self._best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another one was when its ``state_dict`` was taken.

        Raises:
            KeyError: naming what state_dict lacks.
        """
        missing = [key for key in ("history", "reason", "best") if key not in state_dict]
        if missing:
            raise KeyError(f"state_dict must have history, reason and best, got no {' and no '.join(missing)}")
        self._history = [float(value) for value in state_dict["history"]]
        self._reason = state_dict["reason"]
        best = state_dict["best"]
        self._best = None if best is None else _kept(best)

    def __repr__(self) -> str:
        state = f"stopped: {self._reason}" if self.stopped else f"{len(self._history)} steps"
        return f"AliasingEarlyStopping(threshold={self.threshold}, window={self.window}, {state})"
