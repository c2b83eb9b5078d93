"""Files that a command leaves behind: where to, in one step each, and under which circumstances."""

import os
import platform
from datetime import datetime, timezone
from pathlib import Path

import torch

from .._version import __version__
from .errors import UserError
from .images import MEAN, STD

__all__ = ["circumstances", "make_folder", "replace"]


def make_folder(folder: str) -> None:
    """Make a folder for files if it is not there; UserError where it cannot be made or written to."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder} cannot be made ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"--output {folder} cannot be written to")


def replace(target: Path, content: bytes) -> None:
    """Replace a file in one step, so that no moment leaves half of one; UserError where it cannot be written."""
    partial = target.with_suffix(target.suffix + ".part")
    try:
        partial.write_bytes(content)
        partial.replace(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror})") from error


def circumstances() -> dict[str, object]:
    """What a measurement depends on beside its arguments, for a JSON file."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"alias_ops": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "normalisation": {"mean": MEAN, "std": STD},
    }
