"""The sizes at which everything runs: minutes of two cores, the papers' own, and one that only shows that it runs."""

from dataclasses import dataclass
from pathlib import Path

from lab.recipe import Recipe

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True)
class Scale:
    """What the experiments share at one scale.

    Args:
        name: for ``--scale``.
        networks: of the papers' two kinds: pre-activation ResNet, wide ResNet.
        patches: of each photograph, to train on, where there is no CIFAR-10.
        seeds: of the trainings.
        plain: epochs, batch and learning rate of the trainings that compare networks.
        collapse: the training that is to overfit to its attack; see ``overfitting``.
        collapses: how many of them.
        epsilons: in 1/255, of the family of networks; the largest is the one that all are judged by.
        checked: held-out images that are attacked.
        images: of the experiments on trained networks.
        pictures: crops of each photograph at 224 pixels, and epochs on them.
        rounds: of a timing.
        data: "photographs" or the folder of CIFAR-10.
        imagenet, upstream: folders, where given.
    """

    name: str
    networks: tuple[str, str]
    patches: int
    seeds: int
    plain: Recipe
    collapse: Recipe
    collapses: int
    epsilons: tuple[float, ...]
    images: int
    pictures: tuple[int, int]
    rounds: int
    data: str = "photographs"
    imagenet: Path | None = None
    upstream: Path | None = None

    def recipe(self, network: str = "", attack: str = "none", epsilon: float = 0, **changes: object) -> Recipe:
        """A plain training of a network, the first if none is named."""
        fixed = {"data": self.data, "patches": self.patches}
        return self.plain.but(
            **{**fixed, "network": network or self.networks[0], "attack": attack, "epsilon": epsilon, **changes}
        )


_PLAIN = Recipe("narrow PreActResNet", epochs=8, lr=0.2)

SCALES = {
    "cpu": Scale(
        name="cpu",
        networks=("narrow PreActResNet", "narrow WRN"),
        patches=128,
        seeds=3,
        plain=_PLAIN.but(steps=2, batch=64),
        # Small images and many steps of a high rate: at 32 pixels and a few hundred steps nothing collapses.
        collapse=Recipe(
            "narrow PreActResNet",
            attack="fgsm",
            epsilon=16,
            judged=16,
            epochs=60,
            batch=32,
            lr=0.1,
            schedule="flat",
            augmented=False,
            size=16,
            checked=192,
            every_epoch=True,
        ),
        collapses=5,
        epsilons=(2, 4, 8),
        images=96,
        pictures=(36, 5),
        rounds=5,
    ),
    "gpu": Scale(
        name="gpu",
        networks=("PreActResNet-18", "WRN-28-10"),
        patches=3125,
        seeds=3,
        plain=_PLAIN.but(epochs=30, checked=1000, pgd_steps=20),
        collapse=_PLAIN.but(attack="fgsm", epsilon=8, epochs=30, checked=1000, every_epoch=True),
        collapses=5,
        epsilons=(1, 2, 4, 8),
        images=1000,
        pictures=(400, 30),
        rounds=5,
    ),
    "tiny": Scale(
        name="tiny",
        networks=("narrow PreActResNet", "narrow WRN"),
        patches=2,
        seeds=2,
        plain=_PLAIN.but(epochs=1, batch=16, checked=32, pgd_steps=1),
        collapse=_PLAIN.but(attack="fgsm", epsilon=8, epochs=6, batch=16, checked=32, pgd_steps=1, every_epoch=True),
        collapses=2,
        epsilons=(8,),
        images=32,
        pictures=(2, 1),
        rounds=1,
    ),
}
