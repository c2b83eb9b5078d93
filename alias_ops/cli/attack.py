"""``alias-ops attack``: the high-frequency attack on a model, on a folder of images."""

import io
import json
import math
import shlex
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ..frequency import distances, high_frequency_attack
from ..frequency.attack import predicted_labels, schedule
from .errors import UserError
from .images import Images, find_images, pixels, statistics
from .models import load_model
from .output import circumstances, make_folder, replace
from .running import bar, failed, input_channels, prepare
from .table import show_table

__all__ = ["run"]

RADII = 100


@dataclass(frozen=True)
class _Row:
    """What became of an image; radius and norm are None where the attack found nothing or was not needed."""

    image: str
    label: int
    predicted: int
    result: str
    radius: float | None
    norm: float | None
    queries: int


class _Asked:
    """The model, from pixels to labels, that tells how often it was asked."""

    def __init__(
        self, model: nn.Module, like: torch.Tensor, channels: int, largest: int, move: Callable[[int], None]
    ) -> None:
        self._model, self._like, self._largest, self._move = model, like, largest, move
        self._mean, self._std = (values.to(like.device) for values in statistics(channels))
        self.queries = 0

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        try:
            scores = self._model(((images - self._mean) / self._std).to(self._like.dtype))
        except Exception as error:
            raise failed(images, error) from error
        labels = predicted_labels(scores, len(images))
        if scores.dim() == 2 and self._largest >= scores.shape[1]:
            raise UserError(
                f"IMAGES has subfolders for {self._largest + 1} classes, and the model {scores.shape[1]}; --predicted "
                "takes its own labels"
            )
        self.queries += len(images)
        self._move(self.queries)
        return labels


def _classes(folder: Path, paths: list[Path]) -> dict[str, int] | None:
    """Label of each image by its subfolder, as torchvision's ImageFolder numbers them; None where there are none."""
    if any(path.parent == folder for path in paths):
        return None
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    return {str(path): names.index(path.relative_to(folder).parts[0]) for path in paths}


def _rows(
    ask: _Asked, names: list[str], batch: torch.Tensor, labels: dict[str, int] | None, settings: Namespace
) -> tuple[list[_Row], torch.Tensor]:
    """Attack a batch: a row for each image, and the images."""
    truth = ask(batch) if labels is None else torch.tensor([labels[name] for name in names], device=batch.device)
    found = high_frequency_attack(
        ask, batch, truth, step=settings.step, min_radius=settings.min_radius, bounds=(0.0, 1.0)
    )
    predicted, rows = ask(found.images), []
    for i, name in enumerate(names):
        radius, norm = found.radius[i].item(), found.norm[i].item()
        attacked = math.isfinite(radius)
        rows.append(
            _Row(
                image=name,
                label=int(truth[i]),
                predicted=int(predicted[i]),
                result="by attack" if attacked else "wrong as it is" if radius == math.inf else "right",
                radius=radius if attacked else None,
                norm=norm if attacked else None,
                queries=int(found.queries[i]),
            )
        )
    return rows, found.images.cpu()


def _png(image: torch.Tensor) -> bytes:
    from PIL import Image

    levels = image.mul(255).round().clamp(0, 255).byte().movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="png")
    return file.getvalue()


def _write(folder: str, root: Path, rows: list[_Row], images: torch.Tensor) -> None:
    for row, image in zip(rows, images, strict=True):
        if row.result == "by attack":
            target = Path(folder, f"{Path(row.image).relative_to(root)}.png")
            make_folder(str(target.parent))
            replace(target, _png(image))


def _number(value: float | None) -> str:
    return "-" if value is None else format(value, ".4g")


def _finish(arguments: Namespace, title: str, rows: list[_Row], complete: bool) -> None:
    """Print and write what there is."""
    record = {
        "model": arguments.model,
        "command": shlex.join(["alias-ops", *arguments.argv]),
        "source": arguments.images,
        "complete": complete,
        **{name: getattr(arguments, name) for name in ("size", "step", "min_radius", "seed")},
        **circumstances(),
        "images": [asdict(row) for row in rows],
    }
    text = json.dumps(record, indent=2)
    if arguments.output is not None:
        replace(Path(arguments.output, "attack.json"), (text + "\n").encode())
    if arguments.json:
        print(text)
        return
    header = ["image", "result", "label", "predicted", "radius", "L2", "queries"]
    body = [
        [
            row.image, row.result, str(row.label), str(row.predicted), _number(row.radius), _number(row.norm),
            str(row.queries),
        ]
        for row in rows
    ]  # fmt: skip
    show_table(title + ("" if complete else ", incomplete"), header, body, 2)
    counts = {result: sum(row.result == result for row in rows) for result in ("wrong as it is", "by attack", "right")}
    print(
        f"\n{len(rows)} images: {counts['wrong as it is']} wrong as they are, {counts['by attack']} by the attack, "
        f"{counts['right']} right on all; {sum(row.queries for row in rows)} queries"
    )


def run(arguments: Namespace) -> None:
    """Attack a model, print what was found and write the files that were asked for.

    Args:
        arguments: as parsed by ``alias_ops.cli``.

    Raises:
        UserError: what is wrong in one sentence; what was found before has been shown and written.
        KeyboardInterrupt: likewise.
    """
    torch.manual_seed(arguments.seed)
    model, like = prepare(load_model(arguments.model, arguments.unsafe_load), arguments.device)
    channels, size, root = input_channels(model), arguments.size, Path(arguments.images)
    if channels not in (1, 3):
        raise UserError(f"IMAGES are of 1 or 3 channels, and the model takes {channels}")
    paths = find_images(root, arguments.samples, arguments.seed, "IMAGES")
    labels = None if arguments.predicted else _classes(root, paths)
    if arguments.output is not None:
        make_folder(arguments.output)
    arguments.min_radius = size / 4 if arguments.min_radius is None else arguments.min_radius
    every = len(schedule(size, size, 1, arguments.min_radius))
    arguments.step = arguments.step or max(1, round(every / RADII))
    radii = len(schedule(size, size, arguments.step, arguments.min_radius))
    images = Images(f"images of {root}", {str(path): partial(pixels, path, channels, size) for path in paths})
    title = (
        f"High-frequency attack on {arguments.model}: {len(paths)} images of {root}, {size}x{size}, {like.device}; "
        f"labels {'of the model' if labels is None else 'by subfolder'}; {radii} of {len(distances(size, size))} radii"
    )
    rows: list[_Row] = []
    done = False
    most = 2 + radii + (labels is None)  # of each image: x itself, the radii, and what is shown in the end
    try:
        with bar(len(paths) * most, "attacking") as move:
            ask = _Asked(model, like, channels, max(labels.values()) if labels else -1, move)
            for names, batch in images.named_batches(arguments.batch_size):
                new, changed = _rows(ask, names, batch.to(like.device), labels, arguments)
                rows += new
                ask.queries = len(rows) * most
                move(ask.queries)
                if arguments.output is not None:
                    _write(arguments.output, root, new, changed)
        done = True
    except TypeError as error:
        raise UserError(f"{arguments.model}: {error}") from error
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"interrupted after {len(rows)} of {len(paths)} images") from error
    finally:
        if rows:
            _finish(arguments, title, rows, done)
    if not rows:
        raise UserError(f"none of the {len(paths)} images of {root} can be read")
