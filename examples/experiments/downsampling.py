"""One network, six ways to halve its maps: accuracy, robustness to attacks and to common corruptions, shifts.

Trained on clean images and against FGSM. Max, average, strided, BlurPool, FLC and ASAP.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, appendix 2; Grabinski et al., ECCV 2022 and arXiv
2307.09804, whose claim is that ASAP is natively more robust, to corruptions too, where FLC is not; shift consistency
as of Zhang, ICML 2019.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

from alias_ops.plots import COLOURS
from lab.checks import accuracy, some, survivors
from lab.command import Experiment, Job, run
from lab.corruptions import CORRUPTIONS, corrupt
from lab.networks import DOWNSAMPLING, can_alias
from lab.recipe import Recipe
from lab.report import Report, spread, verdict
from lab.scale import Scale
from lab.store import keep
from lab.training import held_out, load, train, trained

KINDS = {"none": "clean images", "fgsm-rs": "FGSM"}
TRAINED = {"clean images": "Trained on clean images", "FGSM": "Trained against FGSM"}
ALIASING = [name for name in DOWNSAMPLING if can_alias("", name)]
# Clean training leaves nothing at 8/255: its own differences are seen at less.
BUDGETS = (1, 4, 8)
NATIVE = 1  # 1/255, that the natively trained networks are compared at
SHIFTS = 4  # pairs of them
CORRUPTED = 3  # times the images that are attacked: they cost less
SEVERITIES = (1, 3, 5)


def recipes(scale: Scale) -> list[Recipe]:
    epsilons = {"none": 0, "fgsm-rs": scale.epsilons[-1]}
    return [
        scale.recipe(attack=attack, epsilon=epsilons[attack], downsampling=downsampling, seed=seed)
        for attack in KINDS
        for downsampling in DOWNSAMPLING
        for seed in range(scale.seeds)
    ]


@dataclass(frozen=True)
class Judged:
    """A training whose network is asked everything at once, by as many images as are attacked at this scale."""

    recipe: Recipe
    images: int

    def __str__(self) -> str:
        return f"{self.recipe}, judged"

    def path(self, store: Path) -> Path:
        return store / f"{self.recipe.key}-{self.images}.pt"


def judge(what: Judged, store: Path) -> bool:
    """Train, unless it is in the store, ask and keep the answers; returns whether they were there."""
    train(what.recipe, store)
    return keep(what.path(store), lambda: _evaluate(what.recipe, what.images, store))


def jobs(scale: Scale) -> list[Job]:
    return [Job(Judged(recipe, scale.images), judge) for recipe in recipes(scale)]


@torch.no_grad()
def consistency(model: nn.Module, images: torch.Tensor, seed: int, most: int = 4) -> float:
    """How often two crops of an image, up to ``2 * most`` pixels apart, get the same class.

    Args:
        model: in evaluation mode.
        images: [n, 3, H, W] in 0..1, cropped to H - 2 most by W - 2 most pixels and brought back by zeros around, as
            in the augmentation that the network trained with.
        seed: of the shifts.
        most: the largest shift of a crop from the middle.
    """
    generator = torch.Generator().manual_seed(seed)
    size = images.shape[-1] - 2 * most
    same = []
    for _ in range(SHIFTS):
        pair = []
        for down, across in torch.randint(2 * most + 1, (2, 2), generator=generator).tolist():
            crop = images[..., down : down + size, across : across + size]
            pair.append(model(F.pad(crop, (most,) * 4)).argmax(1))
        same.append((pair[0] == pair[1]).double().mean())
    return float(torch.stack(same).mean())


def _evaluate(recipe: Recipe, count: int, store: Path) -> dict[str, float | None]:
    model = trained(recipe, store)
    images, labels = held_out(recipe)
    x, y = some((images, labels), count)
    torch.manual_seed(recipe.seed)
    numbers = {"clean": accuracy(model, images, labels), "am": load(recipe, store).last["am"]}
    for budget in BUDGETS:
        numbers[f"pgd {budget:g}"] = survivors(model, x, y, budget / 255, recipe.pgd_steps)
    numbers["consistency"] = consistency(model, images, recipe.seed)
    x, y = some((images, labels), CORRUPTED * count)
    for kind in CORRUPTIONS:
        of = [accuracy(model, corrupt(x, kind, severity, recipe.seed), y) for severity in SEVERITIES]
        numbers[kind] = sum(of) / len(of)
    numbers["corrupted"] = sum(numbers[kind] for kind in CORRUPTIONS) / len(CORRUPTIONS)
    return numbers


def _table(scale: Scale, store: Path) -> pd.DataFrame:
    """One row a network; accuracies and the consistency in 0..1."""
    rows = []
    for recipe in recipes(scale):
        who = {"training": KINDS[recipe.attack], "downsampling": recipe.downsampling, "seed": recipe.seed}
        rows.append({**who, **torch.load(Judged(recipe, scale.images).path(store), weights_only=True)})
    return pd.DataFrame(rows)


SHOWN = {
    "clean": "clean",
    f"pgd {NATIVE:g}": f"PGD {NATIVE:g}/255",
    "pgd 8": "PGD 8/255",
    "corrupted": "corrupted",
    "consistency": "same class\nafter a shift",
}
LOOKS = dict(zip(DOWNSAMPLING, zip(COLOURS.values(), ("o", "s", "^", "D", "v", "P"))))


def _draw(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(10.2, 4.0), layout="constrained")
    axes = figure.subplots(1, len(KINDS), sharey=True)
    for ax, training in zip(axes, KINDS.values()):
        part = table[table.training == training]
        for index, (downsampling, (colour, marker)) in enumerate(LOOKS.items()):
            of = 100 * part[part.downsampling == downsampling][list(SHOWN)]
            at = np.arange(len(SHOWN)) + 0.12 * (index - (len(LOOKS) - 1) / 2)
            look = {"color": colour, "marker": marker, "linestyle": "", "capsize": 2, "markersize": 5}
            ax.errorbar(at, of.mean(), of.std().fillna(0), label=downsampling, **look)
        ax.set_xticks(range(len(SHOWN)), SHOWN.values())
        ax.set(title=TRAINED[training].replace("T", "t", 1), ylim=(0, 103))
    axes[0].set(ylabel="held-out images (%)")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_corruptions(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(10.2, 3.6), layout="constrained")
    ax = figure.subplots()
    part = table[table.training == KINDS["none"]].set_index(["downsampling", "seed"])[list(CORRUPTIONS)]
    change = 100 * (part - part.loc["strided"])
    for index, (downsampling, (colour, marker)) in enumerate(list(LOOKS.items())[1:]):
        of = change.loc[downsampling]
        at = np.arange(len(CORRUPTIONS)) + 0.13 * (index - 2)
        look = {"color": colour, "marker": marker, "linestyle": "", "capsize": 2, "markersize": 5}
        ax.errorbar(at, of.mean(), of.std().fillna(0), label=downsampling, **look)
    ax.axhline(0, color="#333333", linewidth=1)
    ax.set_xticks(range(len(CORRUPTIONS)), [kind.replace(" ", "\n") for kind in CORRUPTIONS])
    ax.set(ylabel="accuracy above strided (points)", title="trained on clean images; mean of the severities 1, 3 and 5")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _compare(table: pd.DataFrame, training: str, number: str, better: str, than: str) -> tuple[str, list[float]]:
    """What to say of a number of two poolings, and the differences of the same seeds."""
    of = table[table.training == training].set_index(["downsampling", "seed"])[number]
    differences = list(of.loc[better] - of.loc[than])
    return (
        f"{better} {spread(of.loc[better], 1, 100)} %, {than} {spread(of.loc[than], 1, 100)} %, "
        f"a difference of {spread(differences, 1, 100)} points",
        differences,
    )


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (training, downsampling), of in table.groupby(["training", "downsampling"], sort=False):
        who = {"trained": TRAINED[training].removeprefix("Trained "), "downsampling": downsampling}
        shares = {f"{text}, %".replace("\n", " "): spread(of[name], 1, 100) for name, text in SHOWN.items()}
        rows.append({**who, "AM": spread(of.am, 3) if of.am.notna().all() else "0", **shares})
    return pd.DataFrame(rows)


def report(scale: Scale, store: Path, to: Report) -> None:
    table = _table(scale, store)
    to.table("networks", table)
    to.summary(_summary(table))
    to.figure("downsampling", _draw(table))
    to.figure("corruptions", _draw_corruptions(table))
    clean, attacked = KINDS.values()
    native, pgd = f"pgd {NATIVE:g}", f"pgd {scale.epsilons[-1]:g}"
    claims = [
        ("ASAP is more robust to attacks than strides", clean, native, "asap", "strided"),
        ("ASAP is more robust to corruptions than strides", clean, "corrupted", "asap", "strided"),
        ("ASAP is more robust to corruptions than FLC", clean, "corrupted", "asap", "flc"),
        ("FLC is more shift consistent than strides", clean, "consistency", "flc", "strided"),
        ("BlurPool is more shift consistent than strides", clean, "consistency", "blur", "strided"),
        ("FLC is more robust to PGD than strides", attacked, pgd, "flc", "strided"),
        ("ASAP is more robust to PGD than strides", attacked, pgd, "asap", "strided"),
    ]
    for claim, *compared in claims:
        said, differences = _compare(table, *compared)
        to.finding(f"{TRAINED[compared[0]]}: {claim}", said, verdict(differences))
    of = table[table.training == clean].pivot(index="seed", columns="downsampling", values="am")[ALIASING]
    to.finding(
        f"{TRAINED[clean]}: pooling before the stride aliases less than strides",
        "AM " + ", ".join(f"{name} {spread(of[name], 2)}" for name in ALIASING),
        verdict(list(of["strided"] - of[["average", "blur"]].max(axis=1))),
    )


EXPERIMENT = Experiment("downsampling", "Max, average, strided, BlurPool, FLC and ASAP", jobs, report)

if __name__ == "__main__":
    run(EXPERIMENT)
