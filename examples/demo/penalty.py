"""Aliasing as a term of the loss: ``python examples/demo/penalty.py``.

Trains the demo's ResNet with strided convolutions without and with ``AliasingPenalty``, from the same
weights and on the same patches, and prints what each aliases in the end, also relative to the layers' outputs,
and how often it is right on held-out patches. Takes under two minutes on two cores.
"""

import argparse
import os
import sys
from functools import partial

# Before PyTorch is loaded, as in the demo.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

try:
    import torch
    from rich.console import Console
    from rich.table import Table

    from alias_ops.nn import AliasingPenalty
    from data import cut_patches
    from measure import measure_model
    from train import Run, train
except ModuleNotFoundError as error:
    sys.exit(f"The example needs {error.name}, not installed here: pip install 'alias-ops[demo]' (or `make demo`).")

PROBE = 100  # images that AM is measured on, as in the paper
WEIGHTS = {"plain": 0.1, "relative": 0.05}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python examples/demo/penalty.py", description=__doc__.split("\n\n")[1])
    parser.add_argument("--epochs", type=int, default=6, metavar="N", help="default: %(default)s")
    parser.add_argument("--patches", type=int, default=128, metavar="N", help="of each photograph (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, patches and order (default: 0)")
    for kind, weight in WEIGHTS.items():
        parser.add_argument(
            f"--{kind}",
            type=float,
            nargs="*",
            default=[weight],
            metavar="W",
            help=f"weights to try (default: {weight})",
        )
    return parser.parse_args()


def _term(penalty: AliasingPenalty, weight: float) -> torch.Tensor:
    return weight * penalty()


@torch.no_grad()
def _of_output(run: Run, probe: torch.Tensor) -> float:
    """AM over the standard deviation of the layer's output, mean over the layers."""
    ratios = []
    hooks = [
        run.model.get_submodule(name).register_forward_hook(
            lambda module, args, output, am=am: ratios.append(am / output.std().item())
        )
        for name, am in measure_model(run.model, probe).items()
    ]
    run.model(probe)
    for hook in hooks:
        hook.remove()
    return sum(ratios) / len(ratios)


def main() -> None:
    """Train without a penalty and once for each weight, and print a table."""
    arguments = _arguments()
    torch.set_num_threads(min(4, torch.get_num_threads()))
    patches, held_out = cut_patches(arguments.patches, max(16, arguments.patches // 4), arguments.seed)
    probe = held_out.images[:: len(held_out) // PROBE][:PROBE]
    table = Table("penalty", "weight", "AM", "AM / output", "loss", "held-out accuracy")
    console = Console(highlight=False)
    trainings = [("none", 0.0), *((kind, weight) for kind in WEIGHTS for weight in getattr(arguments, kind))]
    for kind, weight in trainings:
        run = Run.start("strided", arguments.epochs, arguments.seed)
        penalty = AliasingPenalty(run.model, relative=kind == "relative")
        term = partial(_term, penalty, weight) if weight else None
        with console.status(f"training, penalty {kind} {weight:g}"):
            train(run, patches, held_out, probe, arguments.seed, lambda run: None, term)
        penalty.detach()
        am = sum(run.last.aliasing.values()) / len(run.last.aliasing)
        table.add_row(
            kind,
            f"{weight:g}",
            f"{am:.4f}",
            f"{_of_output(run, probe):.4f}",
            f"{run.last.loss:.4f}",
            f"{run.last.held_out_accuracy:.1%}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
