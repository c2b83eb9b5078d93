"""The command line."""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["ALIAS_FREE", "Settings", "parse", "positive"]

MODELS = ("small", "preact_resnet18", "wrn_28_10")
ALIAS_FREE = ("flc", "asap")
DOWNSAMPLING = ("strided", *ALIAS_FREE, "max", "avg")
RULES = ("aliasing", "pgd", "never")

DESCRIPTION = """\
Single-step adversarial training (FGSM with random start), with two rules beside each other that say when it overfits
to its own attack: one watches the aliasing measure (AM) of the downsampling layers, the other attacks the network
with PGD after every epoch. AM is measured during the training's own forwards, on the attacked training images, batch
statistics in training mode; the attack's and the checks' forwards are not measured. Runs on patches of bundled
photographs, or on CIFAR-10 given its folder; under torchrun in several processes.
"""


@dataclass(frozen=True)
class Settings:
    """What the options say, as :func:`parse` describes them; ``epsilon`` in 1/255."""

    data: Path | None
    patches: int
    model: str
    downsampling: str
    epsilon: float
    random_start: bool
    epochs: int
    batch: int
    lr: float
    every: int
    max_samples: int
    threshold: float
    pgd_steps: int
    pgd_images: int
    pgd_drop: float
    stop: str
    seed: int
    output: Path
    resume: bool

    def of_the_run(self) -> dict[str, object]:
        """Those that a resumed run must share: all that its numbers depend on."""
        free = {"data", "output", "resume", "stop"}
        return {name: value for name, value in asdict(self).items() if name not in free}


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or above, got {text!r}")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def parse(arguments: list[str] | None = None) -> Settings:
    """Settings from the command line; leaves with a message where an option is wrong, as argparse does."""
    parser = argparse.ArgumentParser(prog="train_fgsm.py", description=DESCRIPTION)
    data, training = parser.add_argument_group("data and network"), parser.add_argument_group("training")
    rules = parser.add_argument_group("the rules")
    data.add_argument(
        "--data", type=Path, metavar="FOLDER", help="with CIFAR-10's cifar-10-batches-py (default: the photographs)"
    )
    data.add_argument(
        "--patches", type=positive, default=128, metavar="N", help="to train on, of each photograph (%(default)s)"
    )
    data.add_argument(
        "--model", choices=MODELS, help="small, a narrow PreActResNet, for photographs, else preact_resnet18"
    )
    data.add_argument("--downsampling", choices=DOWNSAMPLING, default="strided", help="(%(default)s)")
    training.add_argument(
        "--epsilon", type=_above_zero, default=8, metavar="E", help="of the attacks, in 1/255 (%(default)s)"
    )
    training.add_argument(
        "--random-start",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="of FGSM (yes); without it the network overfits to the attack sooner",
    )
    training.add_argument("--epochs", type=positive, metavar="N", help="15 for photographs, 30 for CIFAR-10")
    training.add_argument(
        "--batch", type=positive, default=128, metavar="N", help="images, of all processes together (%(default)s)"
    )
    training.add_argument(
        "--lr",
        type=_above_zero,
        default=0.2,
        metavar="R",
        help="in the middle of the training, where it is highest (%(default)s); it comes from 0 and goes back to 0",
    )
    training.add_argument("--seed", type=_seed, default=0, metavar="N", help="(%(default)s)")
    training.add_argument("--output", type=Path, default=Path("fgsm_output"), metavar="FOLDER", help="(%(default)s)")
    training.add_argument("--resume", action="store_true", help="go on from the last whole epoch in the output folder")
    rules.add_argument(
        "--stop", choices=RULES, default="never", help="which rule ends the training; both are reported (%(default)s)"
    )
    rules.add_argument(
        "--every", type=positive, default=10, metavar="N", help="measure AM in every n-th training step (%(default)s)"
    )
    rules.add_argument(
        "--max-samples", type=positive, default=100, metavar="N", help="images of a batch to measure (%(default)s)"
    )
    rules.add_argument(
        "--threshold",
        type=_above_zero,
        default=0.33,
        metavar="T",
        help="stop where AM is above its median by more (%(default)s)",
    )
    rules.add_argument("--pgd-steps", type=positive, default=5, metavar="N", help="of the check (%(default)s)")
    rules.add_argument(
        "--pgd-images", type=positive, default=128, metavar="N", help="held-out images of the check (%(default)s)"
    )
    rules.add_argument(
        "--pgd-drop",
        type=_above_zero,
        default=0.2,
        metavar="D",
        help="stop where accuracy under PGD falls by more in one epoch (%(default)s)",
    )
    options = vars(parser.parse_args(arguments))
    bundled = options["data"] is None
    options["model"] = options["model"] or ("small" if bundled else "preact_resnet18")
    options["epochs"] = options["epochs"] or (15 if bundled else 30)
    return Settings(**options)
