"""The high-frequency attack as one of Foolbox's, beside its own in its own tools."""

from typing import Any

import torch

from ..frequency.attack import check_settings, schedule, search

try:
    import eagerpy as ep
    from foolbox.attacks.base import MinimizationAttack, get_criterion, raise_if_kwargs, verify_input_bounds
    from foolbox.criteria import Misclassification, TargetedMisclassification
    from foolbox.distances import l2
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] not in ("foolbox", "eagerpy"):
        raise
    raise ImportError('alias_ops.integrations.foolbox needs foolbox: pip install "alias-ops[attacks]"') from error

__all__ = ["HighFrequencyAttack"]


class HighFrequencyAttack(MinimizationAttack):
    """The high-frequency attack, :func:`alias_ops.frequency.high_frequency_attack`, for Foolbox.

        attack = HighFrequencyAttack(step=8)
        model = foolbox.PyTorchModel(network.eval(), bounds=(0, 1))
        raw, clipped, success = attack(model, images, labels, epsilons=[1, 2, None])

    1. As there: low-pass each image with a falling radius, until the criterion holds or min_radius is reached.
    2. Clipped to the model's bounds, which Foolbox asks of its attacks; the low-frequency component alone would
       leave them by ringing. With bounds that are wide enough both attacks find the same.

    An image for which nothing is found comes back as it was, as from Foolbox's other attacks: ``success`` tells.
    Distances are L2. ``early_stop`` has no effect: the search begins at the smallest perturbation.

    Args:
        step: positive int; try every step-th of the distinct radii.
        min_radius: the smallest one; None for a quarter of the shorter side.
        batch_size: images in a query at most, None for all.

    Images are [N, C, H, W] of PyTorch. Of Misclassification and TargetedMisclassification an image that is done is
    not queried again. Of any other criterion, which cannot be cut into images, every query is of all of them, and
    ``batch_size`` has no effect.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.
        ImportError: (from the import) foolbox is missing.

    Source: Wang et al., CVPR 2020; the interface of Rauber et al., Foolbox Native, JOSS 2020.
    """

    distance = l2

    def __init__(self, *, step: int = 1, min_radius: float | None = None, batch_size: int | None = None) -> None:
        check_settings(step, min_radius, batch_size)
        self.step = step
        self.min_radius = min_radius
        self.batch_size = batch_size

    def run(self, model: Any, inputs: Any, criterion: Any, *, early_stop: float | None = None, **kwargs: Any) -> Any:
        """What Foolbox calls: perturbed inputs, of their type."""
        raise_if_kwargs(kwargs)
        wrapped, restore_type = ep.astensor_(inputs)
        verify_input_bounds(wrapped, model)
        x = wrapped.raw
        if not isinstance(x, torch.Tensor) or x.dim() != 4 or not x.is_floating_point():
            kind = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise TypeError(f"inputs must be a floating torch.Tensor [N, C, H, W], got {kind}")
        decide = _Decision(model, get_criterion(criterion), x)
        everything = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            success = torch.cat([decide(x[i], i) for i in everything.split(self.batch_size or len(x))])
        radii = schedule(x.shape[-2], x.shape[-1], self.step, self.min_radius)
        bounds = float(model.bounds.lower), float(model.bounds.upper)
        return restore_type(ep.astensor(search(x, success, decide, radii, self.batch_size, bounds).images))


class _Decision:
    """Whether a criterion holds of some of all images."""

    def __init__(self, model: Any, criterion: Any, x: torch.Tensor) -> None:
        self.model, self.criterion, self.x = model, criterion, x

    def __call__(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        part: Any = None
        if type(self.criterion) is Misclassification:
            part = Misclassification(self.criterion.labels.raw[index])
        elif type(self.criterion) is TargetedMisclassification:
            part = TargetedMisclassification(self.criterion.target_classes.raw[index])
        if part is None:
            every = self.x.index_copy(0, index, images)
            return self.criterion(every, self.model(every))[index]
        return part(images, self.model(images))
