"""Options of a run, and the file it leaves."""

import datetime
import json
import multiprocessing
import os
import platform
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from _pytest.runner import runtestprotocol

import alias_ops
from alias_ops.cli.info import facts

from .allocator import keep_freed_memory
from .floor import peak

HERE = Path(__file__).parent


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass
class Settings:
    """How much to measure, and what came out."""

    device: str = "cpu"
    upstream: str | None = None
    quick: bool = False
    keeps_freed_memory: bool = False
    results: list[dict] = field(default_factory=list)
    memory: list[dict] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"))
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    # At the start: what is committed or edited while the run goes on is not what is being measured.
    commit: str = field(default_factory=lambda: _git("rev-parse", "HEAD"))
    edited: bool = field(default_factory=lambda: bool(_git("status", "--porcelain", "--untracked-files=no")))

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
    group.addoption("--bench-one-process", action="store_true", help="all cases in this process, one after the other")
    group.addoption(
        "--bench-keep-memory", action="store_true", help="freed memory stays with the process, for everybody"
    )
    group.addoption("--bench-device", default="cpu", help="where the tensors are (default: cpu)")
    group.addoption("--bench-upstream", metavar="DIR", help="folder with the published FLC module")


def pytest_configure(config):
    option = config.getoption
    kept = bool(option("--bench-keep-memory")) and keep_freed_memory()
    config.stash[SETTINGS] = Settings(
        option("--bench-device"), option("--bench-upstream"), option("--bench-quick"), kept
    )


def pytest_sessionstart(session):
    """Measured once, before the cases part."""
    for dtype in (torch.float32, torch.float64):
        peak(dtype, torch.get_num_threads())


def _run_and_tell(item, nextitem, pipe) -> None:
    """In the case's own process: run it, send its reports and results."""
    settings = item.config.stash[SETTINGS]
    before = len(settings.results), len(settings.memory)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    told = [item.config.hook.pytest_report_to_serializable(config=item.config, report=r) for r in reports]
    pipe.send((told, settings.results[before[0] :], settings.memory[before[1] :]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Every case in a process of its own, as fresh as a user's script.

    The allocator keeps some of what earlier cases freed, and a peer that asks for a large tensor is three times as
    fast where it need not be given the pages. This process itself never computes, so that a child finds no thread
    pool whose threads it does not have.
    """
    config = item.config
    if config.getoption("--bench-one-process"):
        return None
    config.hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_run_and_tell, args=(item, nextitem, send))
    child.start()
    send.close()
    try:
        told, results, memory = receive.recv()
    except EOFError:
        pytest.exit(f"the process of {item.name} died", returncode=3)
    child.join()
    for data in told:
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        config.hook.pytest_runtest_logreport(report=report)
    config.stash[SETTINGS].results += results
    config.stash[SETTINGS].memory += memory
    config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.fixture(scope="session")
def settings(request) -> Settings:
    return request.config.stash[SETTINGS]


def pytest_collection_modifyitems(config, items):
    """A quick run takes the cases that say so."""
    if config.getoption("--bench-quick"):
        quick = [item for item in items if item.get_closest_marker("quick")]
        config.hook.pytest_deselected(items=[item for item in items if item not in quick])
        items[:] = quick


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
        "commit": settings.commit,
        "uncommitted changes": settings.edited,
        "alias_ops": alias_ops.__version__,
        "quick": settings.quick,
        "freed memory": "kept by the process" if settings.keeps_freed_memory else "as the allocator does",
        "one process": session.config.getoption("--bench-one-process"),
        "tensors on": settings.device,
        "machine": _machine(),
        "results": settings.results,
        "memory": settings.memory,
    }
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(json.dumps(document, indent=1) + "\n")
