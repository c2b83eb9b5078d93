"""Adversarial training with aliasing watched: ``python examples/train_fgsm.py``, ``--help`` for the options.

Trains a network against FGSM and reports, epoch by epoch, what two early stopping rules say: one from the aliasing
measure that the monitor takes on the way, one from a PGD attack. Without arguments it takes two to four minutes on two
cores. Several processes: ``torchrun --nproc-per-node 2 examples/train_fgsm.py``.
"""

import os
import sys

# Before PyTorch is loaded. Threads that wait busily for each other stall where other programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    from rich.console import Console

    from fgsm import data, figure, results
    from fgsm.processes import Interrupt, Processes
    from fgsm.settings import Settings, parse
    from fgsm.terminal import Terminal, print_start, print_verdict
    from fgsm.training import Diverged, Training
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as error:
    sys.exit(f"This example needs {error.name}, not installed here: pip install 'alias-ops[attacks,demo]'.")

THREADS = 4  # more gain nothing on maps as small as those of the small network
INTERRUPTED = 130


def train(settings: Settings, processes: Processes, interrupt: Interrupt) -> int:
    """Train, check, save after every epoch, until the last one, a rule or an interrupt; returns the exit status."""
    first = processes.rank == 0
    console = Console(highlight=False, quiet=not first)
    try:
        dataset = data.cifar10(settings.data) if settings.data else data.photographs(settings.patches, settings.seed)
        training = Training(settings, dataset, processes)
        if settings.resume:
            results.load(training, settings.output)
        settings.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        sys.exit(f"train_fgsm.py: {error}")
    print_start(console, training)
    interrupted = False
    with Terminal(console, training) as terminal:
        while len(training.history) < settings.epochs and not training.stopped and not interrupted:
            terminal.begin()
            epoch = training.epoch(terminal.step, lambda: interrupt.asked)
            if epoch is not None:
                if first:
                    results.save(training, settings.output)
                terminal.end(epoch)
            interrupted = processes.totals(interrupt.asked)[0] > 0
    if training.history:
        print_verdict(console, training)
        if first:
            title = f"{settings.model} ({settings.downsampling}), {dataset.name}, FGSM {settings.epsilon:g}/255"
            figure.draw(training.history, title, settings.output / results.FIGURE)
    files = ", ".join(results.written(settings.output)) or "nothing yet"
    console.print(f"\n{'Interrupted. ' * interrupted}In {settings.output}: {files}", soft_wrap=True)
    if interrupted and training.history:
        console.print(f"--resume goes on with epoch {len(training.history) + 1}.")
    return INTERRUPTED if interrupted else 0


def main(arguments: list[str] | None = None) -> int:
    settings = parse(arguments)
    if settings.model == "small":
        torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    processes = Processes.join()
    try:
        with Interrupt(processes.world) as interrupt:
            return train(settings, processes, interrupt)
    except Diverged as error:
        sys.exit(f"train_fgsm.py: {error}")
    finally:
        processes.leave()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
