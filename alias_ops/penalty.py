"""The aliasing measure of a network's downsampling layers as a term of its training loss."""

import torch
from torch import nn

from ._checks import check_positive
from ._downsampling import Downsampling, layer_aliasing
from ._selection import Blocks, Layers
from ._watching import LayerWatch, in_backward
from .ops._library import accumulation_dtype

__all__ = ["AliasingPenalty"]

EPSILON = 1e-5  # of a variance, BatchNorm's


class AliasingPenalty(LayerWatch):
    """Aliasing measure (AM) of the forward just run, with gradients: trains a network to alias less.

        penalty = AliasingPenalty(model)         # keep it: dropped, it detaches
        for x, labels in loader:
            logits = model(x)
            loss = F.cross_entropy(logits, labels) + 0.1 * penalty()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    1. Hooks the same layers as :class:`alias_ops.AliasingMonitor`.
    2. During a forward of the model with gradients enabled, measures what each layer received, with graph:
       ``conv2d_aliasing`` for a convolution, ``aliasing`` of its stride-1 map for a pooling layer. In float32
       at least: half-precision layers are convolved anew for it. Of a float32 or float64 convolution's gradient, what
       can go through the layer's output does: its own backward runs for the task's loss in any case.
    3. A call returns the mean over blocks of the mean over a block's layers, the number that
       ``AliasingMonitor.mean`` gives for this forward, and lets go of everything.

    Only the forward of the model just run counts, in training or evaluation mode; forwards under
    ``torch.no_grad`` cost nothing and cannot be asked for. A layer frozen inside the model by ``no_grad`` must be left
    out with ``layers``. Works with ``checkpoint(..., use_reentrant=False)``; the backward has to run before
    ``detach``. Under DDP and FSDP2 each process takes its own images, and gradients are averaged as those
    of any loss. Not a module: it is neither in the model's parameters nor in its ``state_dict``.

    **What to expect.** AM is proportional to the layer's output. Where BatchNorm follows, a network can lower
    it without aliasing less, by shrinking the layer's weights. ``relative=True`` divides each layer's AM by the
    standard deviation of its output, which takes that way out. Start with a weight at which the term is
    about a tenth of the task's loss, watch both with a monitor, and go up from there: what is folded carries
    some information, and with too large a weight the task's loss pays for it.
    ``examples/demo/penalty.py`` trains a small ResNet with and without.

    Args:
        model: any nn.Module with downsampling layers.
        layers: None for all, an iterable of qualified names, or a predicate ``(name, module) -> bool``
            asked about each downsampling layer.
        max_samples: images of a batch that are measured, the first ones; None for all.
        blocks: as for the monitor.
        relative: divide each layer's AM by the standard deviation of its output over the measured images.

    Gradients: first order, with respect to the layers' weights and whatever led to their inputs.

    Raises:
        TypeError, ValueError: as the monitor.

    Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 3 (the measure); as a loss it is our own.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Layers | None = None,
        max_samples: int | None = None,
        blocks: Blocks | None = None,
        relative: bool = False,
    ) -> None:
        if max_samples is not None:
            check_positive("max_samples", max_samples)
        super().__init__(model, layers, blocks, max_samples, "AliasingPenalty")
        self.relative = relative
        self._forget()

    def __call__(self) -> torch.Tensor:
        """AM of the last forward of the model, once.

        Returns:
            A scalar with a graph, float32 or float64 as the layers are.

        Raises:
            RuntimeError: there was no forward with gradients since the last call, or layers of it ran without.
        """
        measured, without = self._maps, self._without_graph
        self._forget()
        if without:
            raise RuntimeError(
                f"AliasingPenalty has no gradients for {', '.join(map(repr, without))}, which ran under "
                "torch.no_grad or a reentrant checkpoint: enable gradients, pass use_reentrant=False, or leave "
                "these layers out with layers="
            )
        if not measured:
            raise RuntimeError(
                "AliasingPenalty has nothing to return: call it once after each forward of the model on at least one "
                "image" + ("" if self.attached else ", before it is detached")
            )
        device = next(iter(measured.values()))[0].device  # layers may lie on several
        means = {name: torch.cat(maps).mean().to(device) for name, maps in measured.items()}
        blocks = [[means[name] for name in names if name in means] for names in self.blocks.values()]
        return torch.stack([torch.stack(layers).mean() for layers in blocks if layers]).mean()

    def _forget(self) -> None:
        self._maps: dict[str, list[torch.Tensor]] = {}
        self._without_graph: list[str] = []

    def _begin(self) -> bool:
        self._forget()
        return True

    def _wanted(self) -> bool:
        # What a checkpoint repeats has to save what it saved the first time, this measure's tensors included.
        return self._measuring or in_backward()

    def _take(self, name: str, module: Downsampling, x: torch.Tensor, output: torch.Tensor) -> None:
        if not torch.is_grad_enabled():
            self._without_graph.append(name)
            return
        wide = accumulation_dtype(output.dtype)
        # Rounded to half precision, an output says little of its small bins, whose gradients weigh as much as any.
        given = output if output.dtype == wide else None
        maps = layer_aliasing(module, x.to(wide), given, through_output=True).flatten()
        if self.relative:
            # A copy: what follows the layer may work in place.
            maps = maps / (output.to(wide, copy=True).var() + EPSILON).sqrt()
        if self._measuring:
            self._maps.setdefault(name, []).append(maps)

    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_maps": {}, "_without_graph": []}
