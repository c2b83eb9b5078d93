"""The terminal: a bar for the epoch under way, a row for each that is done."""

from types import TracebackType

from rich.box import HORIZONTALS
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fgsm.results import stopping_epochs
from fgsm.training import Epoch, Training

__all__ = ["Terminal", "print_start", "print_verdict"]

SHOWN = 20  # last epochs, while the run goes on
HEADER = ("epoch", "loss", "train", "clean", "FGSM", "PGD", "AM", "training s", "AM s", "PGD s", "")
NAMES = {"am": "AM", "pgd": "PGD"}


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _cells(epoch: Epoch, stops: dict[str, int | None]) -> tuple[str, ...]:
    said = [f"{NAMES[rule]} rule: stop" for rule, when in stops.items() if when == epoch.epoch]
    return (
        str(epoch.epoch),
        f"{epoch.loss:.2f}",
        *map(_percent, (epoch.train_accuracy, epoch.clean_accuracy, epoch.fgsm_accuracy, epoch.pgd_accuracy)),
        "-" if epoch.am is None else f"{epoch.am:.3f}",
        f"{epoch.seconds_training:.1f}",
        f"{epoch.seconds_am:.2f}",
        f"{epoch.seconds_pgd:.2f}",
        ", ".join(said),
    )


def _table(history: list[Epoch], last: int) -> Table:
    table = Table(box=HORIZONTALS, collapse_padding=True, pad_edge=False)
    for name in HEADER[:-1]:
        table.add_column(name.replace(" s", "\ns"), justify="right")
    table.add_column(HEADER[-1], no_wrap=True)
    stops = stopping_epochs(history)
    for epoch in history[-last:]:
        table.add_row(*_cells(epoch, stops))
    return table


class Terminal:
    """Follows a training. Where the output is no terminal, a line for each epoch as it ends."""

    def __init__(self, console: Console, training: Training) -> None:
        self._console, self._training = console, training
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._progress.add_task("", total=training.steps, state="")
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render, transient=True)

    def __enter__(self) -> "Terminal":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._live.stop()
        if self._training.history and self._console.is_terminal:
            self._console.print(_table(self._training.history, len(self._training.history)))

    def begin(self) -> None:
        """Another epoch begins."""
        epoch = len(self._training.history) + 1
        self._progress.reset(
            self._task, description=f"epoch {epoch}/{self._training.settings.epochs}", state="", start=True
        )

    def step(self, step: int, loss: float, accuracy: float) -> None:
        state = f"loss {loss:.2f}  train {_percent(accuracy)} %"
        if step == self._training.steps:
            state += "  checking"
        self._progress.update(self._task, completed=step, state=state)

    def end(self, epoch: Epoch) -> None:
        """An epoch has ended."""
        if not self._console.is_terminal:
            cells = _cells(epoch, stopping_epochs(self._training.history))
            self._console.print(
                "  ".join(f"{n} {v}".strip() for n, v in zip(HEADER, cells, strict=True)), soft_wrap=True
            )

    def _render(self) -> Group:
        return Group(_table(self._training.history, SHOWN), self._progress)


def print_start(console: Console, training: Training) -> None:
    settings, data = training.settings, training.data
    start = "with" if settings.random_start else "without"
    checked = min(settings.pgd_images, len(data.held_out))
    console.print(
        f"{settings.model} ({settings.downsampling}) trains on {len(data.train)} images ({data.name}) against FGSM "
        f"{start} random start, epsilon {settings.epsilon:g}/255, in batches of {training.batch}. "
        f"{len(data.held_out)} images are held out; {checked} of them are attacked "
        f"with FGSM and with PGD-{settings.pgd_steps} after each epoch. Accuracies in %."
    )


def print_verdict(console: Console, training: Training) -> None:
    """What each rule said, and what it cost."""
    history = training.history
    stops = stopping_epochs(history)
    reasons = {"am": training.am_rule.reason, "pgd": training.pgd_rule.reason}
    console.print()
    for rule, when in stops.items():
        if rule == "am" and history[-1].am is None:
            console.print("AM rule: nothing to measure, no layer of this network can alias")
            continue
        seconds = sum(getattr(epoch, f"seconds_{rule}") for epoch in history) / len(history)
        said = "would go on" if when is None else f"stop after epoch {when}: {reasons[rule]}"
        console.print(f"{NAMES[rule]} rule ({1000 * seconds:.0f} ms an epoch): {said}", soft_wrap=True)
