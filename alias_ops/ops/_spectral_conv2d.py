"""Identity 7 in PyTorch: the kept spectrum of a stride-1 convolution, from the spectra of x and weight.

Along each axis the spectrum of the full correlation is a product; what the layer keeps differs from
it by a few lines, whose phases (frame) and input samples (sources) come from ``designs.frame_lines``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .. import designs

__all__ = ["Axis", "dense_axis", "fft_axis", "low_spectrum"]


@dataclass(frozen=True)
class Axis:
    """One axis of identity 7; ``transform`` takes the last dimension of a real tensor to its bins 0..h."""

    transform: Callable[[torch.Tensor], torch.Tensor]
    phases: torch.Tensor  # complex [h+1, taps]
    frame: torch.Tensor  # complex [lines, h+1]
    sources: tuple[tuple[int, ...], ...]  # [lines][taps], -1 where a tap meets padding


def _complex(table: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    table = table.to(like)
    return torch.complex(table[0], table[1])


def dense_axis(tables: list[torch.Tensor], sources: tuple[tuple[int, ...], ...], like: torch.Tensor) -> Axis:
    rows = tables[0].to(like)
    return Axis(
        lambda x: torch.complex(x @ rows[0].mT, x @ rows[1].mT),
        _complex(tables[1], like),
        _complex(tables[2], like),
        sources,
    )


def fft_axis(like: torch.Tensor, size: int, kernel: int, stride: int, padding: int, dilation: int) -> Axis:
    geometry = (size, kernel, stride, padding, dilation)
    stride_1 = designs.correlation_size(size, kernel, padding, dilation)
    length = designs.output_size(stride_1, stride) * stride
    kept = designs.half_band(stride_1, stride) + 1

    def transform(x: torch.Tensor) -> torch.Tensor:
        # Samples beyond L have the phase of those L before them: wrap, since rfft would cut them off.
        wrapped = x[..., :length]
        for start in range(length, size, length):
            part = x[..., start : start + length]
            wrapped = wrapped + torch.nn.functional.pad(part, (0, wrapped.shape[-1] - part.shape[-1]))
        return torch.fft.rfft(wrapped, n=length, norm="forward")[..., :kept]

    phases, (weights, _) = designs.tap_phases(*geometry), designs.frame_lines(*geometry)
    return Axis(transform, _complex(phases, like), _complex(weights, like), designs.frame_sources(*geometry))


def _both_signs(spectrum: torch.Tensor) -> torch.Tensor:
    """[..., f] of something real -> [..., 2, f]: +f and -f."""
    return torch.stack([spectrum, spectrum.conj()], -2)


def _pick(x: torch.Tensor, dim: int, sources: tuple[int, ...]) -> tuple[torch.Tensor, list[int]]:
    """The samples that a line's taps meet, and those taps."""
    taps = [tap for tap, source in enumerate(sources) if source >= 0]
    index = torch.tensor([sources[tap] for tap in taps], device=x.device)
    return x.index_select(dim, index), taps


def low_spectrum(x: torch.Tensor, weight: torch.Tensor, axis_h: Axis, axis_w: Axis, groups: int) -> torch.Tensor:
    """Kept bins of the stride-1 map's spectrum, half plane: complex [B, Cout, 2, h+1, h'+1]."""
    x = x.unflatten(1, (groups, -1))
    weight = weight.unflatten(0, (groups, -1)).to(axis_h.phases.dtype)
    x_w = axis_w.transform(x)  # [B, G, I, H, g]
    w_w = weight @ axis_w.phases.mT  # [G, O, I, t, g]
    x_h = _both_signs(axis_h.transform(x.mT))  # [B, G, I, W, 2, f]
    phases_h = _both_signs(axis_h.phases.mT)  # [t, 2, f]
    frame_h = _both_signs(axis_h.frame)  # [lines, 2, f]

    # (+-f, g) of a complex column: transform its real and imaginary part, conjugate each for -f.
    columns = torch.view_as_real(x_w).movedim(-1, 0).mT  # [2, B, G, I, g, H]
    real, imag = _both_signs(axis_h.transform(columns))  # [B, G, I, g, 2, f]
    x_hat = real + 1j * imag
    w_hat = torch.einsum("goitn,tsf->goinsf", w_w, phases_h)
    low = torch.einsum("bginsf,goinsf->bgosfn", x_hat, w_hat)

    for line, sources in enumerate(axis_h.sources):
        row, taps = _pick(x_w, 3, sources)
        spectrum = torch.einsum("bgitn,goitn->bgon", row, w_w[..., taps, :])
        low = low + spectrum[..., None, None, :] * frame_h[line][..., None]
    w_h = torch.einsum("goitu,tsf->goiusf", weight, phases_h)
    for line, sources in enumerate(axis_w.sources):
        column, taps = _pick(x_h, 3, sources)
        spectrum = torch.einsum("bgiusf,goiusf->bgosf", column, w_h[:, :, :, taps])
        low = low + spectrum[..., None] * axis_w.frame[line]
        for other, others in enumerate(axis_h.sources):
            corner, rows = _pick(_pick(x, 4, sources)[0], 3, others)
            value = torch.einsum("bgitu,goitu->bgo", corner.to(weight.dtype), weight[..., rows, :][..., taps])
            low = low + value[..., None, None, None] * frame_h[other][..., None] * axis_w.frame[line]
    return low.flatten(1, 2)
