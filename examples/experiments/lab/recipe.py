"""What a training is made of, and the name by which the store knows it."""

from dataclasses import dataclass, replace

from lab.store import digest

__all__ = ["ATTACKS", "Recipe"]

ATTACKS = ("none", "fgsm", "fgsm-rs", "pgd")


@dataclass(frozen=True)
class Recipe:
    """All that the numbers of one training depend on, beside the machine.

    Args:
        network: a name of ``lab.networks``.
        downsampling: what halves the maps, a name of ``lab.networks``.
        attack: on the images that it trains on: none, FGSM, FGSM with random start (Wong et al., ICLR 2020), or PGD.
        epsilon: largest change of a pixel, in 1/255; 0 without attack.
        steps: of PGD, where that is the attack.
        epochs, batch: of the training.
        lr: the highest learning rate: in the middle of a "triangle", from zero and to zero, or all along.
        schedule: "triangle" or "flat".
        augmented: random shifts and flips.
        patches: of each photograph, to train on; of no meaning where ``data`` is a folder.
        size: of the images, 32 or a divisor of it; smaller ones are means over squares.
        data: "photographs", or the folder with CIFAR-10.
        checked: held-out images that are attacked and measured.
        judged: the epsilon of the checks, in 1/255.
        pgd_steps: of the checks.
        every_epoch: check after every epoch, or after the last one alone.
        seed: of the patches, the weights and the order.
    """

    network: str
    downsampling: str = "strided"
    attack: str = "none"
    epsilon: float = 0
    steps: int = 7
    epochs: int = 1
    batch: int = 128
    lr: float = 0.1
    schedule: str = "triangle"
    augmented: bool = True
    patches: int = 128
    size: int = 32
    data: str = "photographs"
    checked: int = 160
    judged: float = 8
    pgd_steps: int = 10
    every_epoch: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.attack not in ATTACKS or (self.epsilon > 0) != (self.attack != "none"):
            raise ValueError(f"attack {self.attack!r} does not go with epsilon {self.epsilon}")

    def but(self, **changes: object) -> "Recipe":
        """The same with some changes."""
        return replace(self, **changes)  # type: ignore[arg-type]

    @property
    def key(self) -> str:
        """A name that tells it from every other recipe."""
        return f"{self.network}-{self.downsampling}-{self.attack}{self.epsilon:g}-{self.seed}-{digest(self)}"

    def __str__(self) -> str:
        against = "clean images" if self.attack == "none" else f"{self.attack} {self.epsilon:g}/255"
        return f"{self.network}, {self.downsampling}, {against}, seed {self.seed}"
