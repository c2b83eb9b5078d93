"""What the factors of separable2d allow, and the tables that its kernels read.

csrc/cpu/separable2d_plan.h is the same for the CPU. Half-band axes, and heights, are not split here: what that
leaves of a product is too little for a matrix unit.
"""

from typing import NamedTuple

import numpy as np
import torch

from ._tables import UNIT_ROWS, exponent_for_left, exponent_for_right, padded, table

__all__ = ["LARGEST_SMALL", "Plan", "outer_vectors", "plan"]

# Maps of up to this many samples, and results of as many, are one product with the Kronecker matrix.
LARGEST_SMALL = 256

# Widths between which splitting an axis pays: below, halves are smaller than the blocks of a matrix unit; above,
# the halves of a block of rows do not fit a program.
SMALLEST_SPLIT, LARGEST_SPLIT = 65, 256


class Plan(NamedTuple):
    """A pair of factors, prepared.

    kind "small": ``right`` is the whole operator [1, 2, M N, H W]. "split": ``right`` is S and D of [[P, Q], [Q, P]],
    see separable2d_split. "tiled": the factors, term by term. ``outer`` holds the
    vectors of a second term of rank 1 (in_h, in_w, out_h, out_w, padded), if there is one. ``factors`` undo the
    scales of the two tables.
    """

    kind: str
    terms: int
    left: torch.Tensor
    right: torch.Tensor
    outer: torch.Tensor | None
    factors: tuple[float, float]


def _is_split(a: np.ndarray, noise: float) -> bool:
    """[[P, Q], [Q, P]] to rounding."""
    if a.shape[0] % 2 or a.shape[1] % 2:
        return False
    turned = np.roll(a, (a.shape[0] // 2, a.shape[1] // 2), (0, 1))
    return bool((np.abs(turned - a) <= noise * np.abs(a).max()).all())


def _halves(a: np.ndarray) -> np.ndarray:
    rows, columns = a.shape[0] // 2, a.shape[1] // 2
    p, q = a[:rows, :columns], a[:rows, columns:]
    return np.stack([(p + q) / 2, (p - q) / 2])


def _rank_one(a: np.ndarray, noise: float, scale: float) -> tuple[np.ndarray, np.ndarray] | None:
    """u, v with ``a = u v^T`` to rounding. ``scale``: what noise is beside a larger first term is noise here."""
    if not np.isfinite(a).all():
        return None
    row, column = np.unravel_index(np.abs(a).argmax(), a.shape)
    largest = np.abs(a[row, column])
    if largest == 0:
        return np.zeros(a.shape[0]), np.zeros(a.shape[1])
    u, v = a[:, column] / a[row, column], a[row]
    if (np.abs(a - np.outer(u, v)) > max(noise * largest, 1e-13 * scale)).any():
        return None
    return u, v


def outer_vectors(left: np.ndarray, right: np.ndarray, noise: float) -> list[np.ndarray] | None:
    """in_h, in_w, out_h, out_w of a second term that is an outer product."""
    if len(left) < 2:
        return None
    of_h, of_w = (_rank_one(f[1], noise, float(np.abs(f[0]).max())) for f in (left, right))
    if of_h is None or of_w is None:
        return None
    return [of_h[1], of_w[1], of_h[0], of_w[0]]


def _packed(vectors: list[np.ndarray], halved: bool, device: torch.device) -> torch.Tensor:
    """Vectors one after the other, those along the width in halves where it is split, each padded as tables are."""
    whole = []
    for v, least, parts in zip(vectors, (UNIT_ROWS, 16) * 2, (1, 2 if halved else 1) * 2, strict=True):
        whole += [np.pad(part, (0, padded(len(part), least) - len(part))) for part in np.split(v, parts)]
    return torch.from_numpy(np.concatenate(whole)).to(device, torch.float32)


def plan(
    left: np.ndarray, right: np.ndarray, adjoint: bool, rounding: float, splitting: bool, device: torch.device
) -> Plan:
    """The plan of float64 factors [T, M, H] and [T, N, W], or of the adjoint's.

    Args:
        rounding: eps of the dtype in which the factors were given; structure is looked for to within that, and to
            within what computing them in float64 leaves.
        splitting: whether "split" is wanted; its kernel takes maps one by one.
    """
    if adjoint:
        left, right = left.swapaxes(1, 2), right.swapaxes(1, 2)
    outputs, inputs = left.shape[1] * right.shape[1], left.shape[2] * right.shape[2]
    if max(outputs, inputs) <= LARGEST_SMALL:
        whole = np.sum([np.kron(a, b) for a, b in zip(left, right, strict=True)], 0)[None]
        made = table(whole, exponent_for_right(whole), device)
        return Plan("small", 1, made.values, made.values, None, (1.0, 2.0**-made.exponent))
    vectors = outer_vectors(left, right, max(4 * rounding, 1e-13))
    if vectors is not None:
        left, right = left[:1], right[:1]
    kind = "tiled"
    widths = right.shape[1:]
    fits = len(right) == 1 and max(widths) >= SMALLEST_SPLIT and widths[1] <= LARGEST_SPLIT
    if splitting and fits and _is_split(right[0], max(2 * rounding, 1e-14)):
        kind, right = "split", _halves(right[0])
    tables = (
        table(left, exponent_for_left(left), device, UNIT_ROWS),
        table(right, exponent_for_right(right), device),
    )
    outer = None if vectors is None else _packed(vectors, kind == "split", device)
    factors = 2.0 ** -tables[0].exponent, 2.0 ** -tables[1].exponent
    return Plan(kind, len(left), tables[0].values, tables[1].values, outer, factors)
