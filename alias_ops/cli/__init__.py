"""The command ``alias-ops``: measure the aliasing of a model's layers, describe this installation, time it.

Subcommands are imported when they are called, so that ``--help`` loads no more than it must.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from .._version import __version__
from .errors import UserError

__all__ = ["main"]

FAILED, INTERRUPTED, CLOSED = 2, 130, 141  # the last as a shell says of SIGPIPE

EXAMPLES = """\
examples:
  alias-ops measure torchvision.models:resnet18
  alias-ops measure my_project.nets:build --images photos/ --size 224 --output results/
  alias-ops measure model.pt --unsafe-load --reference
  alias-ops spectrum torchvision.models:resnet18 --images photos/ --output results/
  alias-ops report results/
  alias-ops attack my_project.nets:build photos/ --size 224 --output results/
  alias-ops info
  alias-ops bench --quick
"""

MODEL_HELP = """\
package.module:factory, a function or class that returns the model when called without arguments
(or the model itself), importable from here; or a file with a pickled nn.Module (needs --unsafe-load)"""


RUN_HELP = """\
RUN may hold, each optional:
  results.json   {"epochs": [{"epoch": 1, "am": 0.3, "blocks": {"layer2.0": 0.3}, "pgd_accuracy": 0.4}, ...]},
                 as examples/train_fgsm.py writes it, or a list of what monitor.compute() gave epoch by epoch
  aliasing.json  of `alias-ops measure --output RUN`, or what monitor.compute() gave
  spectra.json   of `alias-ops spectrum --output RUN`, with its pictures
  robustness.json, perturbation*.png
                 accuracies over norms, confidences, and figures: docs/spectra.md
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _radius(text: str) -> float:
    try:
        radius = float(text)
    except ValueError:
        radius = -1.0
    if not radius >= 0:
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text!r}")
    return radius


def _add_run(parser: argparse.ArgumentParser) -> None:
    """What is common to all commands that run a model."""
    parser.add_argument("--size", type=_positive, default=224, metavar="N", help="side of the input (default: 224)")
    parser.add_argument("--batch-size", type=_positive, default=16, metavar="N", help="images a batch (default: 16)")
    parser.add_argument(
        "--samples", type=_positive, default=100, metavar="N", help="images at most, chosen by --seed (default: 100)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, ... (default: where the model is)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for whatever is random (default: 0)")
    parser.add_argument(
        "--unsafe-load", action="store_true", help="unpickle MODEL, which runs any code that is in the file"
    )


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """What is common to the commands that look at layers."""
    parser.add_argument(
        "--images",
        metavar="FOLDER",
        help="folder of images, searched recursively; without it the photographs of scikit-image, or else noise",
    )
    _add_run(parser)
    parser.add_argument("--layers", nargs="+", metavar="NAME", help="only these layers")


