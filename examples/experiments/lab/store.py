"""What took long, kept in a folder under a name that says all that it depends on."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

__all__ = ["digest", "keep"]


def digest(settings: Any) -> str:
    """Ten characters that tell the settings of a dataclass from all others."""
    return hashlib.sha256(json.dumps(asdict(settings), sort_keys=True).encode()).hexdigest()[:10]


def keep(path: Path, make: Callable[[], Any]) -> bool:
    """Make something and save it, as a whole or not at all, unless it is there; returns whether it was."""
    if path.is_file():
        return True
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    torch.save(made, beside)
    beside.replace(path)
    return False
