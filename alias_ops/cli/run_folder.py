"""RUN of ``alias-ops report``: what a folder of results holds, read and checked."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from pathlib import Path
from typing import Any

from ..spectra import Confidence, ConfidenceReport
from .errors import UserError

__all__ = ["Layer", "Robustness", "Run", "Stop", "read_run"]

TRAINING, MEASURED, SPECTRA, ROBUSTNESS = "results.json", "aliasing.json", "spectra.json", "robustness.json"
PICTURES, PERTURBATIONS = ("layers.png", "images.png", "profile.png"), "perturbation*.png"
PNG = b"\x89PNG\r\n\x1a\n"
ACCURACY = "_accuracy"


@dataclass(frozen=True)
class Layer:
    """A layer and its AM; None where nothing was measured."""

    name: str
    kind: str
    am: float | None


@dataclass(frozen=True)
class Stop:
    """What a rule said: the epoch, or None, and why."""

    rule: str
    epoch: int | None
    reason: str | None


@dataclass
class Robustness:
    """Accuracies over the norm that a perturbation may have, name -> one a norm, 0..1; and confidences."""

    norm: str = "norm of the perturbation"
    norms: list[float] = field(default_factory=list)
    accuracies: dict[str, list[float | None]] = field(default_factory=dict)
    confidences: dict[str, ConfidenceReport] = field(default_factory=dict)


@dataclass
class Run:
    """What is in a folder.

    Args:
        name: of the folder.
        epochs: their numbers.
        history: AM of each epoch, a number or one for each block; empty where none was measured.
        accuracies: name -> accuracy of each epoch, 0..1.
        stops: what the rules said.
        facts: settings and circumstances, name -> value.
        layers: as measured.
        robustness: under attacks.
        pictures: file name -> content of a PNG.
    """

    name: str
    epochs: list[int] = field(default_factory=list)
    history: list[Any] = field(default_factory=list)
    accuracies: dict[str, list[float | None]] = field(default_factory=dict)
    stops: list[Stop] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    robustness: Robustness = field(default_factory=Robustness)
    pictures: dict[str, bytes] = field(default_factory=dict)


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error})") from error


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Real) or isinstance(value, bool):
        raise UserError(f"{where} must be a number or null, got {value!r}")
    return float(value)


def _numbers(values: Any, where: str) -> dict[str, float | None]:
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be an object of numbers, got {type(values).__name__}")
    return {str(name): _number(value, f"{where}, {name!r}") for name, value in values.items()}


def _facts(content: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Plain values, of nested objects too, as text."""
    found: dict[str, str] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found.update(_facts(value, f"{prefix}{name} "))
        elif isinstance(value, (str, int, float)):
            found[f"{prefix}{name}"] = str(value)
    return found


def _epoch(entry: Any, where: str) -> tuple[Any, dict[str, float | None]]:
    """AM of an epoch (a number, or blocks and their AM), and its accuracies."""
    if not isinstance(entry, Mapping):
        return _number(entry, where), {}
    accuracies = {
        str(name).removesuffix(ACCURACY): _number(value, f"{where}, {name!r}")
        for name, value in entry.items()
        if str(name).endswith(ACCURACY)
    }
    if entry.keys() & {"am", "blocks", "epoch"} or accuracies:
        blocks = _numbers(entry.get("blocks") or {}, f"{where}, blocks")
        return blocks or _number(entry.get("am"), f"{where}, am"), accuracies
    return _numbers(entry, where), {}


def _read_training(run: Run, path: Path) -> None:
    content = _load(path)
    epochs = content.get("epochs") if isinstance(content, Mapping) else content
    if not isinstance(epochs, list) or not epochs:
        raise UserError(f"{path} must be a list of epochs, or an object with one under 'epochs', of at least one epoch")
    read = [_epoch(entry, f"{path}: epoch {index}") for index, entry in enumerate(epochs, 1)]
    for index, entry in enumerate(epochs, 1):
        number = entry.get("epoch", index) if isinstance(entry, Mapping) else index
        if not isinstance(number, int):
            raise UserError(f"{path}: epoch {index}, 'epoch' must be a whole number, got {number!r}")
        run.epochs.append(number)
    measured = [am for am, _ in read]
    if any(isinstance(am, dict) for am in measured):
        measured = [am if isinstance(am, dict) else {} for am in measured]
    run.history = measured if any(am not in (None, {}) for am in measured) else []
    names = dict.fromkeys(name for _, accuracies in read for name in accuracies)
    run.accuracies = {name: [accuracies.get(name) for _, accuracies in read] for name in names}
    if isinstance(content, Mapping):
        run.facts.update(_facts({k: v for k, v in content.items() if k not in ("epochs", "stops")}))
        for rule, said in _stops(content.get("stops"), path).items():
            run.stops.append(Stop(rule, said.get("epoch"), said.get("reason")))


