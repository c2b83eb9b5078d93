"""What the test files share: golden vectors, deterministic inputs, layouts, and the one measure of error."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import alias_ops
from alias_ops import reference

ROOT = Path(__file__).resolve().parents[1]
COPIES = ROOT / "tests" / "data"
SHARED = ROOT.parent / "shared" / "golden"
GOLDEN = SHARED if SHARED.is_dir() else COPIES
ARCHIVES = ("upstream_pooling_public.npz", "centered_pooling_public.npz", "aliasing_public.npz")

# Relative L2 errors, section 8 of the design. Half precision is held against the float64 reference of the rounded
# input: the rounded input is what the op gets.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = tuple(TOLERANCE)
SINGLE_AND_DOUBLE = (torch.float64, torch.float32)

# name -> (pool, variant), as the golden vectors name them
VARIANTS = {
    "flc": ("flc", "upstream"),
    "asap": ("asap", "upstream"),
    "asap_pad1": ("asap", "upstream_pad1"),
    "asap_padlarge": ("asap", "upstream_padlarge"),
}
ALL_POOLS = (("flc", "centered"), ("asap", "centered"), *VARIANTS.values())


def vision(name: str):
    """Import torchvision, timm or a part of them, or skip.

    The torchvision that pip finds is built for CUDA. Beside a PyTorch for the CPU its operators do not load, and its
    import fails at the first of them; its networks need none. `make test` puts it into a folder of its own: others
    import it wherever they find it, and fail with it.
    """
    folder = str(Path(sys.prefix) / "vision")
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError:
        for part in [part for part in sys.modules if part.partition(".")[0] == "torchvision"]:
            del sys.modules[part]
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float most) -> Tensor")
    return pytest.importorskip(name, exc_type=ImportError)


def golden(archive: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / archive) as file:
        return dict(file)


def golden_convolutions() -> list[dict]:
    """stride, padding, dilation and groups of every case of the aliasing archive."""
    return json.loads(str(golden("aliasing_public.npz")["config_json"]))


def pool2d(pool: str, x: torch.Tensor, stride=2, variant: str = "centered") -> torch.Tensor:
    return getattr(alias_ops, f"{pool}_pool2d")(x, stride, variant=variant)


def reference_pool2d(pool: str, x: torch.Tensor, stride=2, variant: str = "centered") -> torch.Tensor:
    """The float64 reference of x as it is, rounded or not."""
    return getattr(reference, f"{pool}_pool2d")(x.double(), stride, variant=variant)


def randn(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_close(actual: torch.Tensor, expected, dtype: torch.dtype, *, scale=None) -> None:
    """Same shape, and a relative L2 error within the tolerance of ``dtype``.

    ``scale``: what the error is relative to instead of ``expected``, for results that are differences of larger
    numbers and should be 0 or nearly so. Rounding is proportional to what went in, not to what is left over.
    """
    expected = torch.as_tensor(expected)
    assert tuple(actual.shape) == tuple(expected.shape)
    error = (actual.detach().double() - expected.detach().double()).norm().item()
    norm = (expected if scale is None else torch.as_tensor(scale)).detach().double().norm().item()
    assert error <= TOLERANCE[dtype] * norm, f"relative error {error / norm if norm else error:.2e} in {dtype}"


def spectrum_l1(maps: torch.Tensor, stride) -> torch.Tensor:
    """Per map sum |F_s|, the minuend of the aliasing measure: the scale of its rounding errors."""
    step_h, step_w = (stride, stride) if isinstance(stride, int) else stride
    return torch.fft.fft2(maps.double()[..., ::step_h, ::step_w], norm="forward").abs().sum((-1, -2))


def aliases(size, stride) -> bool:
    """False where nothing is subsampled: then AM is 0 or a Nyquist bin, and D/|D| may be rounding noise."""
    steps = (stride, stride) if isinstance(stride, int) else stride
    return any(n > 1 and step > 1 for n, step in zip(size, steps, strict=True))


def _shifted_storage(b: int, c: int, h: int, w: int, **kwargs) -> torch.Tensor:
    return randn(b * c * h * w + 7, **kwargs)[7:].view(b, c, h, w)


def _channels_last(*shape: int, **kwargs) -> torch.Tensor:
    return randn(*shape, **kwargs).to(memory_format=torch.channels_last)


# name -> maker of a [B, C, H, W] tensor that lies in memory like that
LAYOUTS: dict[str, Callable[..., torch.Tensor]] = {
    "contiguous": randn,
    "channels_last": _channels_last,
    "storage offset": _shifted_storage,
    "transposed maps": lambda b, c, h, w, **k: randn(b, c, w, h, **k).mT,
    "batch and channels swapped": lambda b, c, h, w, **k: randn(c, b, h, w, **k).transpose(0, 1),
    "every second row": lambda b, c, h, w, **k: randn(b, c, 2 * h, w, **k)[:, :, ::2],
    "every second column": lambda b, c, h, w, **k: randn(b, c, h, 2 * w, **k)[..., 1::2],
    "part of a larger map": lambda b, c, h, w, **k: randn(b, c, h + 3, w + 5, **k)[..., 2 : 2 + h, 3 : 3 + w],
    "channels of a wider tensor": lambda b, c, h, w, **k: randn(b, c + 3, h, w, **k)[:, 2 : 2 + c],
    "channels of a wider channels_last": lambda b, c, h, w, **k: _channels_last(b, c + 3, h, w, **k)[:, 2 : 2 + c],
    "every third image of channels_last": lambda b, c, h, w, **k: _channels_last(3 * b, c, h, w, **k)[::3],
    "expanded batch": lambda b, c, h, w, **k: randn(1, c, h, w, **k).expand(b, c, h, w),
    "expanded channels": lambda b, c, h, w, **k: randn(b, 1, h, w, **k).expand(b, c, h, w),
    "expanded columns": lambda b, c, h, w, **k: randn(b, c, h, 1, **k).expand(b, c, h, w),
    "overlapping windows": lambda b, c, h, w, **k: randn(c, h, w + b - 1, **k).unfold(2, w, 1).permute(2, 0, 1, 3),
}


def run_python(
    code: str, timeout: int = 120, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """``code`` in a process of its own, with this alias_ops and ``environment`` on top of the present one."""
    paths = [str(Path(alias_ops.__file__).parents[1]), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


def assert_one_sentence(arguments: list[str], sentence: str, capsys) -> None:
    """The command refuses ``arguments`` with one line on stderr that has ``sentence`` in it."""
    from alias_ops.cli import main

    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in err
    assert err.startswith("alias-ops: ")
    assert err.count("\n") == 1
    assert len(err) < 500


def run_two_ranks(script: str, folder: Path, timeout: int = 200) -> None:
    """``script`` of this folder as two processes, started as ``script FOLDER RANK``; both have to end well."""
    paths = os.pathsep.join(filter(None, (str(Path(alias_ops.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(ROOT / "tests" / script), str(folder)]
    ranks = [subprocess.Popen([*command, str(r)], env=env, stderr=subprocess.PIPE, text=True) for r in range(2)]
    try:
        errors = [rank.communicate(timeout=timeout)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for rank, error in zip(ranks, errors, strict=True):
        assert rank.returncode == 0, error


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder, importable as they are for a script that lies there, and gone again afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]
