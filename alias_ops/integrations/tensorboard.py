"""The aliasing measure in TensorBoard."""

from typing import TYPE_CHECKING, Literal

from ..monitor import AliasingMonitor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["write_aliasing"]


def write_aliasing(
    writer: "SummaryWriter | None",
    monitor: AliasingMonitor,
    step: int,
    *,
    by: Literal["layer", "block"] = "block",
    prefix: str = "aliasing/",
) -> None:
    """Write what a monitor has measured since its last reset, as curves and histograms.

        writer = torch.utils.tensorboard.SummaryWriter()       # pip install "alias-ops[tensorboard]"
        for epoch in range(epochs):
            ...                                                # train, monitored
            write_aliasing(writer, monitor, epoch)
            monitor.reset()

    1. Scalars ``aliasing/<block>`` and ``aliasing/mean``: the aliasing measure (AM), NaN where nothing was measured.
    2. With a monitor that was made ``per_channel``, histograms ``aliasing/<layer>/channels`` of AM over the
       output channels, of layers in which anything was measured and is finite.

    Args:
        writer: torch's SummaryWriter, or anything with its ``add_scalar`` and ``add_histogram`` (tensorboardX, the
            ``experiment`` of Lightning's TensorBoardLogger). None in processes that write nothing: under
            torch.distributed all of them have to call this.
        monitor: is not reset.
        step: global step or epoch, the x axis.
        by: "block" or "layer".
        prefix: of all tags.

    Raises:
        ValueError: another ``by``.
    """
    if by not in ("layer", "block"):
        raise ValueError(f'by must be "layer" or "block", got {by!r}')
    values = {**monitor.compute(by), "mean": monitor.mean()}
    channels = monitor.compute("channel") if monitor.per_channel else {}
    if writer is None:
        return
    for name, value in values.items():
        writer.add_scalar(prefix + name, value, step)
    for name, per_channel in channels.items():
        if len(per_channel) and per_channel.isfinite().all():
            writer.add_histogram(f"{prefix}{name}/channels", per_channel, step)
