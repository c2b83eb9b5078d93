"""How a kernel starts: on x's device and stream, configured by rule or as measured once for its size class."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.runtime.cache import get_cache_manager

from .._version import __version__

__all__ = [
    "AUTOTUNE",
    "Config",
    "cached_choices",
    "capability",
    "capturing",
    "chosen",
    "next_power_of_two",
    "on_device_of",
    "stored_choices",
    "tuning",
]

AUTOTUNE = "ALIAS_OPS_AUTOTUNE"


# Per multiprocessor, for a launch to be worth timing.
FEWEST_PROGRAMS = 16


class Config(NamedTuple):
    """One way to run a kernel: its block sizes by name, warps of a program, stages of its loops."""

    blocks: tuple[tuple[str, int], ...]
    warps: int
    stages: int = 1

    def arguments(self) -> dict[str, int]:
        return {**dict(self.blocks), "num_warps": self.warps, "num_stages": self.stages}


if knobs.runtime.interpret:
    from ._interpreter import mend

    mend()

# What was measured in this process or read from the cache: (kernel, size class, device) -> place in the candidates.
_choices: dict[tuple, int] = {}


def next_power_of_two(size: int, least: int = 1) -> int:
    """The power of two at or above ``size``; blocks are that large, matrix units want 16."""
    return max(least, 1 << (size - 1).bit_length())


def on_device_of(x: torch.Tensor) -> Any:
    """A context in which kernels go to x's device; Triton launches on the current one."""
    if x.device.type == "cuda" and x.device.index != torch.cuda.current_device():
        return torch.cuda.device(x.device)
    if x.device.type == "xpu" and x.device.index != torch.xpu.current_device():
        return torch.xpu.device(x.device)
    return nullcontext()


@cache
def capability(device: torch.device) -> int:
    """Compute capability, 90 for 9.0; that too where the device has none."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def capturing() -> bool:
    """Whether a CUDA graph is being recorded: nothing may be timed or waited for."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def tuning() -> str:
    """Why no configuration is measured and the rule decides, "" if they are."""
    if knobs.runtime.interpret:
        return "kernels are interpreted"
    if os.environ.get(AUTOTUNE, "1").lower() in ("0", "false", "off", "no"):
        return f"{AUTOTUNE}=0"
    return ""


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.xpu.get_device_name(device) if device.type == "xpu" else device.type


def _multiprocessors(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return torch.xpu.get_device_properties(device).gpu_subslice_count


def _cache_file(name: str, candidates: Sequence[Config], device: str):
    """Triton's cache folder, under a key that changes with whatever could change the fastest candidate."""
    parts = (name, __version__, triton.__version__, device, *map(str, candidates))
    return get_cache_manager(hashlib.sha256("|".join(parts).encode()).hexdigest()), f"alias_ops.{name}.json"


def _read(name: str, candidates: Sequence[Config], device: str) -> dict[str, int]:
    manager, file = _cache_file(name, candidates, device)
    path = manager.get_file(file)
    found = {} if path is None else stored_choices(Path(path))
    return {key: place for key, place in found.items() if isinstance(place, int) and 0 <= place < len(candidates)}


def stored_choices(path: Path) -> dict[str, int]:
    """What a file of the cache says; nothing if it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def chosen(
    name: str,
    size_class: tuple,
    candidates: Sequence[Config],
    run: Callable[[Config], None],
    x: torch.Tensor,
    programs: int,
) -> Config:
    """The fastest of ``candidates`` for this size class, measured at its first large enough call.

    The first candidate is the rule's choice. It serves where nothing may be measured (interpreter, graph capture,
    ``ALIAS_OPS_AUTOTUNE=0``), and calls too small to fill the device, which say nothing about large ones.

    Args:
        name: of the kernel.
        size_class: sizes rounded up to powers of two, dtype, terms; never the batch.
        candidates: a handful; each is compiled when it is measured.
        run: launches the kernel with a configuration; its output is overwritten each time.
        x: the input, for its device.
        programs: of this launch.
    """
    if len(candidates) == 1 or tuning():
        return candidates[0]
    device = _name_of(x.device)
    key = (name, size_class, device)
    if key in _choices:
        return candidates[_choices[key]]
    text = repr(size_class)
    stored = _read(name, candidates, device)
    if text in stored:
        _choices[key] = stored[text]
    elif capturing() or programs < FEWEST_PROGRAMS * _multiprocessors(x.device):
        return candidates[0]
    else:
        times = [
            triton.testing.do_bench(lambda c=c: run(c), warmup=5, rep=20, return_mode="median") for c in candidates
        ]
        _choices[key] = times.index(min(times))
        manager, file = _cache_file(name, candidates, device)
        manager.put(json.dumps({**stored, text: _choices[key]}), file, binary=False)
    return candidates[_choices[key]]


def cached_choices() -> dict[str, int]:
    """How many size classes have a measured configuration in this process, by kernel."""
    counts: dict[str, int] = {}
    for name, *_ in _choices:
        counts[name] = counts.get(name, 0) + 1
    return counts
