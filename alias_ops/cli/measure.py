"""``alias-ops measure``: aliasing measure of a model's downsampling layers, with what measuring costs."""

import shlex
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

import torch
from torch import nn

from .. import reference
from .._downsampling import Downsampling, layer_aliasing
from ..monitor import AliasingMonitor
from .errors import UserError
from .images import Images, choose_images
from .models import load_model
from .results import Report
from .rows import Row
from .running import failed, input_channels, prepare, progress, said

__all__ = ["run"]

REPEATS = 3


@dataclass
class _Record:
    """What is known of a layer besides its AM."""

    output_shape: tuple[int, ...] = ()
    times: list[float] = field(default_factory=list)
    reference_times: list[float] = field(default_factory=list)
    reference_total: float = 0.0
    reference_maps: int = 0


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _milliseconds(function: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, list[float]]:
    """The function's result and a few durations; a first run that fills caches is not among them."""
    times = []
    result = function()
    _synchronize(result.device)
    for _ in range(REPEATS):
        start = time.perf_counter()
        result = function()
        _synchronize(result.device)
        times.append(1e3 * (time.perf_counter() - start))
    return result, times


class _TimedMonitor(AliasingMonitor):
    """A monitor that times its measurements, and the definition's if asked."""

    def __init__(self, model: nn.Module, *, with_reference: bool, max_samples: int, layers: list[str] | None) -> None:
        super().__init__(model, max_samples=max_samples, layers=layers)
        self._with_reference = with_reference
        self._records = {name: _Record() for name in self.layers}

    def _measure(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        record = self._records[name]
        record.output_shape = tuple(output.shape[1:])
        maps, times = _milliseconds(lambda: layer_aliasing(module, x, output))
        record.times += times
        if self._with_reference:
            expected, times = _milliseconds(lambda: layer_aliasing(module, x, output, reference))
            record.reference_times += times
            record.reference_total += expected.sum().item()
            record.reference_maps += expected.numel()
        return maps

    def rows(self) -> list[Row]:
        return [
            Row(
                layer=name or "(the model)",
                kind=self.layers[name],
                output_shape=record.output_shape,
                am=value if record.times else None,
                ms=statistics.median(record.times) if record.times else None,
                reference_am=record.reference_total / record.reference_maps if record.reference_maps else None,
                reference_ms=statistics.median(record.reference_times) if record.reference_times else None,
            )
            for (name, value), record in zip(self.compute().items(), self._records.values(), strict=True)
        ]


def _measure(monitor: _TimedMonitor, images: Images, batch_size: int, like: torch.Tensor, report: Report) -> None:
    """Measure batch after batch, saving after each.

    Raises:
        UserError: the model cannot take the images, or none of them can be read.
        KeyboardInterrupt: Ctrl-C, with how far it came.
    """
    total = len(images.readers)
    try:
        with closing(progress(images.batches(batch_size), -(-total // batch_size), "measuring")) as batches:
            for batch in batches:
                try:
                    monitor.update(batch.to(like.device, like.dtype))
                except Exception as error:
                    raise failed(batch, error) from error
                report.images += len(batch)
                report.save(monitor.rows())
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted after {report.images} of {total} images") from error
    if not report.images:
        raise UserError(f"none of the {total} {images.kind} can be read")
    report.complete = True


def _attach(model: nn.Module, arguments: Namespace) -> _TimedMonitor:
    """The monitor; what it warns of is said on stderr in the command's own manner."""
    with said(arguments.model):
        return _TimedMonitor(
            model, with_reference=arguments.reference, max_samples=arguments.batch_size, layers=arguments.layers
        )


def run(arguments: Namespace) -> None:
    """Measure a model, print the table and write the files that were asked for.

    Args:
        arguments: as parsed by ``alias_ops.cli``.

    Raises:
        UserError: what is wrong in one sentence; what was measured before has been shown and written.
        KeyboardInterrupt: likewise.
    """
    torch.manual_seed(arguments.seed)
    model, like = prepare(load_model(arguments.model, arguments.unsafe_load), arguments.device)
    monitor = _attach(model, arguments)
    images = choose_images(arguments.images, arguments.samples, input_channels(model), arguments.size, arguments.seed)
    report = Report(
        model=arguments.model,
        command=shlex.join(["alias-ops", *arguments.argv]),
        device=str(like.device),
        source=images.kind,
        size=arguments.size,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        folder=arguments.output,
    )
    try:
        _measure(monitor, images, arguments.batch_size, like, report)
    finally:
        rows = monitor.rows()
        if any(row.am is not None for row in rows):
            report.finish(rows)
