"""What the kernels of conv2d_alias_l1 look up: one layer's tables, from ``designs``, on its device."""

from dataclasses import dataclass

import numpy as np
import torch

from .. import designs
from ..designs._cache import cached

__all__ = ["Axis", "Geometry", "Tables", "bin_count", "bin_weights", "kronecker", "tables"]

# (size, kernel, stride, padding, dilation) along an axis, as the functions of ``designs`` take it.
Axis = tuple[int, int, int, int, int]
Geometry = tuple[Axis, Axis]


@dataclass(frozen=True)
class Tables:
    """float32 and int32, contiguous, on the device of the layer. _h is along the height, _w along the width."""

    outputs: tuple[int, int]  # N, M
    kept: tuple[int, int]  # h + 1: the kept frequencies 0..h
    lines: tuple[int, int]  # of the frame
    edges: tuple[int, int]  # rows and columns of x that they meet
    input_h: torch.Tensor  # [2, h+1, H]
    input_w: torch.Tensor
    dft_h: torch.Tensor  # [2, N // 2 + 1, N]
    dft_w: torch.Tensor
    low_h: torch.Tensor  # [2, kernel, h+1, H]: cropped_rows
    low_w: torch.Tensor
    line_rows: torch.Tensor  # flat: cropped_rows of the width, full_rows of the height
    frame_h: torch.Tensor  # [2, lines, h+1]
    frame_w: torch.Tensor
    samples: torch.Tensor  # int32 [edges]: the rows, then the columns
    sources: torch.Tensor  # int32 [lines, max kernel]: first slot of the edge that a tap meets, or -1
    smooth_h: torch.Tensor  # [kernel, N, H]: P of identity 4
    smooth_w: torch.Tensor
    phases: torch.Tensor  # [2, bins, taps]: of the weight at the kept bins
    kept_weights: torch.Tensor  # [bins]: how often each counts
    all_weights: torch.Tensor  # the same of the whole half plane of N x M


def bin_count(N: int, M: int) -> int:
    """Bins of a real N x M map, one of each conjugate pair."""
    edge = N // 2 + 1
    return edge + (M - 1) // 2 * N + (edge if M % 2 == 0 else 0)


def _bins(N: int, M: int) -> tuple[np.ndarray, np.ndarray]:
    """Signed f and g of every bin, in the order of ``bin_places``."""
    half = np.arange(N // 2 + 1)
    every = np.arange(N)
    every = np.where(2 * every > N, every - N, every)
    columns = [(half, 0), *((every, g) for g in range(1, (M - 1) // 2 + 1)), *([(half, M // 2)] if M % 2 == 0 else [])]
    return np.concatenate([f for f, _ in columns]), np.concatenate([np.full(len(f), g) for f, g in columns])


def bin_weights(N: int, M: int) -> np.ndarray:
    """1 for bins that are their own conjugates, 2 for those that stand for another one."""
    f, g = _bins(N, M)
    alone = ((f == 0) | (2 * np.abs(f) == N)) & ((g == 0) | (2 * g == M))
    return np.where(alone, 1.0, 2.0)


def _weight_phases(geometry: Geometry, kept: tuple[int, int]) -> np.ndarray:
    f, g = _bins(2 * kept[0] - 1, 2 * kept[1] - 1)
    phases = [(table := designs.tap_phases(*axis).numpy())[0] + 1j * table[1] for axis in geometry]
    along_h = np.where(f[:, None] < 0, phases[0][np.abs(f)].conj(), phases[0][np.abs(f)])
    product = (along_h[:, :, None] * phases[1][g][:, None, :]).reshape(len(f), -1)
    return np.stack([product.real, product.imag])


@cached
def tables(geometry: Geometry, device: torch.device) -> Tables:
    """The tables of a layer; cached, so read-only."""

    def place(table, dtype=torch.float32) -> torch.Tensor:
        return torch.as_tensor(table).to(device, dtype).contiguous()

    sizes = [designs.correlation_size(size, kernel, p, d) for size, kernel, _, p, d in geometry]
    outputs = [designs.output_size(size, axis[2]) for size, axis in zip(sizes, geometry)]
    kept = [designs.half_band(size, axis[2]) + 1 for size, axis in zip(sizes, geometry)]
    frames = [designs.frame_lines(*axis)[0] for axis in geometry]
    sources = [designs.frame_sources(*axis) for axis in geometry]
    edges = [designs.edge_samples(*axis) for axis in geometry]
    # Rows of x have kept[1] slots each, one per g; columns come after them, with kept[0].
    starts = [
        {sample: index * kept[1] for index, sample in enumerate(edges[0])},
        {sample: len(edges[0]) * kept[1] + index * kept[0] for index, sample in enumerate(edges[1])},
    ]
    taps = max(axis[1] for axis in geometry)
    slots = [
        [start.get(sample, -1) for sample in line] + [-1] * (taps - len(line))
        for start, lines in zip(starts, sources)
        for line in lines
    ]
    return Tables(
        (outputs[0], outputs[1]),
        (kept[0], kept[1]),
        (len(sources[0]), len(sources[1])),
        (len(edges[0]), len(edges[1])),
        place(designs.input_rows(*geometry[0])),
        place(designs.input_rows(*geometry[1])),
        place(designs.dft_rows(outputs[0])),
        place(designs.dft_rows(outputs[1])),
        place(designs.cropped_rows(*geometry[0])),
        place(designs.cropped_rows(*geometry[1])),
        place(torch.cat([designs.cropped_rows(*geometry[1]).flatten(), designs.full_rows(*geometry[0]).flatten()])),
        place(frames[0]),
        place(frames[1]),
        place([*edges[0], *edges[1]], torch.int32),
        place(slots, torch.int32),
        place(designs.tap_factors(*geometry[0])[1]),
        place(designs.tap_factors(*geometry[1])[1]),
        place(_weight_phases(geometry, (kept[0], kept[1]))),
        place(bin_weights(2 * kept[0] - 1, 2 * kept[1] - 1)),
        place(bin_weights(*outputs)),
    )


@cached
def kronecker(N: int, M: int, NP: int, MP: int, block: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """DFT of a whole N x M map at once, for maps that lie in a grid of NP x MP.

    Returns:
        [2, bins, NP * MP], real and imaginary part, and weights [bins]; float32, bins a multiple of ``block``
        with zeros behind the real ones.
    """
    f, g = _bins(N, M)
    count = -(-len(f) // block) * block
    dft = [(table := designs.dft_rows(size).numpy())[0] + 1j * table[1] for size in (N, M)]
    along_h = np.where(f[:, None] < 0, dft[0][np.abs(f)].conj(), dft[0][np.abs(f)])
    grid = np.zeros((2, count, NP, MP))
    product = along_h[:, :, None] * dft[1][g][:, None, :]
    grid[:, : len(f), :N, :M] = product.real, product.imag
    weights = np.zeros(count)
    weights[: len(f)] = bin_weights(N, M)
    return tuple(
        torch.from_numpy(t).to(device, torch.float32).contiguous() for t in (grid.reshape(2, count, NP * MP), weights)
    )  # type: ignore[return-value]
