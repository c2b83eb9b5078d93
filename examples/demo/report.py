"""The terminal: live progress, tables at the end, and the same numbers as CSV and JSON."""

import csv
import dataclasses
import json
import math
from pathlib import Path
from types import TracebackType

import torch
from rich.box import HORIZONTALS
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import alias_ops
from data import CLASSES
from measure import Timing
from model import VARIANTS
from train import Run

__all__ = ["Dashboard", "Timings", "print_results", "save_results"]

# variant -> layer -> timing
Timings = dict[str, dict[str, Timing]]

HOW_MEASURED = (
    "AM, the aliasing measure, is what a layer's output holds of frequencies that its smaller grid cannot carry: they "
    "fold onto others. It is the L1 norm of their spectrum, averaged over maps. FLC and ASAP remove them beforehand; "
    "what they leave is the highest (Nyquist) frequency of an even grid, which the measure counts as folded."
)


def _table() -> Table:
    return Table(box=HORIZONTALS, collapse_padding=True, pad_edge=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


class Dashboard:
    """One progress bar per variant and the AM of every downsampling layer, redrawn as the runs advance."""

    def __init__(self, console: Console, variants: tuple[str, ...], epochs: int) -> None:
        self._console = console
        self._runs: dict[str, Run] = {}
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(bar_width=16, pulse_style="bar.back"),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._tasks = {v: self._progress.add_task(v, start=False, total=1.0, state="waiting") for v in variants}
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)

    def __enter__(self) -> "Dashboard":
        self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print()

    def show(self, run: Run) -> None:
        """Take over what has changed in ``run``."""
        task = self._tasks[run.variant]
        if run.variant not in self._runs:
            self._runs[run.variant] = run
            self._progress.start_task(task)
        done = len(run.history) - 1
        epoch = min(done + 1, self._epochs)
        state = f"epoch {epoch}/{self._epochs}"
        if run.loss is not None:
            state += f"  loss {run.loss:.2f}  train {_percent(run.train_accuracy):>5}"
            state += f"  held out {_percent(run.last.held_out_accuracy):>5}"
        self._progress.update(task, completed=run.progress, state=state)
        if run.finished:
            self._progress.stop_task(task)

    def _render(self) -> Group:
        layers = next((list(run.last.aliasing) for run in self._runs.values() if run.history), [])
        table = _table()
        table.add_column("layer")
        for variant in self._tasks:
            table.add_column(variant, justify="right")
        for layer in layers:
            table.add_row(layer, *(self._cell(variant, layer) for variant in self._tasks))
        title = Text("\nAliasing measure (AM) of each layer, before training \N{RIGHTWARDS ARROW} now", style="bold")
        return Group(self._progress, title, table) if layers else Group(self._progress)

    def _cell(self, variant: str, layer: str) -> str:
        run = self._runs.get(variant)
        if run is None or not run.history:
            return ""
        first, now = run.history[0].aliasing[layer], run.last.aliasing[layer]
        return f"{first:.3f} \N{RIGHTWARDS ARROW} {now:.3f}"


def _layer_table(timings: Timings) -> Table:
    table = _table()
    table.add_column("layer")
    table.add_column("variant")
    table.add_column("AM", justify="right")
    table.add_column("of\nstrided", justify="right")
    for name in ("alias_ops", "reference"):
        table.add_column(f"{name}\nms", justify="right")
    table.add_column("speed-up", justify="right")
    for layer, strided in timings["strided"].items():
        for variant, measured in timings.items():
            t = measured[layer]
            name = layer if t is strided else ""
            share = "" if t is strided else f"{100 * t.aliasing / strided.aliasing:.1f} %"
            times = (f"{t.alias_ops_ms:.2f}", f"{t.reference_ms:.2f}", f"{t.speedup:.1f}\N{MULTIPLICATION SIGN}")
            table.add_row(name, variant, f"{t.aliasing:.4f}", share, *times)
        if len(timings) > 1:
            table.add_section()
    return table


def _accuracy_table(runs: list[Run]) -> Table:
    table = _table()
    table.add_column("variant")
    for name in ("epochs", "train", "held out"):
        table.add_column(name, justify="right")
    for run in runs:
        accuracies = _percent(run.last.train_accuracy), _percent(run.last.held_out_accuracy)
        table.add_row(run.variant, str(len(run.history) - 1), *accuracies)
    table.add_row("chance", "", *[_percent(1 / len(CLASSES))] * 2, style="dim")
    return table


def print_results(console: Console, runs: list[Run], timings: Timings, probe: torch.Tensor) -> None:
    """The tables of everything measured, and how to read them."""
    console.print("\n[bold]Accuracy[/bold]")
    console.print(_accuracy_table(runs))
    console.print("\n[bold]Aliasing after training, and the time it takes to measure[/bold]")
    console.print(_layer_table(timings))
    every = [t for measured in timings.values() for t in measured.values()]
    gap = max(abs(t.aliasing - t.reference_aliasing) / t.reference_aliasing for t in every)
    console.print(
        f"Measured on the layers' activations for {len(probe)} held-out patches. alias_ops takes the output that a "
        "strided layer has computed anyway; the reference, the definition in torch.fft, runs the layer with stride 1. "
        f"The two agree within {10 ** math.ceil(math.log10(max(gap, 1e-7))):.0e}.\n"
    )
    console.print(HOW_MEASURED)


def save_results(
    folder: Path, runs: list[Run], timings: Timings, probe: torch.Tensor, settings: dict[str, object]
) -> list[Path]:
    """Write layers.csv, results.json and models.pt (the probe images and every model's weights)."""
    fields = ["variant", "layer", *(f.name for f in dataclasses.fields(Timing)), "speedup"]
    with (folder / "layers.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(fields)
        for variant, measured in timings.items():
            for layer, t in measured.items():
                writer.writerow([variant, layer, *dataclasses.astuple(t), t.speedup])
    results = {
        "settings": settings,
        "versions": {"alias_ops": alias_ops.__version__, "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "finished": [run.variant for run in runs] == list(VARIANTS) and all(run.finished for run in runs),
        "classes": CLASSES,
        "variants": {
            run.variant: {
                "history": [dataclasses.asdict(epoch) for epoch in run.history],
                "layers": {n: {**dataclasses.asdict(t), "speedup": t.speedup} for n, t in timings[run.variant].items()},
            }
            for run in runs
        },
    }
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    torch.save({"probe": probe, "models": {run.variant: run.model.state_dict() for run in runs}}, folder / "models.pt")
    return [folder / name for name in ("layers.csv", "results.json", "models.pt")]
