"""Identity 4 without a P for every tap: shifted by a tap, P's outputs are those of one low-passed map.

Along an axis of L = s N let ``base`` take x to its low-passed self at every s-th place. Between these the map
follows from them, being band-limited (``turns``). Tap t at output n finds it at s n + t d - p, modulo L; what
the layer crops and pads there, the lines of :func:`frame_lines`, comes on top.
"""

import numpy as np
import torch

from ._cache import cached, constant
from ._roots import roots
from .aliasing import half_band
from .conv2d import ConvTables, conv_tables, correlation_size, frame_lines
from .spectrum import output_size

__all__ = ["conv_tables_with_taps", "tap_tables"]


def _kept(outputs: int) -> np.ndarray:
    h = half_band(outputs, 1)
    return np.arange(-h, h + 1)


def _base(size: int, outputs: int, stride: int) -> torch.Tensor:
    f = _kept(outputs)
    rows = roots(-np.outer(f, np.arange(size)), outputs * stride)
    return torch.from_numpy((roots(np.outer(np.arange(outputs), f), outputs) @ rows).real / (outputs * stride))


def _turn(outputs: int, stride: int, phase: int) -> torch.Tensor:
    n, f = np.arange(outputs), _kept(outputs)
    turned = roots(np.outer(stride * n + phase, f), outputs * stride)
    return torch.from_numpy((turned @ roots(-np.outer(f, n), outputs)).real / outputs)


def _profiles(size: int, kernel: int, stride: int, padding: int, dilation: int) -> torch.Tensor:
    """What a line of the frame adds to the low-passed outputs: [lines, N]."""
    outputs = output_size(correlation_size(size, kernel, padding, dilation), stride)
    weights = frame_lines(size, kernel, stride, padding, dilation)[0].numpy()
    waves = roots(np.outer(np.arange(weights.shape[-1]), np.arange(outputs)), outputs)
    waves[1:] *= 2
    return torch.from_numpy(((weights[0] + 1j * weights[1]) @ waves).real.copy())


@cached
def tap_tables(size: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[torch.Tensor, ...]:
    """P of every tap (:func:`tap_factors`) along one axis, in parts.

    Returns:
        base: float64 [N, size], the low-passed axis at the places s n.
        turns: float64 [phases, N, N], from there to the places s n + phase, for the phases that taps need.
        places: int64 [kernel, 2]: the table that a tap takes its outputs from, 0 for ``base`` and i + 1 for
        ``turns[i]``, and at which of them it starts, going round.
        profiles: float64 [lines, N]: times the sample that a tap meets on a line, what that adds.
        sources: int64 [lines, kernel]: these samples, -1 for none.
    """
    outputs = output_size(correlation_size(size, kernel, padding, dilation), stride)
    shifts, phases = np.divmod(np.arange(kernel) * dilation - padding, stride)
    turned = sorted({int(phase) for phase in phases} - {0})
    turns = [_turn(outputs, stride, phase) for phase in turned]
    places = [[1 + turned.index(phase) if phase else 0, shift % outputs] for phase, shift in zip(phases, shifts)]
    return (
        _base(size, outputs, stride),
        torch.stack(turns) if turns else torch.zeros(0, outputs, outputs, dtype=torch.float64),
        torch.tensor(places),
        _profiles(size, kernel, stride, padding, dilation),
        frame_lines(size, kernel, stride, padding, dilation)[1],
    )


@constant
def conv_tables_with_taps(size: int, kernel: int, stride: int, padding: int, dilation: int) -> ConvTables:
    """Tables of one axis for ``conv2d_alias_l1`` by both identities: :func:`conv_tables`, then :func:`tap_tables`."""
    geometry = (size, kernel, stride, padding, dilation)
    return [*conv_tables(*geometry), *tap_tables(*geometry)]
