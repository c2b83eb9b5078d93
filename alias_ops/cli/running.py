"""A model on batches of images, as all commands run it."""

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn

from .errors import UserError, one_line

__all__ = ["bar", "failed", "input_channels", "prepare", "progress", "said"]

HALF = (torch.float16, torch.bfloat16)


def prepare(model: nn.Module, device: str | None) -> tuple[nn.Module, torch.Tensor]:
    """The model for inference, in float32 if its weights are of half precision, and a tensor of its kind."""
    if any(p.dtype in HALF for p in model.parameters()):
        model = model.float()
    if device is not None:
        try:
            model = model.to(torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device} cannot be used ({one_line(error)})") from error
    return model.eval(), next(model.parameters(), torch.empty(0, device=device))


def input_channels(model: nn.Module) -> int:
    """Channels that the first convolution takes; 3 where there is none, or it does not know yet."""
    return next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels), 3)


@contextmanager
def bar(total: int, doing: str) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal's stderr if rich is there; yields what is to be told how much is done."""
    if not (sys.stderr.isatty() and find_spec("rich")):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Drawn when told alone: a thread that redraws it would take time from what is being timed.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as drawn:
        task = drawn.add_task(doing, total=total)
        drawn.refresh()
        yield lambda done: drawn.update(task, completed=done, refresh=True)


def progress(batches: Iterable[torch.Tensor], total: int, doing: str) -> Generator[torch.Tensor, None, None]:
    """The batches, with a progress bar."""
    with bar(total, doing) as move:
        for done, batch in enumerate(batches, 1):
            yield batch
            move(done)


def failed(batch: torch.Tensor, error: Exception) -> UserError:
    """What to say of a model that does not take a batch."""
    return UserError(
        f"the model failed on a batch {list(batch.shape)} ({one_line(error)}); "
        "another --size, --batch-size or --device may suit it"
    )


@contextmanager
def said(model: str) -> Iterator[None]:
    """What the package warns of is said on stderr as a command does; what it refuses is an error of the model."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    except ValueError as error:
        raise UserError(f"{model}: {error}") from error
    for warning in caught:
        print(f"alias-ops: {warning.message}", file=sys.stderr)