def _add_attack(commands: Any, common: argparse.ArgumentParser) -> None:
    attack = commands.add_parser(
        "attack",
        parents=[common],
        help="take high frequencies from images until a model gets them wrong",
        description="The high-frequency attack: low-pass images further and further until a model gets them wrong.",
    )
    attack.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    attack.add_argument(
        "images",
        metavar="IMAGES",
        help="folder of images; if all are in subfolders, these are the classes, numbered in order of their names",
    )
    _add_run(attack)
    attack.add_argument("--predicted", action="store_true", help="the model's own labels, whatever the subfolders")
    attack.add_argument(
        "--step", type=_positive, metavar="N", help="every N-th of the distinct radii (default: about 100 in all)"
    )
    attack.add_argument(
        "--min-radius", type=_radius, metavar="R", help="the smallest radius, in bins (default: a quarter of --size)"
    )
    attack.add_argument("--json", action="store_true", help="print JSON")
    attack.add_argument(
        "--output", metavar="FOLDER", help="write attack.json there, and what the model gets wrong as 8-bit PNGs"
    )


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--traceback", action="store_true", help="show where an error came from (or ALIAS_OPS_DEBUG=1)")
    parser = _Parser(
        prog="alias-ops",
        description="Measure aliasing in convolutional networks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"alias_ops {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    measure = commands.add_parser(
        "measure",
        parents=[common],
        help="aliasing measure of every downsampling layer of a model",
        description="Aliasing measure (AM) of every downsampling layer of a model on photographs.",
    )
    measure.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    _add_inputs(measure)
    measure.add_argument("--reference", action="store_true", help="also time the definition, with its stride-1 map")
    measure.add_argument("--output", metavar="FOLDER", help="write aliasing.csv, aliasing.json and aliasing.png there")

    spectrum = commands.add_parser(
        "spectrum",
        parents=[common],
        help="spectra of images, and of what a model's downsampling layers fold of them",
        description="Spectra of images and, given a MODEL, of what each of its downsampling layers folds of them.",
    )
    spectrum.add_argument("model", nargs="?", metavar="MODEL", help=MODEL_HELP)
    _add_inputs(spectrum)
    spectrum.add_argument(
        "--output",
        default="spectra",
        metavar="FOLDER",
        help="where to write layers.png, images.png, profile.png and spectra.json (default: spectra)",
    )

    report = commands.add_parser(
        "report",
        parents=[common],
        help="one HTML page of a training, measurement or spectra",
        description="One HTML page, which needs no network, of the results in a folder.",
        epilog=RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument(
        "run", metavar="RUN", help="folder with results.json, aliasing.json, spectra.json or robustness.json"
    )
    report.add_argument("--output", metavar="FILE", help="default: report.html in RUN")

    _add_attack(commands, common)

    info = commands.add_parser(
        "info",
        parents=[common],
        help="versions, backends and processor of this installation",
        description="Versions, which implementations run here and why others do not, processor and build.",
    )
    info.add_argument("--json", action="store_true", help="print JSON")

    bench = commands.add_parser(
        "bench",
        parents=[common],
        help="time the ops against their peers on this machine",
        description="Time the ops against everything they compete with, in one run, beside the machine's floor.",
    )
    bench.add_argument("--quick", action="store_true", help="a few cases, in a minute")
    bench.add_argument("-k", metavar="EXPRESSION", help="only the cases whose name matches, as pytest's -k")
    bench.add_argument(
        "--one-process", action="store_true", help="keep the process, and what its allocator has, from case to case"
    )
    bench.add_argument(
        "--keep-memory",
        action="store_true",
        help="what anybody frees stays with the process, where glibc does the malloc",
    )
    bench.add_argument("--json", default="bench.json", metavar="FILE", help="results (default: bench.json)")
    bench.add_argument("--figures", metavar="FOLDER", help="draw bench_*.png there")
    bench.add_argument("--device", default="cpu", metavar="DEVICE", help="where the tensors are (default: cpu)")
    bench.add_argument("--upstream", metavar="FOLDER", help="with the published FLC module, to measure it itself")
    bench.add_argument("--strict", action="store_true", help="fail where a bar is missed")
    return parser


def _complain(sentence: str, error: BaseException, show_traceback: bool) -> None:
    if show_traceback:
        traceback.print_exception(error)
    print(f"alias-ops: {sentence}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit status: 0, 2 for an error that was explained in one sentence on stderr, 130 for Ctrl-C, 141 if nobody
        reads the output to its end.
    """
    show_traceback = os.environ.get("ALIAS_OPS_DEBUG", "0") not in ("", "0")
    try:
        arguments = _parser().parse_args(argv)
        arguments.argv = sys.argv[1:] if argv is None else list(argv)
        show_traceback = show_traceback or arguments.traceback
        import_module(f".{arguments.command}", __name__).run(arguments)
        sys.stdout.flush()  # what cannot be written any more is said here and not when Python ends
    except BrokenPipeError:  # whoever read it has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except UserError as error:
        _complain(str(error), error, show_traceback)
        return FAILED
    except KeyboardInterrupt as error:
        _complain(str(error) or "interrupted", error, show_traceback)
        return INTERRUPTED
    return 0
