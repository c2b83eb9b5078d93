"""``alias-ops info``: what is installed, what runs here, and why the rest does not."""

import json
import platform
from argparse import Namespace
from importlib import import_module
from pathlib import Path
from time import perf_counter

import torch

from .. import _backend
from .._version import __version__
from ..functional import flc_pool2d

__all__ = ["facts", "run"]

CPUINFO = Path("/proc/cpuinfo")

# Of the many features a processor names, those that matter to these kernels and their successors.
FEATURES = (
    "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "asimdhp", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


def _processor() -> tuple[str, list[str]]:
    """Name and features of the processor, as far as the operating system tells."""
    if CPUINFO.is_file():
        lines = (line.partition(":") for line in CPUINFO.read_text().splitlines())
        facts = {key.strip().lower(): value.strip() for key, _, value in lines if value}
        flags = facts.get("flags", facts.get("features", "")).split()
        name = facts.get("model name", platform.machine())
    else:
        flags, name = [], platform.processor() or platform.machine()
    return name, [feature for feature in FEATURES if feature in flags]


def _extension() -> dict[str, object]:
    """How the compiled module was built, or why there is none."""
    extension = _backend.extension
    if extension is None:
        return {"missing": _backend.availability()["cpu"]}
    built = {f"built with {name}": value for name, value in extension.build_info().items()}
    return {"kernels in use": extension.isa(), "kernels built": extension.isas(), **built}


def _cuda_extension() -> dict[str, object]:
    """How the module of CUDA C++ kernels was built, or why there is none."""
    extension, why = _backend.cuda_extension()
    if extension is None:
        return {"missing": why}
    return {f"built with {name}": value for name, value in extension.build_info().items()}


def _backends(device_type: str) -> dict[str, object]:
    """The implementation that tensors on a device get, and for each one whether it runs."""
    try:
        chosen = _backend.resolve(device_type)
    except (ValueError, _backend.Unavailable) as error:
        chosen = f"none: {error}"
    reasons = _backend.availability(device_type)
    return {"in use": chosen, **{name: f"no: {why}" if why else "runs here" for name, why in reasons.items()}}


def _first_call(device_type: str) -> str:
    """What a call costs the first time in a process, compiled or from Triton's cache, and after that."""
    x = torch.zeros(1, 1, 28, 28, device=device_type)
    times = []
    with _backend.backend("triton"):
        for _ in range(3):
            start = perf_counter()
            flc_pool2d(x)
            torch.accelerator.synchronize()
            times.append(perf_counter() - start)
    return f"{times[0]:.2f} s, then {times[-1] * 1e6:.0f} µs"


def _triton(device_type: str) -> dict[str, object]:
    """Where the Triton kernels run: how they are configured, what is kept between runs, what a first call costs."""
    launch = import_module("alias_ops.kernels._launch")
    folder = Path(launch.knobs.cache.dir)
    stored = sum(len(launch.stored_choices(file)) for file in folder.glob("*/alias_ops.*.json"))
    off = launch.tuning()
    found = {
        "version": launch.triton.__version__,
        "configurations": f"by rule: {off}" if off else "measured at the first large call of a size class",
        "size classes measured": stored,
        "cache": str(folder),
    }
    return found if device_type == "cpu" else {**found, "first call of a size": _first_call(device_type)}


def facts() -> dict[str, dict[str, object]]:
    """Versions, processor, build of the extension and backends, by title and name."""
    name, features = _processor()
    devices = ["cpu"]
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        devices.append(accelerator.type)
    return {
        "versions": {
            "alias_ops": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "processor": {
            "name": name,
            "features": features,
            "torch uses": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
        },
        "extension": _extension(),
        "CUDA C++ extension": _cuda_extension(),
        **({} if _backend.availability(devices[-1])["triton"] else {"Triton kernels": _triton(devices[-1])}),
        **{f"backends for {device} tensors": _backends(device) for device in devices},
    }


def run(arguments: Namespace) -> None:
    """Print the facts about this installation, as text or JSON.

    Args:
        arguments: as parsed by ``alias_ops.cli``.
    """
    found = facts()
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    width = max(len(key) for section in found.values() for key in section)
    for title, section in found.items():
        print(title)
        for key, value in section.items():
            text = " ".join(value) if isinstance(value, list) else value
            print(f"  {key.ljust(width)}  {text}")
