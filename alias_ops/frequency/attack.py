"""The high-frequency attack: how much of its high frequencies an image can lose before a network errs."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from .._checks import check_maps, check_positive
from ..ops._library import accumulation_dtype
from .components import INTEGERS, check_radius, distances, low_of_spectrum, parts, spectrum

__all__ = ["HighFrequencyResult", "check_settings", "high_frequency_attack", "predicted_labels", "schedule", "search"]

# Images [n, C, H, W] and which of all images they are, int64 [n] -> bool [n], which of them the network gets wrong.
Wrong = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class HighFrequencyResult(NamedTuple):
    """What :func:`high_frequency_attack` found, one entry per image, on the images' device.

    Attributes:
        images: [N, C, H, W] in x's dtype: the low-frequency component that the network gets wrong, or x as it came
            where there is none.
        success: bool [N], whether the network gets ``images`` wrong, be it x itself.
        radius: of that component, in bins of the spectrum, float64 [N] (float32 on mps). inf: wrong on x itself.
            NaN: right on x and on every component.
        norm: L2 of ``images - x`` over channels and pixels, in the unit of x, float [N] (float32 of half types, else
            x's dtype). 0 where the network was wrong on x itself, inf where nothing was found: a median over images
            is then that of an attack that failed on some.
        queries: int64 [N], how often the network was asked about the image, x itself included.
    """

    images: torch.Tensor
    success: torch.Tensor
    radius: torch.Tensor
    norm: torch.Tensor
    queries: torch.Tensor


def schedule(height: int, width: int, step: int, min_radius: float | None) -> torch.Tensor:
    """Radii to try, descending, float64 [K]: of the distinct distances every ``step``-th, none below ``min_radius``."""
    least = min(height, width) / 4 if min_radius is None else float(min_radius)
    radii = distances(height, width).flip(0)[::step]
    return radii[radii >= least]


@torch.no_grad()
def search(
    x: torch.Tensor,
    success: torch.Tensor,
    wrong: Wrong,
    radii: torch.Tensor,
    batch_size: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> HighFrequencyResult:
    """Per image, the first of ``radii`` at which ``wrong`` holds of the low-frequency component.

    Images that are done make room for others, so that a query is of ``batch_size`` images while there are as many.

    Args:
        x: floating [N, C, H, W].
        success: bool [N], of which x the network is wrong on as they are; that was one query each.
        wrong: decides; asked about each image alone, whatever others are in its batch.
        radii: to be tried in this order.
        batch_size: images a query at most, None for all.
        bounds: to clip components to.
    """
    size = batch_size or max(1, len(x))
    radii = radii.to(x.device, torch.float32 if x.device.type == "mps" else torch.float64)
    everything = torch.arange(len(x), device=x.device)
    result = HighFrequencyResult(
        images=x.clone(),
        success=success.clone(),
        radius=torch.where(success, torch.inf, torch.nan).to(radii.dtype),
        norm=torch.where(success, 0.0, torch.inf).to(accumulation_dtype(x.dtype)),
        queries=torch.ones_like(everything),
    )
    waiting = everything[~success] if len(radii) else everything[:0]
    active, turn, bins = waiting[:0], waiting[:0], None
    while len(active) or len(waiting):
        entering, waiting = waiting[: size - len(active)], waiting[size - len(active) :]
        if len(entering):
            active, turn = torch.cat([active, entering]), torch.cat([turn, torch.zeros_like(entering)])
            entered = spectrum(x[entering])
            bins = entered if bins is None else torch.cat([bins, entered])
        assert bins is not None
        originals = x[active]
        candidates = parts(originals, low_of_spectrum(originals, bins, radii[turn])).low
        if bounds is not None:
            candidates = candidates.clamp(*bounds)
        found = wrong(candidates, active)
        result.queries[active] += 1
        hits = active[found]
        result.images[hits], result.success[hits], result.radius[hits] = candidates[found], True, radii[turn[found]]
        result.norm[hits] = (candidates[found].to(result.norm.dtype) - x[hits]).flatten(1).norm(dim=1)
        turn = turn + 1
        going_on = ~found & (turn < len(radii))
        if not going_on.all():
            active, turn, bins = active[going_on], turn[going_on], bins[going_on]
    return result


def predicted_labels(output: object, count: int) -> torch.Tensor:
    """Predicted labels, int64 [n], of what a network returned for n images."""
    if isinstance(output, torch.Tensor):
        if output.dim() == 2 and len(output) == count and output.is_floating_point() and output.shape[1]:
            return output.argmax(1)
        if output.shape == (count,) and output.dtype in INTEGERS:
            return output.long()
        came = f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    else:
        came = type(output).__name__
    raise TypeError(f"model must return floating scores [{count}, classes] or integer labels [{count}], got {came}")


def _check_labels(labels: object, x: torch.Tensor) -> None:
    expected = f"labels must be an integer tensor [{len(x)}] or None"
    if not isinstance(labels, torch.Tensor):
        raise TypeError(f"{expected}, got {type(labels).__name__}")
    came = f"{str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
    if labels.dtype not in INTEGERS:
        raise TypeError(f"{expected}, got {came}")
    if labels.shape != (len(x),):
        raise ValueError(f"{expected}, got {came}")
    if labels.device != x.device:
        raise ValueError(f"labels must be on the device of x ({x.device}), got {labels.device}")


def _check_bounds(bounds: object) -> None:
    if bounds is None:
        return
    numbers = isinstance(bounds, (tuple, list)) and all(isinstance(b, (int, float)) for b in bounds)
    if not numbers or len(bounds) != 2 or not bounds[0] < bounds[1]:  # type: ignore[arg-type,index]
        raise ValueError(f"bounds must be a pair of numbers (lower, upper) or None, got {bounds!r}")


def check_settings(step: object, min_radius: object, batch_size: object) -> None:
    """Raise TypeError or ValueError unless these are as :func:`high_frequency_attack` takes them."""
    check_positive("step", step)
    if min_radius is not None:
        check_radius(min_radius, "min_radius")
    if batch_size is not None:
        check_positive("batch_size", batch_size)


def high_frequency_attack(
    model: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    step: int = 1,
    min_radius: float | None = None,
    batch_size: int | None = None,
    bounds: tuple[float, float] | None = None,
) -> HighFrequencyResult:
    """Take high frequencies away from each image until the network gets it wrong: a black-box attack by labels alone.

        found = high_frequency_attack(model.eval(), images, labels, step=8)
        print(found.success.float().mean(), found.norm.median(), found.queries.sum())

    1. Ask about x itself. What the network gets wrong already is done.
    2. Of the others try ``low_pass(x, r)``, r going down through the distinct distances of :func:`distances`, every
       ``step``-th of them from the largest on. With step = 1 every low-pass that there is at or above min_radius is
       tried, none twice.
    3. An image stops at the first one that the network gets wrong: the largest radius, so the smallest perturbation,
       that does it among those tried. It is not asked about again.

    Images are attacked each by itself: neither ``batch_size`` nor what else is in x changes what is found, up to the
    last bits of the FFT and of the network, which may depend on the size of a batch.

    Args:
        model: any callable from images [n, C, H, W] to floating scores [n, classes], of which the largest counts,
            or to integer labels [n]. A module runs in the mode that it is in, as in Foolbox, with a warning in
            training mode, where batches have an influence. No gradients are taken.
        x: floating [N, C, H, W], on the model's device.
        labels: integers [N], or None for what the model says of x.
        step: positive int. The query count of an image is at most 1 + K / step, K of the distances being left.
        min_radius: stop before the radius is below this, where a person would no longer recognise the image; in bins.
            None: a quarter of the shorter side, at which an image is what it is at half its resolution.
        batch_size: images in a query at most; memory is of as many, beside x and the result. None: N.
        bounds: clip what is sent to the network to (lower, upper). None: components as they are, which may leave
            the range of x by ringing.

    Returns:
        HighFrequencyResult(images, success, radius, norm, queries).

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came; also where the model returns
            something else than scores or labels.

    Source: Wang et al., CVPR 2020; the schedule is this package's own.
    """
    if not callable(model):
        raise TypeError(f"model must be a callable from images to scores or labels, got {type(model).__name__}")
    check_maps(x)
    if x.dim() != 4:
        raise ValueError(f"x must be a floating tensor [N, C, H, W], got {list(x.shape)}")
    check_settings(step, min_radius, batch_size)
    _check_bounds(bounds)
    if labels is not None:
        _check_labels(labels, x)
    if isinstance(model, nn.Module) and model.training:
        warnings.warn(
            "model is in training mode, so that its labels depend on the batch; call model.eval() first",
            stacklevel=2,
        )

    def predict(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return predicted_labels(model(images), len(images))

    batches = x.split(batch_size or len(x)) if len(x) else ()
    predicted = torch.cat([torch.empty(0, dtype=torch.int64, device=x.device), *map(predict, batches)])
    truth = predicted if labels is None else labels.long()
    radii = schedule(x.shape[-2], x.shape[-1], step, min_radius)
    return search(x, predicted != truth, lambda images, i: predict(images) != truth[i], radii, batch_size, bounds)
