"""What torch.compile is told, without importing it."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["constant_result", "static_sizes"]

P = ParamSpec("P")
R = TypeVar("R")


def constant_result(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.assume_constant_result``, which imports the whole compiler to set this one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def static_sizes(result: Any) -> Any:
    """``torch._dynamo.mark_static`` of every tensor in nested tuples and lists; returns them.

    With dynamic=True a table's size would be a symbol as well, and the same one as the first batch's, were they equal.
    """
    if isinstance(result, (tuple, list)):
        for part in result:
            static_sizes(part)
    elif isinstance(result, torch.Tensor):
        result._dynamo_static_indices = set(range(result.dim()))  # type: ignore[attr-defined]
        result._has_dynamo_dim_marking = True  # type: ignore[attr-defined]
    return result
