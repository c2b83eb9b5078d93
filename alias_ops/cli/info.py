"""``alias-ops info``: what is installed, what runs here, and why the rest does not."""

import json
import platform
from argparse import Namespace
from pathlib import Path

import torch

from .. import _backend
from .._version import __version__

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


def _backends(device_type: str) -> dict[str, object]:
    """The implementation that tensors on a device get, and for each one whether it runs."""
    try:
        chosen = _backend.resolve(device_type)
    except (ValueError, _backend.Unavailable) as error:
        chosen = f"none: {error}"
    reasons = _backend.availability(device_type)
    return {"in use": chosen, **{name: f"no: {why}" if why else "runs here" for name, why in reasons.items()}}


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
