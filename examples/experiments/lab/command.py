"""The command line of every experiment and of all of them, and the processes that the trainings run in."""

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from rich.console import Console

from alias_ops.plots import STYLE
from fgsm import data
from fgsm.settings import positive
from lab.recipe import Recipe
from lab.report import Finding, Report
from lab.scale import SCALES, Scale
from lab.training import train

__all__ = ["Experiment", "Job", "main", "run", "trainings"]

INTERRUPTED = 130
STORE = "runs"


@dataclass(frozen=True)
class Job:
    """Something that takes long and stays in the store: ``work(what, store)`` says whether it was there already."""

    what: Hashable
    work: Callable[[Any, Path], bool]


@dataclass(frozen=True)
class Experiment:
    """One of the claims.

    Args:
        name: of its script and of its folder.
        title: the claim's subject, in a few words.
        jobs: what has to be in the store first, at a scale.
        report: evaluates and writes; gets the scale, the store and the report.
        alone: times something, so that nothing may run beside it.
    """

    name: str
    title: str
    jobs: Callable[[Scale], list[Job]]
    report: Callable[[Scale, Path, Report], None]
    alone: bool = False


def trainings(recipes: Sequence[Recipe]) -> list[Job]:
    return [Job(recipe, train) for recipe in recipes]


def _timed_job(job: Job, store: Path) -> float | None:
    start = time.perf_counter()
    return None if job.work(job.what, store) else time.perf_counter() - start


def _write(experiment: Experiment, scale: Scale, output: Path) -> tuple[float, list[Finding]]:
    start = time.perf_counter()
    report = Report(output / experiment.name, scale.name)
    with mpl.rc_context(STYLE):
        experiment.report(scale, output / STORE, report)
    seconds = time.perf_counter() - start
    settings = {"data": "photographs" if scale.data == "photographs" else "CIFAR-10", "imagenet": bool(scale.imagenet)}
    jobs = [str(job.what) for job in experiment.jobs(scale)]
    report.close({**settings, "trainings": jobs}, seconds)
    return seconds, report.findings


class _Here:
    """An executor without processes, where one device does everything."""

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(work(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    torch.set_num_threads(1)


@contextmanager
def _workers(count: int) -> Iterator[Any]:
    """Processes of one thread each: nothing of these sizes gains from a second thread what a second training gains."""
    if count == 1:
        yield _Here()
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), _prepare) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got {text!r}")
    return Path(text)


def _parse(experiments: Sequence[Experiment], arguments: Sequence[str] | None) -> argparse.Namespace:
    several = len(experiments) > 1
    about = "The papers' claims, tried." if several else f"{experiments[0].title}."
    parser = argparse.ArgumentParser(description=f"{about} Trains what it needs, writes tables and figures.")
    if several:
        names = [experiment.name for experiment in experiments]
        parser.add_argument("only", nargs="*", metavar="NAME", help=f"some of them alone: {', '.join(names)}")
    parser.add_argument(
        "--scale", choices=SCALES, default="cpu", help="cpu (default): minutes of two cores. gpu: the papers' networks "
        "and schedules. tiny: shows that everything runs, and nothing else"
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("experiments_output"), metavar="FOLDER", help="%(default)s")
    parser.add_argument("--data", type=_folder, metavar="FOLDER", help="with CIFAR-10; default: bundled photographs")
    parser.add_argument("--imagenet", type=_folder, metavar="FOLDER", help="with train and val; default: photographs")
    parser.add_argument("--upstream", type=_folder, metavar="FOLDER", help="with the published FLC and ASAP modules")
    workers = 1 if torch.cuda.is_available() else os.cpu_count() or 1
    parser.add_argument("--workers", type=positive, default=workers, metavar="N", help="processes (%(default)s)")
    options = parser.parse_args(arguments)
    if several and (unknown := set(options.only) - set(names)):
        parser.error(f"no experiment {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.data:
        try:
            data.cifar10(options.data)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    return options


def _train(jobs: list[Job], store: Path, pool: Any, console: Console) -> None:
    running = {pool.submit(_timed_job, job, store): job for job in jobs}
    for index, future in enumerate(as_completed(running), 1):
        seconds = future.result()
        took = "at hand" if seconds is None else f"{seconds:.0f} s"
        console.print(f"[{index}/{len(jobs)}] {running[future].what}: {took}", markup=False, soft_wrap=True)


def _print(experiment: Experiment, seconds: float, findings: list[Finding], folder: Path, console: Console) -> None:
    console.print(f"\n{experiment.title} ({seconds:.0f} s, {folder})", soft_wrap=True)
    for finding in findings:
        console.print(f"  {finding.held:<7} {finding.claim}: {finding.measured}", markup=False, soft_wrap=True)


def main(experiments: Sequence[Experiment], arguments: Sequence[str] | None = None) -> int:
    """Run experiments; returns the exit status.

    Args:
        experiments: all, or the one of a script.
        arguments: of the command line; None for the process's own.
    """
    options = _parse(experiments, arguments)
    given = {"imagenet": options.imagenet, "upstream": options.upstream}
    scale = replace(SCALES[options.scale], data=str(options.data or "photographs"), **given)
    chosen = [e for e in experiments if not getattr(options, "only", ()) or e.name in options.only]
    console = Console(highlight=False)
    jobs = list(dict.fromkeys(job for experiment in chosen for job in experiment.jobs(scale)))
    start = time.perf_counter()
    try:
        with _workers(options.workers) as pool:
            _train(jobs, options.output / STORE, pool, console)
            beside = [experiment for experiment in chosen if not experiment.alone]
            running = {pool.submit(_write, e, scale, options.output): e for e in beside}
            for future in as_completed(running):
                _print(running[future], *future.result(), options.output / running[future].name, console)
        for experiment in chosen:
            if experiment.alone:
                found = _write(experiment, scale, options.output)
                _print(experiment, *found, options.output / experiment.name, console)
    except KeyboardInterrupt:
        console.print("\nInterrupted. What has been trained is kept: the same command goes on.")
        return INTERRUPTED
    console.print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes, in {options.output}")
    return 0


def run(experiment: Experiment) -> None:
    """What a script does when it is called."""
    sys.exit(main([experiment]))
