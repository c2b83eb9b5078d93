"""What a run leaves on disk: a checkpoint, and its numbers as CSV and JSON; each file is replaced as a whole."""

import csv
import io
import json
import os
import platform
from dataclasses import asdict, fields
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import alias_ops
from fgsm.machine import commit, processor
from fgsm.training import Epoch, Training

__all__ = ["FIGURE", "load", "save", "stopping_epochs", "written"]

LAST, WEIGHTS, TABLE, SUMMARY, FIGURE = "last.pt", "model.pt", "results.csv", "results.json", "training.png"


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there as before or as a whole, whatever happens meanwhile."""
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _bytes(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def stopping_epochs(history: list[Epoch]) -> dict[str, int | None]:
    """When each rule said stop for the first time."""
    return {
        rule: next((epoch.epoch for epoch in history if getattr(epoch, f"{rule}_stop")), None) for rule in ("am", "pgd")
    }


def _table(history: list[Epoch]) -> str:
    """One row an epoch; the blocks' AM in columns of their own."""
    names = [field.name for field in fields(Epoch) if field.name != "blocks"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"am {block}" for block in history[0].blocks)])
    for epoch in history:
        values = (getattr(epoch, name) for name in names)
        writer.writerow(["" if value is None else value for value in values] + list(epoch.blocks.values()))
    return text.getvalue()


def _summary(training: Training) -> dict[str, Any]:
    device = training.processes.device
    gpu = device.type == "cuda"
    return {
        "settings": {name: str(v) if isinstance(v, Path) else v for name, v in asdict(training.settings).items()},
        "data": {
            "name": training.data.name,
            "train": len(training.data.train),
            "held_out": len(training.data.held_out),
        },
        "versions": {
            "alias_ops": alias_ops.__version__,
            "torch": torch.__version__,
            "foolbox": version("foolbox"),
            "python": platform.python_version(),
        },
        "device": torch.cuda.get_device_name(device) if gpu else processor(),
        "processes": training.processes.world,
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "finished": len(training.history) == training.settings.epochs or training.stopped,
        "stops": {
            "am": {"epoch": stopping_epochs(training.history)["am"], "reason": training.am_rule.reason},
            "pgd": {"epoch": stopping_epochs(training.history)["pgd"], "reason": training.pgd_rule.reason},
        },
        "epochs": [asdict(epoch) for epoch in training.history],
    }


def save(training: Training, folder: Path) -> None:
    """After an epoch: last.pt to resume from, results.csv, results.json, and model.pt with the weights alone.

    model.pt is left alone in the epoch in which the rule in charge says stop: its weights are those from before.
    """
    contents = {
        LAST: _bytes(training.state_dict()),
        TABLE: _table(training.history).encode(),
        SUMMARY: (json.dumps(_summary(training), indent=1) + "\n").encode(),
    }
    if not training.stopped:
        contents[WEIGHTS] = _bytes(training.model.network.state_dict())
    for name, content in contents.items():
        _replace(folder / name, content)


def written(folder: Path) -> list[str]:
    """Names of the files that a run has left in its folder."""
    return [name for name in (LAST, WEIGHTS, TABLE, SUMMARY, FIGURE) if (folder / name).is_file()]


def load(training: Training, folder: Path) -> None:
    """Go on from the checkpoint in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of a run with other settings.
    """
    path = folder / LAST
    if not path.is_file():
        raise FileNotFoundError(f"nothing to resume: there is no {path}")
    training.load_state_dict(torch.load(path, map_location=training.processes.device, weights_only=True))
