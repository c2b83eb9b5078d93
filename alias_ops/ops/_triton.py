"""Where the GPU kernels meet the dispatcher: one op stays in every graph, whoever serves it."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from .. import _backend
from ._fastest import fastest
from ._library import LIBRARY, outside_autocast

__all__ = ["register"]

# Devices that Triton drives; AMD's are "CUDA" too.
KEYS = ("CUDA", "XPU")


def _recorded(args: tuple) -> bool:
    """Whether autograd records what an op without a formula of its own does: the PyTorch forms alone let it."""
    return torch.is_grad_enabled() and any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)


def register(op: str, form: Callable[..., Any], fake: Callable[..., Any], module: str, position: int = 0) -> None:
    """Serve ``alias_ops::op`` with its Triton kernel wherever the backend of a call is "triton", and with its CUDA C++
    kernel where it is "cuda" and there is one for the call, in Triton otherwise.

    Args:
        op: name of the op, and of the function in ``module``, without a leading underscore. It takes the op's
            arguments, and ``out`` to write the result to.
        form: the op's PyTorch form, for every other backend. float64 takes it too: products in float64 leave no
            time to save on memory.
        fake: the op's fake implementation; given real tensors it makes ``out``, so that the two cannot differ. An op
            that returns a tuple has one for ``out``.
        module: of ``alias_ops.kernels``; imported at the first call, for Triton may be missing. One of the same name
            with "_cuda" behind it launches the CUDA C++ kernels: it returns False for a call that it has none for.
        position: of the tensor whose device and dtype decide.
    """

    @cache
    def launcher() -> Callable[..., None]:
        return getattr(import_module(f"alias_ops.kernels.{module}"), op.lstrip("_"))

    @cache
    def cuda_launcher() -> Callable[..., bool] | None:
        if find_spec(f"alias_ops.kernels.{module}_cuda") is None:
            return None
        return getattr(import_module(f"alias_ops.kernels.{module}_cuda"), op.lstrip("_"), None)

    @outside_autocast
    def kernel(*args):
        out = fake(*args)
        launcher()(*args, out=out)
        return out

    @outside_autocast
    def cuda_kernel(*args):
        launch = cuda_launcher()
        if launch is None:
            return kernel(*args)
        out = fake(*args)
        if not launch(*args, out=out):
            launcher()(*args, out=out)
        return out

    def chosen(args: tuple) -> Callable[..., Any] | None:
        x = args[position]
        backend = _backend.serving(x)
        if backend not in ("triton", "cuda"):
            return None
        if x.dtype is torch.float64 or _recorded(args):
            return form
        if backend == "triton" and not _backend.forced() and fastest(op.lstrip("_"), x) == "cuda":
            backend = "triton" if _backend.availability(x.device.type)["cuda"] else "cuda"
        return cuda_kernel if backend == "cuda" else kernel

    def on_gpu(*args):
        return (chosen(args) or form)(*args)

    for key in KEYS:
        LIBRARY.impl(op, on_gpu, key)
    if not _backend.INTERPRETED:
        return
    # The interpreter takes CPU tensors: there the extension's kernel steps back for calls that ask for Triton.
    name = f"alias_ops::{op}"
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    extension = torch.library.get_kernel(name, "CPU") if compiled else None

    def on_cpu(keys, *args):
        serve = chosen(args)
        if serve is not None:
            return serve(*args)
        return form(*args) if extension is None else extension.call_boxed(keys, *args)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warning only once for all operators")  # that a kernel is overridden
        LIBRARY.impl(op, on_cpu, "CPU", with_keyset=True, allow_override=True)
