"""The CUDA C++ kernels without a GPU: run on the CPU by tests/cuda_emulator, and compiled by nvcc.

What is built is kept in a folder of the system's temporary files, under a name that changes with what it is made of.
"""

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc" / "cuda"
EMULATOR = ROOT / "tests" / "cuda_emulator"
FOLDER = Path(tempfile.gettempdir()) / f"alias_ops-cuda-{os.getuid() if hasattr(os, 'getuid') else 0}"

# Shared memory that one block may ask for, in bytes, by architecture.
LIMITS = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}

# -O1: what more would save of running the kernels, compiling them would cost several times.
FLAGS = ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]


def _sources() -> bytes:
    folders = KERNELS, EMULATOR
    return b"".join(p.read_bytes() for f in folders for p in sorted(f.iterdir()) if p.suffix in (".h", ".cu", ".cpp"))


def _kept(key: str, suffix: str) -> Path:
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    return FOLDER / (hashlib.sha256(key.encode() + _sources()).hexdigest()[:24] + suffix)


@cache
def emulated(driver: str) -> ctypes.CDLL:
    """The library made of tests/cuda_emulator/``driver``; a skip where there is no compiler."""
    compiler = shlex.split(os.environ.get("CXX") or "g++")
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler: {compiler[0]}")
    library = _kept(shlex.join([*compiler, driver]), ".so")
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as place:
            made = Path(place, "made.so")
            command = [*compiler, *FLAGS, f"-I{KERNELS}", f"-I{EMULATOR}", str(EMULATOR / driver), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            made.replace(library)
    return ctypes.CDLL(str(library))


def pointer(t: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if t is None else t.data_ptr())


def message_of(function, *arguments) -> str:
    """What a driver's function returns: "" or the first thing that the kernel did wrong."""
    function.restype = ctypes.c_char_p
    return function(*arguments).decode()


class Resources(NamedTuple):
    """What a thread or a block of one kernel needs."""

    kernel: str
    registers: int
    stack: int
    spilled: int
    shared: int


def nvcc() -> str:
    """The CUDA compiler; a skip where there is none."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    found = shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")
    if found is None:
        pytest.skip("no nvcc")
    return found


def compiled(text: str, architecture: str) -> list[Resources]:
    """Compile a translation unit of the kernels; what each kernel in it needs, by ptxas."""
    compiler = nvcc()
    log = _kept(f"{compiler} {architecture} {text}", ".log")
    if not log.exists():
        with tempfile.TemporaryDirectory(dir=FOLDER) as place:
            source = Path(place, "source.cu")
            source.write_text(text)
            command = [
                compiler,
                "-std=c++17",
                "-O3",
                f"-arch={architecture}",
                f"-I{KERNELS}",
                "-Xptxas",
                "-v",
                "-cubin",
            ]
            done = subprocess.run(
                [*command, source, "-o", Path(place, "made")], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            partial = Path(place, "log")
            partial.write_text(done.stderr)
            partial.replace(log)
    return parsed(log.read_text())


def parsed(log: str) -> list[Resources]:
    """The kernels in ptxas's messages."""
    found = []
    for part in log.split("Compiling entry function '")[1:]:
        stack, stores, loads = (
            int(re.search(rf"(\d+) bytes {what}", part)[1]) for what in ("stack frame", "spill stores", "spill loads")
        )
        registers = int(re.search(r"Used (\d+) registers", part)[1])
        shared = re.search(r"(\d+) bytes smem", part)
        found.append(Resources(part.split("'")[0], registers, stack, stores + loads, int(shared[1]) if shared else 0))
    return found
