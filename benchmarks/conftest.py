"""Options of a run, and the file it leaves."""

import datetime
import json
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

import alias_ops
from alias_ops.cli.info import facts

HERE = Path(__file__).parent


@dataclass
class Settings:
    """How much to measure, and what came out."""

    device: str = "cpu"
    upstream: str | None = None
    quick: bool = False
    results: list[dict] = field(default_factory=list)
    memory: list[dict] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def seconds_a_case(self) -> float:
        return 0.05 if self.quick else 1.5

    @property
    def fewest_rounds(self) -> int:
        return 3 if self.quick else 7

    @property
    def most_rounds(self) -> int:
        return 3 if self.quick else 41


SETTINGS = pytest.StashKey[Settings]()


def pytest_addoption(parser):
    group = parser.getgroup("alias_ops")
    group.addoption("--bench-json", metavar="FILE", help="write the results there")
    group.addoption("--bench-quick", action="store_true", help="few cases, few rounds")
    group.addoption("--bench-device", default="cpu", help="where the tensors are (default: cpu)")
    group.addoption("--bench-upstream", metavar="DIR", help="folder with the published FLC module")


def pytest_configure(config):
    option = config.getoption
    config.stash[SETTINGS] = Settings(option("--bench-device"), option("--bench-upstream"), option("--bench-quick"))


@pytest.fixture(scope="session")
def settings(request) -> Settings:
    return request.config.stash[SETTINGS]


def pytest_collection_modifyitems(config, items):
    """A quick run takes the cases that say so."""
    if config.getoption("--bench-quick"):
        quick = [item for item in items if item.get_closest_marker("quick")]
        config.hook.pytest_deselected(items=[item for item in items if item not in quick])
        items[:] = quick


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _machine() -> dict:
    known = facts()
    # Flags and paths of the build say where it was built; the rest is what a reader compares.
    build = {k: v for k, v in known["extension"].items() if k != "built with flags"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else known["processor"]["name"]
    return {
        "device": device,
        "processor": known["processor"],
        "cores": os.cpu_count(),
        "system": platform.system(),
        "versions": {k: v for k, v in known["versions"].items() if k != "platform"},
        "extension": build,
    }


def pytest_sessionfinish(session):
    target = session.config.getoption("--bench-json")
    settings = session.config.stash[SETTINGS]
    if not target or not (settings.results or settings.memory):
        return
    document = {
        "format": 1,
        "started": settings.started,
        "finished": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "load at start and end": [settings.load, os.getloadavg()[0]],
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "alias_ops": alias_ops.__version__,
        "quick": settings.quick,
        "tensors on": settings.device,
        "machine": _machine(),
        "results": settings.results,
        "memory": settings.memory,
    }
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(document, indent=1) + "\n")