def _stops(stops: Any, path: Path) -> dict[str, Mapping[str, Any]]:
    found = {} if stops is None else stops
    valid = isinstance(found, Mapping) and all(
        isinstance(one, Mapping) and isinstance(one.get("epoch"), (int, type(None))) for one in found.values()
    )
    if not valid:
        raise UserError(f'{path}: stops must be an object, rule -> {{"epoch": number or null, "reason": text}}')
    return {str(rule): said for rule, said in found.items()}


def _read_layers(run: Run, path: Path) -> None:
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must be an object, got a {type(content).__name__}")
    if not isinstance(content.get("layers"), list):
        measured = _numbers(content, str(path))
        run.layers = [Layer(name or "(the model)", "", am) for name, am in measured.items()]
        return
    run.layers = []
    for index, row in enumerate(content["layers"]):
        if not isinstance(row, Mapping) or "layer" not in row:
            raise UserError(f"{path}: entry {index} of layers must be an object with 'layer' and 'am', got {row!r}")
        am = _number(row.get("am"), f"{path}: {row['layer']!r}")
        run.layers.append(Layer(str(row["layer"]), str(row.get("kind", "")), am))
    run.facts.update(_facts({k: v for k, v in content.items() if k not in ("layers", "radial_profile")}))


def _list(values: Any, where: str) -> list[float | None]:
    if not isinstance(values, list):
        raise UserError(f"{where} must be a list of numbers, got {type(values).__name__}")
    return [_number(value, f"{where}, entry {index}") for index, value in enumerate(values, 1)]


def _confidence(content: Any, where: str) -> Confidence:
    values = _numbers(content, where)
    expected = [one.name for one in fields(Confidence)]
    if set(values) != set(expected):
        raise UserError(f"{where} must have {', '.join(expected)}, got {', '.join(values) or 'nothing'}")
    read = {name: math.nan if value is None else value for name, value in values.items()}
    return Confidence(**{**read, "images": int(values["images"] or 0)})  # type: ignore[arg-type]


def _read_robustness(run: Run, path: Path) -> None:
    content = _load(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} must be an object, got a {type(content).__name__}")
    found = run.robustness = Robustness(str(content.get("norm", Robustness.norm)))
    norms = _list(content.get("norms", []), f"{path}: norms")
    found.norms = [norm for norm in norms if norm is not None]
    for kind in ("accuracies", "confidences"):
        if not isinstance(content.get(kind, {}), Mapping):
            raise UserError(f"{path}: {kind} must be an object, name -> values")
    for name, values in content.get("accuracies", {}).items():
        found.accuracies[name] = _list(values, f"{path}: accuracies, {name!r}")
        if not len(found.accuracies[name]) == len(found.norms) == len(norms):
            raise UserError(f"{path}: accuracies, {name!r} must have one value for each of norms, which are numbers")
    for name, report in content.get("confidences", {}).items():
        parts = [report.get(part) if isinstance(report, Mapping) else None for part in ("clean", "adversarial")]
        where = f"{path}: confidences, {name!r}"
        found.confidences[name] = ConfidenceReport(*(_confidence(part, where) for part in parts))


def read_run(folder: Path) -> Run:
    """What a folder of results holds.

    results.json, of a training: ``{"epochs": [...], "stops": {...}, ...}``, as examples/train_fgsm.py writes it. Each
    epoch is an object with ``epoch`` (its number), ``am`` or ``blocks`` (block -> AM), and any number of accuracies in
    0..1 under names that end with "_accuracy"; or it is what ``AliasingMonitor.compute()`` or ``mean()`` returned. All
    else in the file is listed as it is. aliasing.json, of ``alias-ops measure --output``, or what ``compute()``
    returned. spectra.json and the PNGs, of ``alias-ops spectrum --output``. robustness.json: ``norms`` and, name -> one
    a norm, ``accuracies`` in 0..1, ``norm`` saying which and in which unit; ``confidences``, name ->
    ``dataclasses.asdict`` of a ``ConfidenceReport``. perturbation*.png: figures of ``plots.plot_perturbation``.

    Args:
        folder: with at least one of these.

    Raises:
        UserError: there is none, or one is not of this kind, naming the file and the place.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    run = Run(folder.resolve().name)
    readers = {
        SPECTRA: _read_layers,
        MEASURED: _read_layers,
        TRAINING: _read_training,
        ROBUSTNESS: _read_robustness,
    }
    found = [name for name in readers if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder} holds no {TRAINING}, {MEASURED}, {SPECTRA} or {ROBUSTNESS}")
    for name in found:
        readers[name](run, folder / name)
    perturbations = sorted(path.name for path in folder.glob(PERTURBATIONS))
    for name in [*(PICTURES if SPECTRA in found else ()), *perturbations]:
        if (folder / name).is_file():
            run.pictures[name] = (folder / name).read_bytes()
            if not run.pictures[name].startswith(PNG):
                raise UserError(f"{folder / name} is no PNG")
    return run
