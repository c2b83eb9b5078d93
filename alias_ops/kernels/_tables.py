"""Factor matrices as the kernels read them: scaled, as pairs of float16, padded to whole blocks; made once."""

import math
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes

from ._launch import capturing, next_power_of_two

__all__ = [
    "LARGEST_BLOCK",
    "UNIT_ROWS",
    "Table",
    "exponent_for_left",
    "exponent_for_right",
    "padded",
    "prepared",
    "remembered",
    "table",
]

# Blocks are powers of two up to this one, so that tables padded by `padded` fit them all.
LARGEST_BLOCK = 128

# Rows that a matrix unit may take at a time: what multiplies from the left is padded to that many at least.
UNIT_ROWS = 64

# Bits of the largest row sum of a table that samples are multiplied by first, and of the largest element of one
# that comes last: _arithmetic has the reason.
ROW_SUM_BITS = 8
ELEMENT_BITS = 8

REMEMBERED = 256

_made: OrderedDict[tuple, tuple[list[StorageWeakRef], Any]] = OrderedDict()
_lock = Lock()


class Table(NamedTuple):
    """float16 [terms, 2, rows, columns]: term t is ``2**-exponent * (table[t, 0] + table[t, 1])``."""

    values: torch.Tensor
    exponent: int


def padded(size: int, least: int = 16) -> int:
    """A size that every block used for it divides."""
    return next_power_of_two(size, least) if size <= LARGEST_BLOCK else -(-size // LARGEST_BLOCK) * LARGEST_BLOCK


def _exponent(largest: float, bits: int) -> int:
    if not 0 < largest < math.inf:
        return 0
    return bits - math.frexp(largest)[1]


def exponent_for_right(matrices: np.ndarray) -> int:
    """Of the scale for tables [terms, rows, columns] that multiply samples: bounds what comes out."""
    return _exponent(float(np.abs(matrices).sum(-1).max(initial=0)), ROW_SUM_BITS)


def exponent_for_left(matrices: np.ndarray) -> int:
    """Of the scale for tables that multiply last, into float32: bounds the elements."""
    return _exponent(float(np.abs(matrices).max(initial=0)), ELEMENT_BITS)


def table(matrices: np.ndarray, exponent: int, device: torch.device, least: int = 16) -> Table:
    """float64 [terms, rows, columns] as a Table on ``device``, of ``least`` rows and columns at least."""
    terms, rows, columns = matrices.shape
    with np.errstate(over="ignore", invalid="ignore"):  # inf and NaN of a factor go through, as in any product
        scaled = np.ldexp(matrices, exponent)
        high = scaled.astype(np.float16)
        low = np.where(np.isfinite(scaled), scaled - high, 0).astype(np.float16)
    both = np.zeros((terms, 2, padded(rows, least), padded(columns, least)), np.float16)
    both[:, 0, :rows, :columns] = high
    both[:, 1, :rows, :columns] = low
    return Table(torch.from_numpy(both).to(device), exponent)


def _identity(t: torch.Tensor) -> tuple:
    """Of a tensor's values, as long as its storage lives and nobody writes into it."""
    storage = t.untyped_storage()._cdata
    return storage, t.storage_offset(), tuple(t.shape), t.stride(), t.dtype, t.device, t._version


def prepared(make: Callable[..., Any], *arguments: Any) -> Any:
    """``make(*arguments)``, made once.

    Raises:
        RuntimeError: a CUDA graph is being recorded and the result is not at hand yet.
    """
    return _once((make, arguments), (), lambda: make(*arguments))


def remembered(make: Callable[..., Any], tensors: tuple[torch.Tensor, ...], *arguments: Any) -> Any:
    """``make(*matrices, *arguments)`` with the tensors as float64 arrays; made once for the same tensors.

    Looking at factors waits for the device, so it is done at the first call alone. They are told apart by place,
    not by value: a weak reference keeps a freed storage's address from being taken for a new one's, and PyTorch's
    version counter says if somebody wrote into them.

    Raises:
        RuntimeError: a CUDA graph is being recorded and the result is not at hand yet.
    """

    def look() -> Any:
        return make(*(t.detach().double().cpu().numpy() for t in tensors), *arguments)

    if any(t.is_inference() for t in tensors):  # those have no version counter
        return _now(look)
    return _once((make, arguments, *map(_identity, tensors)), tensors, look)


def _once(key: tuple, tensors: tuple[torch.Tensor, ...], make: Callable[[], Any]) -> Any:
    with _lock:
        if key in _made:
            _made.move_to_end(key)
            return _made[key][1]
    made = _now(make)
    with _lock:
        _made[key] = [StorageWeakRef(t.untyped_storage()) for t in tensors], made
        while len(_made) > REMEMBERED:
            _made.popitem(last=False)
    return made


def _now(make: Callable[[], Any]) -> Any:
    if capturing():
        raise RuntimeError(
            "alias_ops prepares its tables at the first call of a size, which cannot be recorded in a CUDA graph: "
            "call the function once on the same sizes before capturing"
        )
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
        return make()
