"""``alias-ops spectrum``: spectra of images, and of what each downsampling layer of a model folds of them."""

import io
import json
import math
import shlex
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import plots, spectra
from .._selection import select
from .errors import UserError
from .images import Images, choose_images
from .models import load_model
from .output import circumstances, make_folder, replace
from .running import failed, input_channels, prepare, progress, said

__all__ = ["IMAGES", "LAYERS", "NUMBERS", "PROFILE", "run"]

LAYERS, IMAGES, PROFILE, NUMBERS = "layers.png", "images.png", "profile.png", "spectra.json"
DENSITY = 130


class _Spectra:
    """Means over images that come batch by batch."""

    def __init__(self) -> None:
        self.images = 0
        self.last: torch.Tensor | None = None
        self._level: Any = 0.0
        self._rings: Any = 0.0
        self._frequency: Any = None

    def add(self, batch: torch.Tensor) -> None:
        profile = spectra.radial_profile(batch)
        self._level = self._level + len(batch) * spectra.spectrum(batch)
        self._rings = self._rings + len(batch) * profile.level
        self._frequency = profile.frequency
        self.images += len(batch)
        self.last = batch

    def level(self) -> torch.Tensor:
        return self._level / self.images

    def profile(self) -> spectra.RadialProfile:
        return spectra.RadialProfile(self._frequency, self._rings / self.images)


def _seen(images: Images, batch_size: int, sums: _Spectra, like: torch.Tensor) -> Iterator[torch.Tensor]:
    """The batches, as the model takes them, once their own spectra are in ``sums``."""
    total = len(images.readers)
    with closing(progress(images.batches(batch_size), -(-total // batch_size), "transforming")) as batches:
        for batch in batches:
            sums.add(batch)
            yield batch.to(like.device, like.dtype)


def _run_model(model: nn.Module | None, batches: Iterator[torch.Tensor], sums: _Spectra, names: list[str]) -> list[Any]:
    if model is None:
        for _ in batches:
            pass
        return []
    try:
        return spectra.layer_spectra(model, batches, layers=names)
    except UserError:
        raise
    except Exception as error:
        if sums.last is None:
            raise
        raise failed(sums.last, error) from error


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DENSITY, metadata={"Software": None})
    return file.getvalue()


def _record(arguments: Namespace, source: str, sums: _Spectra, layers: list[spectra.LayerSpectrum]) -> dict[str, Any]:
    profile = sums.profile()
    return {
        "model": arguments.model,
        "command": shlex.join(["alias-ops", *arguments.argv]),
        "source": source,
        "images": sums.images,
        "size": arguments.size,
        "seed": arguments.seed,
        **circumstances(),
        "layers": [
            {"layer": one.name or "(the model)", "kind": one.kind, "am": _finite(one.aliasing)} for one in layers
        ],
        "radial_profile": {
            "frequency, cycles/sample": profile.frequency.tolist(),
            "mean log10 magnitude": [[_finite(value) for value in channel] for channel in profile.level.tolist()],
        },
    }


def run(arguments: Namespace) -> None:
    """Write the spectra of images and, if there is a model, of its downsampling layers.

    Args:
        arguments: as parsed by ``alias_ops.cli``.

    Raises:
        UserError: what is wrong in one sentence; nothing was written then.
        KeyboardInterrupt: likewise.
    """
    if find_spec("matplotlib") is None:
        raise UserError("spectrum needs matplotlib; pip install 'alias-ops[cli]'")
    torch.manual_seed(arguments.seed)
    model, like, channels = None, torch.empty(0), 3
    names: list[str] = []
    if arguments.model is not None:
        model, like = prepare(load_model(arguments.model, arguments.unsafe_load), arguments.device)
        channels = input_channels(model)
        with said(arguments.model):
            names = list(select(model, arguments.layers, "spectrum"))
    elif arguments.layers:
        raise UserError("--layers needs a MODEL")
    make_folder(arguments.output)
    images = choose_images(arguments.images, arguments.samples, channels, arguments.size, arguments.seed)
    sums, total = _Spectra(), len(images.readers)
    try:
        layers = _run_model(model, _seen(images, arguments.batch_size, sums, like), sums, names)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted after {sums.images} of {total} images; nothing was written") from error
    if not sums.images:
        raise UserError(f"none of the {total} {images.kind} can be read")
    figures = {IMAGES: plots.plot_spectrum(sums.level()), PROFILE: plots.plot_radial_profile(sums.profile()).figure}
    if layers:
        figures[LAYERS] = plots.plot_layers(layers)
    record = _record(arguments, images.kind, sums, layers)
    contents = {name: _png(figure) for name, figure in figures.items()}
    contents[NUMBERS] = (json.dumps(record, indent=2) + "\n").encode()
    for name, content in contents.items():
        replace(Path(arguments.output, name), content)
    width = max((len(layer["layer"]) for layer in record["layers"]), default=0)
    for layer in record["layers"]:
        am = "-" if layer["am"] is None else format(layer["am"], ".4g")
        print(f"{layer['layer']:<{width}}  AM {am:<9}  {layer['kind']}")
    size = f"{arguments.size}x{arguments.size}"
    print(f"{sums.images} {images.kind}, {size}; in {arguments.output}: {', '.join(contents)}")
