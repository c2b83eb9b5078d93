"""How the kernels of conv2d_alias_l1 start: what all of them are told, and in which of their configurations."""

from typing import Any

import torch
from triton import knobs

from ._launch import Config, chosen, next_power_of_two
from .conv2d_alias_l1_plan import Layer, spectra_blocks

__all__ = ["along_channels", "launch_spectra", "launch_tiles", "spectra_grid", "switches", "wide"]


def switches(layer: Layer) -> dict[str, Any]:
    return {"PRECISION": layer.precision, "INTERPRETED": knobs.runtime.interpret}


def spectra_grid(config: Config, images: int, channels: int, frequencies: tuple[int, int]) -> tuple[int]:
    b = dict(config.blocks)
    return (images * -(-channels // b["C"]) * -(-frequencies[0] // b["F"]) * -(-frequencies[1] // b["G"]),)


def along_channels(x: torch.Tensor) -> bool:
    """Whether neighbouring channels are nearer to each other in memory than neighbours in a row."""
    return x.stride(1) < x.stride(3)


def wide(x: torch.Tensor, images: int = 1) -> bool:
    """Whether offsets within so many images pass 32 bits, with room for a block beyond the last sample."""
    sizes = (images, *x.shape[1:])
    return sum((size + 64) * stride for size, stride in zip(sizes, x.stride()) if stride) - 64 * x.stride(0) >= 2**31


def _with_fewer_stages(config: Config) -> Config:
    """The other candidate for products over channels: less on its way, more programs beside each other."""
    return Config(config.blocks, config.warps, config.stages - 1)


def launch_spectra(
    kernel, x: torch.Tensor, arguments: tuple, layer: Layer, frequencies: tuple[int, int], samples: tuple[int, int],
    last: bool | None = None, **constants: Any,
) -> None:  # fmt: skip
    """Launch a kernel whose programs are of ``tile_of``.

    Args:
        x: the maps [images, channels, any, any], of which ``samples`` at most enter a spectrum.
        last: whether blocks are those for channels that come last; None to look at x.
    """
    lies = along_channels(x)
    config = spectra_blocks(layer, frequencies, samples, lies if last is None else last)
    kernel[spectra_grid(config, x.shape[0], x.shape[1], frequencies)](
        *arguments, LAST=lies, **constants, **config.arguments(), **switches(layer)
    )


def launch_tiles(
    kernel, x: torch.Tensor, arguments: tuple, layer: Layer, first: Config, programs: int, **constants: Any
) -> None:
    """Launch a kernel of so many programs that walk the channels of x; what it writes it must not read."""
    options = first, _with_fewer_stages(first)
    constants |= switches(layer)

    def run(config: Config) -> None:
        kernel[(programs,)](*arguments, **constants, **config.arguments())

    sizes = (*first.blocks, next_power_of_two(layer.inputs), str(x.dtype), layer.precision, layer.groups > 1)
    run(chosen(f"conv2d_alias_l1_{kernel.__name__}", sizes, options, run, x, programs))
