"""Watch the aliasing measure of a network's downsampling layers while it trains."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, overload

import torch
from torch import distributed as dist
from torch import nn

from ._checks import check_positive
from ._downsampling import Downsampling, layer_aliasing
from ._selection import Blocks, Layers
from ._watching import LayerWatch

__all__ = ["AliasingMonitor"]

NAN = float("nan")


@dataclass
class _Sum:
    """AM of a layer summed over maps, or over the maps of each channel; ``total`` stays on the device."""

    total: torch.Tensor | None = None
    maps: int = 0

    def add(self, total: torch.Tensor, maps: int) -> None:
        self.total = total if self.total is None else self.total.to(total) + total
        self.maps += maps

    def on_cpu(self) -> tuple[torch.Tensor | None, int]:
        return None if self.total is None else self.total.cpu().double(), self.maps

    def mean(self) -> float:
        return NAN if self.total is None else self.total.double().sum().item() / self.maps

    def channels(self) -> torch.Tensor:
        if self.total is None:
            return torch.empty(0, dtype=torch.float64)
        return self.total.cpu().double() * len(self.total) / self.maps


class AliasingMonitor(LayerWatch):
    """Aliasing measure (AM) of every downsampling layer of a model, taken during its ordinary forwards.

        monitor = AliasingMonitor(model, every=100)      # keep it: dropped, it detaches
        for x, labels in loader:        # training as ever
            ...
        print(monitor.compute())        # {"layer2.0.conv1": 0.31, ...}
        print(monitor.mean())           # one number for all of it
        monitor.reset()                 # once an epoch, say

    1. Finds nn.Conv2d, nn.MaxPool2d and nn.AvgPool2d with a stride above 1 and hooks their forward.
       Downsampling done otherwise (a slice, an interpolation, a pooling function) is not seen.
       A subclass with a forward of its own is left out with a warning: its stride-1 map is not known.
    2. During a forward of the model, measures up to ``max_samples`` images of what each layer received
       and returned, without graph, random numbers or any effect on the layer. A layer that runs twice
       in one forward is measured twice.
    3. Adds up on the device; nothing waits for it before ``compute``, ``mean`` or ``last``.

    Per epoch: ``compute`` and ``mean`` are of all that was measured since the last ``reset``. Per step:
    ``last`` is of the last measured forward alone. The layers of a residual block's main and shortcut
    branch form a block, all others one each (``monitor.blocks``); ``compute("block")`` and ``mean`` are of these.

    Forwards that PyTorch repeats in a backward (activation checkpointing) and those of a layer called by
    itself are not measured; neither is tracing or export. Attach before the first forward of a compiled
    model (to the model or to what ``torch.compile`` returned): the monitored layers then run outside of the
    compiled graph. Later, what is compiled knows of no hook: call ``torch.compiler.reset()`` after
    attaching. Values are those of the layer's output dtype, bfloat16 under a bfloat16 autocast.

    Where torch.distributed is initialised, each process measures its own images, and ``compute`` and ``mean``
    are of those of all processes. Attach before or after wrapping the model in DDP or FSDP.

    The monitor keeps the model alive as little as the model keeps the monitor: once it is detached or
    garbage-collected, the model is as it was. A copy of the model (``deepcopy``, pickle) is not
    monitored; a copy of the monitor keeps the results and is detached.

    Args:
        model: any nn.Module, on any device, in any mode; it may be moved afterwards.
        max_samples: images of a batch that are measured, the first ones; the paper takes 100.
        every: measure the first and then every n-th forward of the model since the last reset.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``
            asked about each downsampling layer.
        per_channel: tell the output channels of each layer apart, for ``compute("channel")``.
        process_group: whose processes results are summed over; None for all.
        blocks: which block a layer belongs to, where the innermost module around it that is no container and
            holds another of the layers is not the one: layer name -> block name, a mapping (of some layers or
            all) or a function.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a name is not one of a downsampling layer (the nearest ones are listed), the model
            has none, or a number is under 1.
        RuntimeError: (from the model's forward) a layer cannot be measured, with its name.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        max_samples: int = 100,
        every: int = 1,
        layers: Layers | None = None,
        per_channel: bool = False,
        process_group: "dist.ProcessGroup | None" = None,
        blocks: Blocks | None = None,
    ) -> None:
        check_positive("max_samples", max_samples)
        check_positive("every", every)
        super().__init__(model, layers, blocks, max_samples, "AliasingMonitor")
        self.every = every
        self.per_channel = per_channel
        self.process_group = process_group
        self._forwards = 0
        self.reset()

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

    @overload
    def compute(self, by: Literal["layer", "block"] = ..., *, sync: bool = ...) -> dict[str, float]: ...
    @overload
    def compute(self, by: Literal["channel"], *, sync: bool = ...) -> dict[str, torch.Tensor]: ...
    def compute(self, by: str = "layer", *, sync: bool = True) -> dict[str, Any]:
        """AM over all maps measured since the last reset.

        Args:
            by: "layer", "block" (the mean of its layers' AM) or "channel" (of each layer, which needs
                ``per_channel=True``).
            sync: take the maps of all processes together, where torch.distributed is initialised. All
                processes of the group have to call it then, whether they measured anything or not. What
                each has measured stays its own.

        Returns:
            Name -> AM, always of all layers or blocks, in the model's order: a float, NaN where nothing was
            measured; or float64 [Cout] on the CPU, empty where nothing was measured.

        Raises:
            ValueError: another ``by``, or channels that were not told apart.
            RuntimeError: processes watch different layers.
        """
        return self._by(by, self._joined() if sync else self._sums)

    def mean(self, *, sync: bool = True) -> float:
        """The one number for early stopping: mean AM of the blocks in which anything was measured, or NaN.

        Args:
            sync: as for ``compute``; all processes have to call it.
        """
        values = [fmean(layers) for layers in self._measured(self._joined() if sync else self._sums).values() if layers]
        return fmean(values) if values else NAN

    def last(self, by: Literal["layer", "block", "channel"] = "layer") -> dict[str, Any]:
        """AM in the last measured forward alone, of this process alone: what to log at every step.

        Args:
            by: as for ``compute``.

        Returns:
            As ``compute``; NaN for layers that this forward did not reach.
        """
        return self._by(by, self._last)

    def reset(self) -> None:
        """Forget what was measured; the next forward is the first of ``every``."""
        self._sums = self._no_sums()
        self._last = self._no_sums()
        self._forwards = 0

    def state_dict(self) -> dict[str, Any]:
        """What this process has measured since the last reset, for a checkpoint.

        Returns:
            Float64 tensors on the CPU, numbers and names: loads with ``torch.load(..., weights_only=True)``.
            Under torch.distributed each process has its own.
        """
        return {
            "forwards": self._forwards,
            "totals": {name: layer.on_cpu()[0] for name, layer in self._sums.items()},
            "maps": {name: layer.maps for name, layer in self._sums.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where ``state_dict`` was called; ``last`` has nothing to tell before the next forward.

        Args:
            state: of a monitor of the same layers, and the same ``per_channel``.

        Raises:
            TypeError: state is not what ``state_dict`` returns.
            ValueError: it is of other layers, or of another ``per_channel``.
        """
        if not isinstance(state, Mapping) or not {"forwards", "totals", "maps"} <= state.keys():
            raise TypeError(f"state must be what state_dict returns, got {type(state).__name__}")
        totals, maps = state["totals"], state["maps"]
        missing, unknown = [n for n in self._sums if n not in totals], [n for n in totals if n not in self._sums]
        if missing or unknown:
            raise ValueError(f"state is of other layers: lacks {missing}, has {unknown} in their place")
        for name, total in totals.items():
            if total is not None and (total.dim() == 1) != self.per_channel:
                kept = "of each channel" if total.dim() else "over all channels"
                raise ValueError(f"state has sums {kept} of {name!r}, but per_channel is {self.per_channel}")
        self._sums = {name: _Sum(totals[name], maps[name]) for name in self._sums}
        self._last = self._no_sums()
        self._forwards = state["forwards"]

    def _no_sums(self) -> dict[str, _Sum]:
        return {name: _Sum() for name in self._descriptions}

    def _by(self, by: str, sums: dict[str, _Sum]) -> dict[str, Any]:
        if by == "layer":
            return {name: layer.mean() for name, layer in sums.items()}
        if by == "block":
            return {name: fmean(values) if values else NAN for name, values in self._measured(sums).items()}
        if by != "channel":
            raise ValueError(f'by must be "layer", "block" or "channel", got {by!r}')
        if not self.per_channel:
            raise ValueError('by="channel" needs AliasingMonitor(..., per_channel=True)')
        return {name: layer.channels() for name, layer in sums.items()}

    def _measured(self, sums: dict[str, _Sum]) -> dict[str, list[float]]:
        """Of each block, AM of its layers in which anything was measured."""
        return {block: [sums[name].mean() for name in names if sums[name].maps] for block, names in self.blocks.items()}

    def _joined(self) -> dict[str, _Sum]:
        """The sums of all processes; of objects, so that a backend's own device takes them."""
        group = self.process_group
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) < 2:
            return self._sums
        every: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(every, {name: layer.on_cpu() for name, layer in self._sums.items()}, group)
        joined = self._no_sums()
        for rank, part in enumerate(every):
            if part.keys() != joined.keys():
                raise RuntimeError(f"rank {rank} of the group watches {list(part)}, this one {list(joined)}")
            for name, (total, maps) in part.items():
                if total is not None:
                    joined[name].add(total, maps)
        return joined

    def _begin(self) -> bool:
        measuring = self._forwards % self.every == 0
        self._forwards += 1
        if measuring:
            self._last = self._no_sums()
        return measuring

    def _take(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> None:
        with torch.no_grad():
            maps = self._measure(name, module, x, output)
            dtype = torch.float32 if maps.device.type == "mps" else torch.float64
            total = maps.reshape(-1, maps.shape[-1]).sum(0, dtype=dtype) if self.per_channel else maps.sum(dtype=dtype)
            before = self._sums[name].total
            if self.per_channel and before is not None and len(before) != len(total):
                raise ValueError(f"per_channel, but it ran on {len(before)} channels before and on {len(total)} now")
            for sums in (self._sums, self._last):
                sums[name].add(total, maps.numel())

    def _measure(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """AM of one call of a layer, per map; the command line times it here."""
        return layer_aliasing(module, x, output)

    def _settings(self) -> dict[str, object]:
        return {"max_samples": self.max_samples, "every": self.every}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "process_group": None}
