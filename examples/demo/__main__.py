"""Aliasing of a small ResNet trained with strides, FLC and ASAP: ``python examples/demo``.

Trains on patches of photographs that come with scikit-image, measures every downsampling layer after
every epoch, and writes tables and figures to a folder. Takes about a minute on two cores.
"""

import argparse
import os
import sys
import time
from pathlib import Path

# Before PyTorch is loaded. Threads that wait busily for each other stall where other programs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    from rich.console import Console

    from data import CLASSES, cut_patches
    from figures import draw_photograph, draw_spectra, draw_training
    from measure import downsampling_layers, timed
    from model import VARIANTS
    from report import Dashboard, Timings, print_results, save_results
    from train import Run, train
except KeyboardInterrupt:
    sys.exit(130)
except ModuleNotFoundError as error:
    sys.exit(f"The demo needs {error.name}, not installed here: pip install 'alias-ops[demo]' (or `make demo`).")

PROBE = 100  # images that AM is measured on, as in the paper
THREADS = 4  # more gain nothing on maps this small
INTERRUPTED = 130


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python examples/demo", description=__doc__.split("\n\n")[1])
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), metavar="FOLDER", help="default: %(default)s"
    )
    parser.add_argument("--epochs", type=_positive, default=6, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--patches",
        type=_positive,
        default=128,
        metavar="N",
        help="to train on, of each photograph (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, patches and order (default: 0)")
    return parser.parse_args()


def main() -> int:
    """Train, measure, report; an interrupt while training leads straight to the report."""
    arguments = _arguments()
    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    arguments.output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    console = Console(highlight=False)
    patches, held_out = cut_patches(arguments.patches, max(16, arguments.patches // 4), arguments.seed)
    probe = held_out.images[:: len(held_out) // PROBE][:PROBE]
    console.print(
        f"A small ResNet learns which of {len(CLASSES)} photographs a patch was cut from, three times with the same "
        "initial weights: with strided convolutions, then with FLC and with ASAP pooling before the convolutions, "
        f"which lose their stride. {len(patches)} patches to train on, {len(held_out)} of other regions held out.\n"
    )
    runs: list[Run] = []
    interrupted = False
    with Dashboard(console, VARIANTS, arguments.epochs) as dashboard:
        try:
            for variant in VARIANTS:
                run = Run.start(variant, arguments.epochs, arguments.seed)
                runs.append(run)
                train(run, patches, held_out, probe, arguments.seed, dashboard.show)
        except KeyboardInterrupt:
            interrupted = True
    runs = [run for run in runs if run.history]
    if interrupted:
        console.print("\nInterrupted: what follows is what was measured so far." if runs else "\nInterrupted.")
    if not runs:
        return INTERRUPTED

    with console.status("Timing alias_ops against its reference, drawing the figures"):
        timings: Timings = {
            run.variant: {name: timed(layer) for name, layer in downsampling_layers(run.model, probe).items()}
            for run in runs
        }
        settings = {name: getattr(arguments, name) for name in ("epochs", "patches", "seed")}
        files = save_results(arguments.output, runs, timings, probe, settings)
        files.append(draw_training(runs, arguments.output / "aliasing_over_training.png"))
        files.append(draw_spectra(runs[0].model, arguments.output / "spectra.png"))
        files.append(draw_photograph(arguments.output / "photograph.png"))
    print_results(console, runs, timings, probe)
    console.print(f"\nWritten in {time.monotonic() - start:.0f} s: {', '.join(map(str, files))}", soft_wrap=True)
    return INTERRUPTED if interrupted else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
