"""The aliasing measure during a training with Lightning, as a callback."""

import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from .._checks import check_positive
from .._selection import Blocks, Layers
from .._watching import in_backward
from ..monitor import AliasingMonitor
from ..stopping import AliasingEarlyStopping

__all__ = ["AliasingCallback"]

NAMES = ("lightning.pytorch", "pytorch_lightning")


def _lightning() -> ModuleType:
    """The Lightning that the user's script has imported, or the one there is: it is published under two names."""
    for name in NAMES:
        if name in sys.modules:
            return import_module(name)
    for name in NAMES:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError('alias_ops.integrations.lightning needs Lightning: pip install "alias-ops[lightning]"')


if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.utilities import rank_zero_info
else:
    _pl = _lightning()
    Callback, rank_zero_info = _pl.Callback, import_module(f"{_pl.__name__}.utilities").rank_zero_info


class _BatchMonitor(AliasingMonitor):
    """Measures what runs while it is open, whichever module's forward that is in.

    A training step need not call the LightningModule at all, and under DDP Lightning calls it around the whole
    step: its forwards say neither when to measure nor how many there were.
    """

    open = False

    def begin(self) -> None:
        self._last = self._no_sums()
        self.open = True

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.begin()
        try:
            super().update(*args, **kwargs)
        finally:
            self.open = False

    def _begin(self) -> bool:
        return False

    def _wanted(self) -> bool:
        return self.open and not in_backward()


