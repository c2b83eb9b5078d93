"""Which implementation runs: the compiled extension, pure PyTorch, or the one the user forces."""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType

import torch

from ._compile import constant_result

__all__ = [
    "BACKENDS",
    "INTERPRETED",
    "Unavailable",
    "availability",
    "backend",
    "cuda_extension",
    "extension",
    "forced",
    "resolve",
    "serving",
    "slow_path",
]

BACKENDS = ("auto", "reference", "cpu", "triton", "cuda")
ENVIRONMENT = "ALIAS_OPS_BACKEND"


class Unavailable(RuntimeError):
    """The backend asked for cannot run here."""


# What they are called, and why one may not have been built.
EXTENSIONS = {
    "_C": ("the C++ extension", "no compiler at install time, or ALIAS_OPS_BUILD_CPU=0"),
    "_C_cuda": ("the CUDA C++ extension", "no nvcc at install time, or ALIAS_OPS_BUILD_CUDA=0"),
}


def _load_extension(name: str = "_C") -> tuple[ModuleType | None, str]:
    """The extension module, or None with the reason in a user's words."""
    what, why = EXTENSIONS[name]
    try:
        return importlib.import_module(f"alias_ops.{name}"), ""
    except ModuleNotFoundError:
        return None, f"{what} was not built ({why})"
    except (ImportError, OSError) as error:
        return None, f"{what} does not load: {error}"


extension, _why_no_extension = _load_extension()

_forced = os.environ.get(ENVIRONMENT, "auto").lower()

# Whether Triton interprets its kernels on the CPU. Triton looks when it is imported, so what holds is what the
# environment said at the start.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

OLDEST_CAPABILITY = (8, 0)


@cache
def _look_for_triton(device_type: str) -> str:
    """Why the Triton kernels do not run on ``device_type``, "" if they do; without importing Triton."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install 'alias-ops[triton]')"
    if device_type == "cpu":
        return "" if INTERPRETED else "it takes CPU tensors only if TRITON_INTERPRET=1 was set before the import"
    if device_type == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch sees no GPU"
        if torch.version.hip is None and torch.cuda.get_device_capability() < OLDEST_CAPABILITY:
            return "the GPU's compute capability is below 8.0"
        return ""
    if device_type == "xpu":
        return "" if torch.xpu.is_available() else "PyTorch sees no GPU"
    return f"it runs on GPUs, not on {device_type}"


@constant_result
def _why_no_triton(device_type: str) -> str:
    return _look_for_triton(device_type)


@cache
def cuda_extension() -> tuple[ModuleType | None, str]:
    """The module of CUDA C++ kernels, which registers them; or None with the reason."""
    if torch.version.cuda is None:
        return None, "this PyTorch is a build without CUDA"
    return _load_extension("_C_cuda")


@cache
def _look_for_cuda(device_type: str) -> str:
    """Why the CUDA C++ kernels do not run on ``device_type``, "" if they do."""
    _, why = cuda_extension()
    if not why and device_type != "cuda":
        why = f"it runs on NVIDIA GPUs, not on {device_type}"
    return why or _look_for_triton(device_type)  # calls without a CUDA C++ kernel go there


@constant_result
def _why_no_cuda(device_type: str) -> str:
    return _look_for_cuda(device_type)


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


def slow_path() -> str:
    """What to tell the user where the extension is missing; "" where it is not."""
    if extension is not None:
        return ""
    return f"alias_ops runs on the slower pure-PyTorch path: {_why_no_extension}. `alias-ops info` says more."


def availability(device_type: str = "cpu") -> dict[str, str]:
    """For every backend, "" if it can run on ``device_type`` here, otherwise the reason why not."""
    cpu = _why_no_extension
    if not cpu and device_type != "cpu":
        cpu = f"it runs on CPU tensors, not on {device_type}"
    return {
        "reference": "",
        "cpu": cpu,
        "triton": _why_no_triton(device_type),
        "cuda": _why_no_cuda(device_type),
    }


def forced() -> bool:
    """Whether the user asks for one implementation."""
    return _forced != "auto"


def resolve(device_type: str) -> str:
    """The backend that serves tensors on ``device_type``.

    Raises:
        ValueError: the environment variable names no backend.
        Unavailable: the forced backend cannot run on this device.
    """
    if _forced == "auto":
        return "cpu" if device_type == "cpu" and extension is not None else "reference"
    reason = availability(device_type)[_checked(_forced, ENVIRONMENT)]
    if reason:
        raise Unavailable(f"backend {_forced!r} cannot run here: {reason}")
    return _forced


def serving(x: torch.Tensor) -> str:
    """:func:`resolve` for a tensor's device; quick where nothing is forced, for this is in every call."""
    if x.is_cpu and _forced == "auto":
        return "reference" if extension is None else "cpu"
    return resolve(x.device.type)


def _accelerator() -> str:
    """The type of this machine's GPUs, "cpu" where there are none."""
    if torch.cuda.is_available():
        return "cuda"
    return "xpu" if torch.xpu.is_available() else "cpu"


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force an implementation inside a ``with`` block, for the whole process.

    Args:
        name: "auto", "reference" (pure PyTorch), "cpu" (the C++ extension), "triton", or "cuda" (the CUDA C++ kernels,
            and Triton's for calls that have none).

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend cannot run here.
    """
    global _forced
    _checked(name, "backend")
    if name != "auto":
        device_type = "cpu" if name in ("cpu", "reference") else _accelerator()
        reason = availability(device_type)[name]
        if reason:
            raise Unavailable(f"backend {name!r} cannot run here: {reason}")
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous
