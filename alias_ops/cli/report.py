"""``alias-ops report``: one HTML page of a folder of results."""

import base64
import io
import math
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import plots
from .._version import __version__
from .errors import UserError
from .output import replace
from .run_folder import Run, read_run

__all__ = ["run"]

TEMPLATE = "report.html.jinja"
DEFAULT = "report.html"
OF_PICTURES = {
    "layers.png": (
        "What each downsampling layer folds",
        "Spectra of each layer's stride-1 map, with its half-band, and of what folded into it.",
    ),
    "images.png": ("Spectrum of the images", "Mean log-magnitude spectrum of the images, channel by channel."),
    "profile.png": (
        "Spectrum over frequency",
        "Mean log-magnitude of the images over the distance to zero frequency.",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A figure of the page; ``source`` is a data URI, ``text`` what it shows for those who do not see it."""

    title: str
    text: str
    source: str


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _svg(axes: Any) -> str:
    import matplotlib as mpl

    file = io.BytesIO()
    # Of the same numbers the same bytes: no date, no random names.
    with mpl.rc_context({"svg.hashsalt": "alias_ops"}):
        axes.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return _uri(file.getvalue(), "svg+xml")


def _means(history: list[Any]) -> list[float | None]:
    """AM of each epoch as one number; of blocks their mean."""
    means: list[float | None] = []
    for am in history:
        values = [v for v in (am.values() if isinstance(am, Mapping) else [am]) if v is not None and math.isfinite(v)]
        means.append(sum(values) / len(values) if values else None)
    return means


def _from_to(values: list[float | None], form: str) -> str:
    there = [value for value in values if value is not None and math.isfinite(value)]
    return f"from {there[0]:{form}} to {there[-1]:{form}}" if there else "not measured"


def _robust(accuracies: dict[str, list[float | None]]) -> str | None:
    """The accuracy that AM is drawn against: the last one that is neither clean nor of the training."""
    return next((name for name in reversed(accuracies) if name not in ("clean", "train")), None)


def _training(run: Run) -> list[Picture]:
    pictures = []
    stop = next((stop.epoch for stop in run.stops if stop.epoch is not None), None)
    am, span = _means(run.history), f"over {len(run.epochs)} epochs"
    if run.history:
        said = "" if stop is None else f"; a rule said stop in epoch {stop}"
        axes = plots.plot_training(run.history, epochs=run.epochs, stop=stop)
        pictures.append(Picture("Aliasing", f"AM {span}, {_from_to(am, '.3g')}{said}.", _svg(axes)))
    if run.accuracies:
        axes = plots.plot_accuracy(run.epochs, run.accuracies, xlabel="epoch")
        parts = ", ".join(f"{name} {_from_to(line, '.1%')}" for name, line in run.accuracies.items())
        pictures.append(Picture("Accuracies", f"Accuracies {span}: {parts}.", _svg(axes)))
    robust = _robust(run.accuracies)
    if run.history and robust is not None:
        axes = plots.plot_correlation(am, run.accuracies[robust])
        text = f"AM of each epoch against its {robust} accuracy. {axes.get_title(loc='left')}."
        pictures.append(Picture(f"Aliasing and {robust} accuracy", text, _svg(axes)))
    return pictures


def _robustness(run: Run) -> list[Picture]:
    found, pictures = run.robustness, []
    if found.accuracies:
        axes = plots.plot_accuracy(found.norms, found.accuracies, xlabel=found.norm)
        parts = ", ".join(f"{name} {_from_to(line, '.1%')}" for name, line in found.accuracies.items())
        text = f"Accuracy over the {found.norm}: {parts}."
        pictures.append(Picture("Accuracy under attack", text, _svg(axes)))
    if found.confidences:
        axes = plots.plot_confidence(found.confidences)
        parts = ", ".join(
            f"{name} {_cell(of.clean.mean, '.1%')} on clean images, {_cell(of.adversarial.mean, '.1%')} on attacked "
            f"ones, {_cell(of.adversarial.wrong, '.1%')} where it is wrong on these"
            for name, of in found.confidences.items()
        )
        pictures.append(Picture("Confidence", f"Mean confidence: {parts}.", _svg(axes)))
    return pictures


def _picture(name: str, content: bytes) -> Picture:
    of_attack = ("What an attack adds", f"Mean log-magnitude spectrum of perturbations, of {Path(name).stem}.")
    return Picture(*OF_PICTURES.get(name, of_attack), _uri(content, "png"))


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None or not math.isfinite(value) else format(value, form)


def _table(run: Run) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the epochs."""
    am = _means(run.history) or [None] * len(run.epochs)
    rows = [
        [str(epoch), _cell(am[index], ".4g"), *(_cell(line[index], ".1%") for line in run.accuracies.values())]
        for index, epoch in enumerate(run.epochs)
    ]
    return ["epoch", "AM", *run.accuracies], rows


def render(run: Run) -> str:
    """The page, as HTML; every text in it is escaped by the template."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    header, rows = _table(run)
    return environment.get_template(TEMPLATE).render(
        run=run,
        training=_training(run),
        header=header,
        rows=rows,
        layers=[(layer.name, layer.kind, _cell(layer.am, ".4g")) for layer in run.layers],
        robustness=_robustness(run),
        pictures=[_picture(name, content) for name, content in run.pictures.items()],
        version=__version__,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


def run(arguments: Namespace) -> None:
    """Write the page of a folder of results.

    Args:
        arguments: as parsed by ``alias_ops.cli``.

    Raises:
        UserError: what is wrong in one sentence; nothing was written then.
    """
    for library in ("matplotlib", "jinja2"):
        if find_spec(library) is None:
            raise UserError(f"report needs {library}; pip install 'alias-ops[cli]'")
    folder = Path(arguments.run)
    page = render(read_run(folder))
    target = Path(arguments.output) if arguments.output else folder / DEFAULT
    if target.is_dir():
        raise UserError(f"--output {target} is a folder, expected a file")
    replace(target, page.encode())
    print(target)
