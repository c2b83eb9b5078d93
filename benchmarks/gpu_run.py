"""How a stage of ``benchmarks.gpu`` measures: times by events on the device, memory, TF32 on or off, results kept."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import alias_ops

from . import peers
from .race import WrongResult

__all__ = ["Call", "Run", "extra_memory", "tf32", "within"]

GIGABYTE = 2**30

Call = Callable[[], Any]


class Run:
    """A results file that grows case by case, and how large and how often to measure."""

    def __init__(self, out: str, dry: bool = False):
        self.path = Path(out)
        self.dry = dry
        self.device = "cpu" if dry else "cuda"
        self.bytes = 2**14 if dry else GIGABYTE
        if self.path.exists():
            self.document = json.loads(self.path.read_text())
        else:
            self.document = {"format": "gpu 1", "dry run": dry, "results": [], "stages": [], "ceilings": {}}

    def write(self) -> None:
        self.path.write_text(json.dumps(self.document, indent=1) + "\n")

    def time(self, call: Call, seconds: float = 0.25) -> dict[str, float]:
        """Median, quartiles and number of single calls, by events on the device."""
        for _ in range(1 if self.dry else 3):
            call()
        if self.dry:
            began = time.perf_counter()
            call()
            return {"median": time.perf_counter() - began, "calls": 1}
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        torch.cuda.synchronize()
        calls = max(5, min(50, round(seconds / max(1e-6, time.perf_counter() - began))))
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
        for start, end in marks:
            start.record()
            call()
            end.record()
        torch.cuda.synchronize()
        times = sorted(start.elapsed_time(end) / 1e3 for start, end in marks)
        low, median, high = statistics.quantiles(times, n=4, method="inclusive")
        return {"median": median, "q1": low, "q3": high, "calls": calls}

    def case(self, case: dict[str, Any], calls: dict[str, Call], check: Callable[[], float]) -> None:
        """Check, time every call, and keep what came out, errors included."""
        result: dict[str, Any] = {**case, "times": {}, "errors": {}}
        try:
            result["relative error"] = check()
        except (WrongResult, RuntimeError) as error:
            result["errors"]["alias_ops"] = f"{type(error).__name__}: {error}"[:300]
            calls = {name: call for name, call in calls.items() if not name.startswith("alias_ops")}
        for name, call in calls.items():
            try:
                result["times"][name] = self.time(call)
            except (RuntimeError, peers.Unavailable) as error:
                result["errors"][name] = f"{type(error).__name__}: {error}"[:300]
            if self.device == "cuda":
                torch.cuda.empty_cache()
        self.document["results"].append(result)
        self.write()
        times = ", ".join(f"{name} {t['median'] * 1e3:.3f}" for name, t in result["times"].items())
        print(" ".join(map(str, case.values())), "ms:", times, *result["errors"].values(), flush=True)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """PyTorch's switches for TF32, of products and of convolutions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def extra_memory(call: Call) -> int | None:
    """Bytes that a call takes at its peak beyond what there was."""
    if not torch.cuda.is_available():
        return None
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def within(name: str, call: Call) -> Call:
    """``call`` with an implementation forced."""

    def forced():
        with alias_ops.backend(name):
            return call()

    return forced
