"""What torch.compile is told, without importing it."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["constant_result"]

P = ParamSpec("P")
R = TypeVar("R")


def constant_result(function: Callable[P, R]) -> Callable[P, R]:
    """``torch.compiler.assume_constant_result``, which imports the whole compiler to set this one mark."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
