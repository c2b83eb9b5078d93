"""Where CUDA's compiler is and what it is to compile for; setup.py runs this file."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["architectures", "find"]

OLDEST = 80


def find(version: str, torch: Path) -> tuple[Path, list[int]]:
    """nvcc, of the same major version as PyTorch's CUDA, and the architectures to compile for, as 80 for 8.0.

    Args:
        version: of PyTorch.
        torch: its folder.

    Raises:
        LookupError: something is missing; the message is for the user.
    """
    written = re.search(r"^cuda\b[^=\n]*= '(\d+)\.", (torch / "version.py").read_text(), re.MULTILINE)
    if written is None:
        raise LookupError(f"PyTorch {version} is a build without CUDA")
    home = os.environ.get("CUDA_HOME")
    nvcc = Path(home, "bin", "nvcc") if home else Path(shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False) if nvcc.is_file() else None
    release = re.search(r"release (\d+)\.", said.stdout) if said else None
    if release is None:
        raise LookupError(f"no CUDA compiler: `{nvcc} --version` does not run. Name the toolkit's folder in CUDA_HOME")
    if release[1] != written[1]:
        raise LookupError(f"PyTorch {version} is of CUDA {written[1]}, {nvcc} of CUDA {release[1]}")
    return nvcc, architectures(torch)


def architectures(torch: Path) -> list[int]:
    """TORCH_CUDA_ARCH_LIST, or what PyTorch was built for: the first of each generation, whose code the others run."""
    named = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if named:
        numbers = [int(major) * 10 + int(minor) for major, minor in re.findall(r"(\d+)\.(\d)", named)]
    else:
        # Asked in a process of its own: nothing here needs PyTorch imported, and it takes seconds.
        code = "import torch; print(torch._C._cuda_getArchFlags() or '')"
        path = os.pathsep.join([str(torch.parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        command = [sys.executable, "-c", code]
        said = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        numbers = [int(number) for number in re.findall(r"sm_(\d+)", said.stdout)]
    fitting = {n // 10: n for n in sorted(numbers, reverse=True) if n >= OLDEST}
    if not fitting:
        raise LookupError(f"the CUDA kernels need compute capability 8.0; asked for {named or numbers or 'nothing'}")
    return sorted(fitting.values())
