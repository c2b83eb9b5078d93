"""Convolutional against fully connected networks: what an attack adds to the images of either.

A fully connected network has no layer that downsamples and so none that can alias. Whether its errors look like those
of a network that does is asked in three ways: how robust either is, trained on clean images and against FGSM; where in
the spectrum the perturbations lie; and whether attacks on one kind fool the other.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, appendix 3, in this package's reading: the comparison is
theirs, its three measures are ours.
"""

from itertools import product
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

from alias_ops.plots import COLOURS
from alias_ops.spectra import perturbation_spectrum, radial_profile
from lab.checks import accuracy, pgd, some
from lab.command import Experiment, Job, run, trainings
from lab.recipe import Recipe
from lab.report import Report, spread, verdict
from lab.scale import Scale
from lab.training import held_out, trained

FLAT = "fully connected"
SHORT = {"clean": "clean", "pgd": "PGD"}
LONGER = 3  # times the epochs: its epochs cost a tenth of the others', and it learns more slowly
KINDS = {"none": "clean images", "fgsm-rs": "FGSM"}
HALF_BAND = 0.25  # cycles a sample


def recipes(scale: Scale) -> list[Recipe]:
    epsilons = {"none": 0, "fgsm-rs": scale.epsilons[-1]}
    kinds = product(KINDS, range(scale.seeds))
    return [
        recipe
        for attack, seed in kinds
        for recipe in (
            scale.recipe(attack=attack, epsilon=epsilons[attack], seed=seed),
            scale.recipe(FLAT, attack, epsilons[attack], seed=seed, epochs=LONGER * scale.plain.epochs, lr=0.05),
        )
    ]


def jobs(scale: Scale) -> list[Job]:
    return trainings(recipes(scale))


def high_share(perturbations: torch.Tensor) -> float:
    """Share of the energy of perturbations [n, 3, H, W] outside of the half-band of a stride of 2, in 0..1."""
    energy = torch.fft.fft2(perturbations.double()).abs().square()
    rows, columns = (torch.fft.fftfreq(side).abs() >= HALF_BAND for side in perturbations.shape[-2:])
    outside = rows[:, None] | columns
    return float(energy[..., outside.to(energy.device)].sum() / energy.sum())


def _evaluate(scale: Scale, store: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """One row a network; one a pair of networks of the same training and seed; one a ring of the spectra."""
    networks, pairs, profiles = [], [], []
    for attack, seed in product(KINDS, range(scale.seeds)):
        both = [recipe for recipe in recipes(scale) if (recipe.attack, recipe.seed) == (attack, seed)]
        models = {recipe.network: trained(recipe, store) for recipe in both}
        images, labels = held_out(both[0])
        x, y = some((images, labels), scale.images)
        torch.manual_seed(seed)
        for recipe in both:
            found = perturbation_spectrum(
                models[recipe.network], x, y, pgd(recipe.pgd_steps), epsilon=recipe.judged / 255
            )
            who = {"training": KINDS[attack], "network": recipe.network, "seed": seed}
            delta = found.adversarial - x
            profile = radial_profile(delta)
            level = profile.level.mean(0).tolist()
            profiles += [{**who, "frequency": f, "magnitude": v} for f, v in zip(profile.frequency.tolist(), level)]
            right = {name: accuracy(model, found.adversarial, y) for name, model in models.items()}
            pairs += [
                {**who, "judge": name, "clean": accuracy(models[name], x, y), "attacked": right[name]} for name in right
            ]
            clean = accuracy(models[recipe.network], images, labels)
            networks.append({**who, "clean": clean, "pgd": right[recipe.network], "high share": high_share(delta)})
    return pd.DataFrame(networks), pd.DataFrame(pairs), pd.DataFrame(profiles)


def _draw(networks: pd.DataFrame, profiles: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(10.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    names = list(networks.network.unique())
    looks = dict(zip(names, (("blue", "o", "-"), ("vermillion", "^", "--"))))
    places = [(training, number) for training in KINDS.values() for number in ("clean", "pgd")]
    for shift, (name, (colour, marker, _)) in zip((-0.08, 0.08), looks.items()):
        of = [100 * networks[(networks.network == name) & (networks.training == t)][n] for t, n in places]
        look = {"color": COLOURS[colour], "marker": marker, "linestyle": "", "capsize": 3}
        at = [place + shift for place in range(len(places))]
        left.errorbar(at, [v.mean() for v in of], [v.std() if len(v) > 1 else 0 for v in of], label=name, **look)
    left.set_xticks(range(len(places)), [f"{t.split()[0]},\n{SHORT[n]}" for t, n in places])
    left.set(xlabel="trained on, judged on", ylabel="held-out accuracy (%)", ylim=(0, 103))
    for name, (colour, _, dashes) in looks.items():
        for training, width in zip(KINDS.values(), (1.2, 2.6)):
            of = profiles[(profiles.network == name) & (profiles.training == training)]
            mean = of.groupby("frequency").magnitude.mean()
            label = f"{name}, trained on {training}"
            right.plot(mean.index, mean, color=COLOURS[colour], linestyle=dashes, linewidth=width, label=label)
    right.axvline(HALF_BAND, color="#777777", linestyle=":", linewidth=1)
    right.set(xlabel="frequency, cycles/sample (dotted: half-band)", ylabel="mean log10 of what PGD adds")
    left.legend(loc="upper right")
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=8)
    return figure


def _summary(networks: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (training, network_), of in networks.groupby(["training", "network"], sort=False):
        shares = {"clean": of.clean, "under PGD": of.pgd, "energy outside of the half-band": of["high share"]}
        said = {f"{name}, %": spread(values, 1, 100) for name, values in shares.items()}
        rows.append({"trained on": training, "network": network_, **said})
    return pd.DataFrame(rows)


def report(scale: Scale, store: Path, to: Report) -> None:
    networks, pairs, profiles = _evaluate(scale, store)
    to.table("networks", networks)
    to.table("transfer", pairs)
    to.table("profiles", profiles)
    to.figure("fully_connected", _draw(networks, profiles))
    to.summary(_summary(networks))
    convolutional = scale.networks[0]
    for training in KINDS.values():
        of = networks[networks.training == training].set_index(["network", "seed"])["high share"]
        to.finding(
            f"Trained on {training}: more of an attack on a convolutional network lies in the frequencies that fold",
            f"{spread(of.loc[convolutional], 0, 100)} % of the energy outside of the half-band, fully connected "
            f"{spread(of.loc[FLAT], 0, 100)} %",
            verdict(list(of.loc[convolutional] - of.loc[FLAT])),
        )
        drop = pairs[(pairs.training == training) & (pairs.network != pairs.judge)]
        lost = (drop.clean - drop.attacked).groupby(drop.judge)
        own = pairs[(pairs.training == training) & (pairs.network == pairs.judge)]
        kept = (own.clean - own.attacked).groupby(own.judge)
        gaps = {name: list(kept.get_group(name).to_numpy() - lost.get_group(name).to_numpy()) for name in lost.groups}
        to.finding(
            f"Trained on {training}: an attack on one kind costs the other less than half of what its own costs it",
            "; ".join(
                f"{name} loses {spread(lost.get_group(name), 0, 100)} points to the other's, "
                f"{spread(kept.get_group(name), 0, 100)} to its own"
                for name in lost.groups
            ),
            verdict([gap - 0.5 * k for name in gaps for gap, k in zip(gaps[name], kept.get_group(name))]),
        )


EXPERIMENT = Experiment("fully_connected", "Convolutional against fully connected networks", jobs, report)

if __name__ == "__main__":
    run(EXPERIMENT)
