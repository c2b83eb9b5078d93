"""What an experiment leaves: tables as CSV, figures, findings, and what it was measured on."""

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

import alias_ops
from fgsm.machine import commit, processor

__all__ = ["HELD", "Finding", "Report", "machine", "spread", "verdict"]

HELD = ("yes", "partly", "no", "open")
DPI = 130
LIBRARIES = ("foolbox", "kornia", "timm", "antialiased-cnns", "numpy", "scikit-image", "scipy")


@dataclass(frozen=True)
class Finding:
    """A claim and what came of it.

    Args:
        claim: in a sentence.
        measured: the numbers, with their spread.
        held: "yes"; "partly", in some of the runs; "no"; "open" where this scale cannot say.
    """

    claim: str
    measured: str
    held: Literal["yes", "partly", "no", "open"]


def verdict(differences: Sequence[float]) -> Literal["yes", "partly", "no"]:
    """Whether something is above zero in all runs, in some or in none; NaN is not above zero."""
    above = sum(difference > 0 for difference in differences)
    return "yes" if above == len(differences) > 0 else "partly" if above else "no"


def spread(values: Any, digits: int = 1, unit: float = 1) -> str:
    """Mean and standard deviation over runs, "51.2 ± 3.4"; ``unit`` is what one is multiplied by. Without NaNs."""
    series = unit * pd.Series(list(values), dtype=float).dropna()
    if not len(series):
        return "-"
    return f"{series.mean():.{digits}f}" + (f" ± {series.std():.{digits}f}" if len(series) > 1 else "")


def _versions() -> dict[str, str]:
    found = {"alias_ops": alias_ops.__version__, "torch": torch.__version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Device, versions, date and commit."""
    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else processor(),
        "cores": os.cpu_count(),
        "versions": _versions(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
    }


class Report:
    """The folder of one experiment, written to as it goes.

    Args:
        folder: is made; what an earlier run left under the same names is replaced.
        scale: its name, which goes under every figure.
    """

    def __init__(self, folder: Path, scale: str) -> None:
        self.folder, self.scale = folder, scale
        self.findings: list[Finding] = []
        self.machine = machine()
        folder.mkdir(parents=True, exist_ok=True)

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """``name``.csv, six significant digits."""
        frame.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")

    def summary(self, frame: pd.DataFrame) -> None:
        """summary.csv: what the documentation shows, columns named and cells written as a reader sees them."""
        self.table("summary", frame)

    def figure(self, name: str, figure: Any) -> None:
        """``name``.png, with a line of where it comes from."""
        about = self.machine
        source = f"scale {self.scale} · {about['device']} · {about['date'][:10]} · commit {about['commit']}"
        figure.text(0.995, -0.01, source, ha="right", va="top", fontsize=6, color="#777777")
        # Without the software's version in it, so that the same picture is the same file.
        figure.savefig(self.folder / f"{name}.png", dpi=DPI, bbox_inches="tight", metadata={"Software": None})

    def finding(self, claim: str, measured: str, held: Literal["yes", "partly", "no", "open"]) -> None:
        self.findings.append(Finding(claim, measured, held))

    def close(self, settings: dict[str, Any], seconds: float) -> None:
        """findings.csv and about.json.

        Args:
            settings: what was run.
            seconds: that it took, without the trainings that other experiments share.
        """
        self.table("findings", pd.DataFrame([asdict(finding) for finding in self.findings]))
        about = {"scale": self.scale, **self.machine, "seconds": round(seconds, 1), "settings": settings}
        (self.folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")
