"""One cache for all designs: bounded, and safe to fill from inside any mode of PyTorch."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch.utils._python_dispatch import _disable_current_modes

from .._compile import constant_result, static_sizes

__all__ = ["CACHED_DESIGNS", "cached", "constant"]

# Entries per function. One is a few kilobytes at the sizes of image networks; the bound keeps a
# program that meets thousands of sizes from growing without end.
CACHED_DESIGNS = 128

P = ParamSpec("P")
R = TypeVar("R")


def _outside_transforms() -> AbstractContextManager:
    if not torch._C._are_functorch_transforms_active():
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    return temporarily_clear_interpreter_stack()


@contextmanager
def _outside_traces() -> Iterator[None]:
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def cached(design: Callable[P, R]) -> Callable[P, R]:
    """Remember a design's last ``CACHED_DESIGNS`` results, ordinary tensors whoever asks first.

    A tensor made in inference mode could never serve a graph, one made under a fake mode holds no
    numbers, one made under torch.func belongs to that call: the next caller would be handed any of them. A trace
    (torch.jit) of a first call would hold how the tensor was made, which a trace of the second does not.
    """

    @lru_cache(maxsize=CACHED_DESIGNS)
    @wraps(design)
    def made(*args, **kwargs):
        with (
            torch._C.DisableTorchFunction(),  # first: torch.export records what follows otherwise, and cannot load it
            torch.inference_mode(False),
            torch.no_grad(),
            _disable_current_modes(),
            _outside_transforms(),
            _outside_traces(),
        ):
            return design(*args, **kwargs)

    return made  # type: ignore[return-value]


def constant(design: Callable[P, R]) -> Callable[P, R]:
    """:func:`cached`, and a constant of the graph to ``torch.compile``, which would trace the mathematics."""

    @cached
    def made(*args, **kwargs):
        return static_sizes(design(*args, **kwargs))

    @constant_result
    @wraps(design)
    def looked_up(*args, **kwargs):
        return made(*args, **kwargs)

    looked_up.cache_info = made.cache_info  # type: ignore[attr-defined]
    looked_up.cache_clear = made.cache_clear  # type: ignore[attr-defined]
    return looked_up
