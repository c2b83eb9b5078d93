"""The aliasing measure as a torchmetrics metric."""

from typing import Any

import torch

from .._checks import pair
from ..functional import IntPair, aliasing

try:
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    if error.name != "torchmetrics":
        raise
    raise ImportError(
        'alias_ops.integrations.torchmetrics needs torchmetrics: pip install "alias-ops[torchmetrics]"'
    ) from error

__all__ = ["AliasingMeasure"]


class AliasingMeasure(Metric):
    """Aliasing measure (AM) of stride-1 maps, over all batches and processes since the last reset.

        measure = AliasingMeasure(stride=2)
        for x in loader:
            measure.update(F.conv2d(x, weight, padding=1))   # the layer at stride 1
        print(measure.compute())

    For the layers of a whole network :class:`alias_ops.AliasingMonitor` has the same ``update``, ``compute`` and
    ``reset``, and needs no stride-1 maps.

    1. ``update`` adds AM of every map to ``total`` and their number to ``count``, float64 and int64 (for a device
       without float64, call ``set_dtype(torch.float32)`` before moving there).
    2. Processes are joined by the sums of both.
    3. ``compute`` divides: 0-d, on the metric's device, NaN without any map.

    Args:
        stride: of the layer, an int or (height, width).
        kwargs: of torchmetrics.Metric, as ``dist_sync_on_step`` or ``process_group``.

    Gradients: first order, of the value that a call of the metric returns, with respect to its maps.

    Raises:
        TypeError, ValueError: as ``alias_ops.aliasing``, for the stride when the metric is made.
        ImportError: (from the import) torchmetrics is missing.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0
    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, stride: IntPair = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = pair(stride, "stride", 1)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: torch.Tensor) -> None:
        """Add maps, floating [..., H, W]."""
        values = aliasing(maps, self.stride, reduction="none")
        self.total = self.total + values.sum(dtype=self.total.dtype)
        self.count = self.count + values.numel()

    def compute(self) -> torch.Tensor:
        """The mean over all maps."""
        return self.total / self.count