class AliasingCallback(Callback):
    """Logs the aliasing measure (AM) of a LightningModule's downsampling layers, and may stop the training by it.

        trainer = lightning.Trainer(callbacks=[AliasingCallback(every=50, stopping=AliasingEarlyStopping())])
        trainer.fit(module)

    1. Attaches an :class:`alias_ops.AliasingMonitor` when the fit starts, with the model complete and its first
       forward ahead; detaches when it ends, also by an exception. Training takes the same course with and without.
    2. Measures during the training batches, or those of validation. What runs in between (the sanity check,
       validation of a training that is measured, your own forwards) is not measured.
    3. At the end of an epoch logs ``aliasing/<block>`` and ``aliasing/mean``, AM over the images of all processes:
       to the trainer's loggers, and to callbacks such as ``ModelCheckpoint(monitor="aliasing/mean")``.
    4. Gives the mean to ``stopping``. When that says stop, so does the trainer (no earlier than its ``min_epochs``);
       the reason is printed once. With ``keep_best`` the weights from before the rise are in the module afterwards.
    5. The sums of the epoch and the stopping's past are in the checkpoint: a resumed fit goes on as if it had
       not stopped. Of several processes, only the sums of rank zero are; the others begin anew within their epoch.
       (A checkpoint from within an epoch's last batch lacks that epoch's value: Lightning resumes past its end.)

    ``monitor`` is the current fit's monitor, or the last one's with its results.

    Args:
        every: measure the first and then every n-th batch of each epoch.
        max_samples, layers, blocks: as for the monitor.
        by: "block" or "layer", what is logged.
        on_step: log AM of each measured batch as well, of the process's own images, under the same names with
            ``_step`` behind them. Waits for the device once per measured batch.
        stage: "train" or "validate", whose batches are measured. For both, use two callbacks with two prefixes.
        stopping: judges AM once per epoch (or per run of the validation).
        model: the part to watch: a submodule's path, or a function of the LightningModule; None for all of it.
            Layers are named from there.
        prefix: of the names in the log.

    Raises:
        TypeError, ValueError: naming the argument; what the model does not have, when the fit starts.
        ImportError: (from the import) Lightning is missing.
    """

    def __init__(
        self,
        *,
        every: int = 1,
        max_samples: int = 100,
        layers: Layers | None = None,
        blocks: Blocks | None = None,
        by: Literal["layer", "block"] = "block",
        on_step: bool = False,
        stage: Literal["train", "validate"] = "train",
        stopping: AliasingEarlyStopping | None = None,
        model: str | Callable[[Any], nn.Module] | None = None,
        prefix: str = "aliasing/",
    ) -> None:
        super().__init__()
        check_positive("every", every)
        check_positive("max_samples", max_samples)
        if by not in ("layer", "block"):
            raise ValueError(f'by must be "layer" or "block", got {by!r}')
        if stage not in ("train", "validate"):
            raise ValueError(f'stage must be "train" or "validate", got {stage!r}')
        if stopping is not None and not isinstance(stopping, AliasingEarlyStopping):
            raise TypeError(f"stopping must be an AliasingEarlyStopping or None, got {type(stopping).__name__}")
        if model is not None and not isinstance(model, str) and not callable(model):
            raise TypeError(f"model must be a submodule's path, a function or None, got {type(model).__name__}")
        self.every = every
        self.by = by
        self.on_step = on_step
        self.stage = stage
        self.stopping = stopping
        self.model = model
        self.prefix = prefix
        self.monitor: _BatchMonitor | None = None
        self._arguments: dict[str, Any] = {"max_samples": max_samples, "layers": layers, "blocks": blocks}
        self._loaded: Mapping[str, Any] | None = None
        self._batches = 0
        self._told = False

    @property
    def state_key(self) -> str:
        """Tells the callbacks of one trainer apart in its checkpoints."""
        return self._generate_state_key(stage=self.stage, prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint; plain values and tensors."""
        measured = self.monitor.state_dict() if self.monitor is not None and self._loaded is None else self._loaded
        return {"monitor": measured, "stopping": None if self.stopping is None else self.stopping.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint, which may be read before the monitor is there."""
        self._loaded = state_dict["monitor"]
        if self.stopping is not None and state_dict["stopping"] is not None:
            self.stopping.load_state_dict(state_dict["stopping"])

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        # Not in setup: setup and configure_model of the module, which come after it, may make the layers.
        if self.model is None:
            model = pl_module
        else:
            model = pl_module.get_submodule(self.model) if isinstance(self.model, str) else self.model(pl_module)
        self._detach()
        self.monitor = _BatchMonitor(model, **self._arguments)
        self._batches = 0
        self._told = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        # The checkpoint has the sums of rank zero. Loaded by all, they would count once per process.
        if self._loaded is not None and self.monitor is not None and trainer.is_global_zero:
            self.monitor.load_state_dict(self._loaded)
        self._loaded = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._open("train", trainer, batch_idx)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._close("train", trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._report("train", trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        # Not when the rule says stop: the trainer may have epochs to go (min_epochs), and a checkpoint of this
        # epoch should have its weights.
        stopping = self.stopping
        if stopping is not None and stopping.stopped and stopping.best_state_dict is not None:
            stopping.restore(pl_module)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._open("validate", trainer, batch_idx, dataloader_idx)

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._close("validate", trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._report("validate", trainer, pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._detach()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._detach()

    def _detach(self) -> None:
        if self.monitor is not None:
            self.monitor.detach()

    def _measures(self, stage: str, trainer: Any) -> _BatchMonitor | None:
        """The monitor, in its stage of a fit."""
        monitor = self.monitor
        wanted = stage == self.stage and not trainer.sanity_checking
        return monitor if wanted and monitor is not None and monitor.attached else None

    def _open(self, stage: str, trainer: Any, batch: int, loader: int = 0) -> None:
        monitor = self._measures(stage, trainer)
        if monitor is None:
            return
        # Not at an epoch's start: a fit that resumes from an epoch's last batch has no such hook.
        if batch == loader == 0:
            monitor.reset()
        if batch % self.every == 0:
            monitor.begin()

    def _close(self, stage: str, trainer: Any, pl_module: Any) -> None:
        monitor = self._measures(stage, trainer)
        if monitor is None or not monitor.open:
            return
        monitor.open = False
        self._batches += 1
        if self._batches == 1 and not monitor._seen:
            warnings.warn(
                "AliasingCallback saw none of its layers run in the first batch: a part that was compiled and run "
                "before the fit needs torch.compiler.reset(), and model= names the part to watch",
                stacklevel=2,
            )
        if self.on_step:
            values = {f"{self.prefix}{name}_step": value for name, value in monitor.last(self.by).items()}
            pl_module.log_dict(values, on_step=True, on_epoch=False)

    def _report(self, stage: str, trainer: Any, pl_module: Any) -> None:
        monitor = self._measures(stage, trainer)
        if monitor is None:
            return
        monitor.open = False  # a batch that the module skipped has no end
        mean = monitor.mean()
        values = {**monitor.compute(self.by), "mean": mean}
        # The same in all processes, and so is their mean; without sync_dist Lightning warns about every name.
        pl_module.log_dict(
            {self.prefix + name: value for name, value in values.items()}, on_step=False, on_epoch=True, sync_dist=True
        )
        if self.stopping is not None and self.stopping.step(mean, pl_module):
            trainer.should_stop = True
            if not self._told:
                rank_zero_info(f"AliasingCallback stops the training: {self.stopping.reason}")
            self._told = True
