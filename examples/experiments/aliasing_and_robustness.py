"""Networks trained against attacks alias less: AM of either kind by layer, and Pearson's r between AM and robustness.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 4.1, figures 6 and 7.
"""

import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import pearsonr

from lab.command import Experiment, Job, run, trainings
from lab.recipe import Recipe
from lab.report import Report, spread, verdict
from lab.scale import Scale
from lab.training import load

STANDARD = "standard"
MEASURES = {"am": "AM", "relative": "AM over the deviation of the outputs"}
SHADES = ("#D55E00", "#9ecae1", "#56B4E9", "#0072B2", "#08306b", "#009E73")
MARKS = ("o", "s", "^", "D", "v", "P")


def _kinds(scale: Scale) -> list[tuple[str, float]]:
    """Attack and epsilon of the family; PGD at the epsilon that all are judged by alone."""
    single = [("fgsm-rs", epsilon) for epsilon in scale.epsilons]
    return [("none", 0), *single, ("pgd", scale.epsilons[-1])]


def _recipes(scale: Scale) -> list[Recipe]:
    return [
        scale.recipe(network, attack, epsilon, seed=seed)
        for network in scale.networks
        for attack, epsilon in _kinds(scale)
        for seed in range(scale.seeds)
    ]


def jobs(scale: Scale) -> list[Job]:
    return trainings(_recipes(scale))


def _kind(recipe: Recipe) -> str:
    return STANDARD if recipe.attack == "none" else f"{recipe.attack.upper()} {recipe.epsilon:g}/255"


def _rows(scale: Scale, store: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a network, and one a layer of each."""
    networks, layers = [], []
    for recipe in _recipes(scale):
        last = load(recipe, store).last
        who = {"network": recipe.network, "training": _kind(recipe), "epsilon": recipe.epsilon, "seed": recipe.seed}
        numbers = {"am": last["am"], "relative": last["relative"]}
        networks.append({**who, **numbers, "clean": last["clean"], "pgd": last["pgd"]})
        layers += [{**who, "layer": layer, "am": am} for layer, am in last["layers"].items()]
    return pd.DataFrame(networks), pd.DataFrame(layers)


def _correlations(networks: pd.DataFrame) -> pd.DataFrame:
    """Of each kind of network, with AM as it is and relative to the layers' outputs; 95 % confidence."""
    rows = []
    for network, family in networks.groupby("network", sort=False):
        for measure in MEASURES:
            found = pearsonr(family[measure], family.pgd)
            low, high = found.confidence_interval()
            numbers = {"r": found.statistic, "low": low, "high": high, "p": found.pvalue}
            rows.append({"network": network, "measure": measure, "n": len(family), **numbers})
    return pd.DataFrame(rows)


def _summary(networks: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (network, training), of in networks.groupby(["network", "training"], sort=False):
        aliasing = {"AM": spread(of.am, 3), "AM, relative": spread(of.relative, 3)}
        shares = {"clean, %": spread(of.clean, 1, 100), "under PGD, %": spread(of.pgd, 1, 100)}
        rows.append({"network": network, "trained": training, **aliasing, **shares})
    return pd.DataFrame(rows)


def _draw_layers(layers: pd.DataFrame) -> Figure:
    kinds, names = list(layers.training.unique()), list(layers.network.unique())
    figure = Figure(figsize=(9.5, 3.2 * len(names)), layout="constrained")
    for ax, network in zip(figure.subplots(len(names), squeeze=False)[:, 0], names):
        part = layers[layers.network == network]
        where = list(part.layer.unique())
        width = 0.8 / len(kinds)
        for index, kind in enumerate(kinds):
            by_layer = part[part.training == kind].groupby("layer").am
            at = np.arange(len(where)) + (index + 0.5) * width - 0.4
            mean, std = by_layer.mean()[where], by_layer.std()[where].fillna(0)
            look: dict[str, Any] = {"color": SHADES[index % len(SHADES)], "edgecolor": "#333333", "linewidth": 0.5}
            ax.bar(at, mean, 0.92 * width, yerr=std, capsize=2, label=kind, error_kw={"linewidth": 0.9}, **look)
        ax.set_xticks(range(len(where)), [re.sub(r"\.(?=conv|shortcut)", "\n", name) for name in where])
        ax.set(ylabel="aliasing measure (AM)", title=network)
        ax.grid(axis="x", visible=False)
        ax.legend(title="trained", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_family(networks: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    names = list(networks.network.unique())
    figure = Figure(figsize=(4.2 * len(names) + 1.6, 6.2), layout="constrained")
    axes = figure.subplots(len(MEASURES), len(names), sharey=True, squeeze=False)
    for (row, measure), (column, network) in product(enumerate(MEASURES), enumerate(names)):
        ax, part = axes[row, column], networks[networks.network == network]
        for index, (kind, group) in enumerate(part.groupby("training", sort=False)):
            look: dict[str, Any] = {"color": SHADES[index % len(SHADES)], "marker": MARKS[index % len(MARKS)]}
            look |= {"linestyle": "", "markersize": 7, "markeredgecolor": "#333333"}
            ax.plot(group[measure], 100 * group.pgd, label=kind, **look)
        of = _correlation(correlations, network, measure)
        ax.set_title(f"{network}: r = {of.r:.2f} ({of.low:.2f} to {of.high:.2f}), n = {of.n}")
        ax.set(xlabel=MEASURES[measure])
    for ax in axes[:, 0]:
        ax.set(ylabel="accuracy under PGD (%)")
    axes[0, -1].legend(title="trained", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _correlation(correlations: pd.DataFrame, network: str, measure: str) -> Any:
    return correlations[(correlations.network == network) & (correlations.measure == measure)].iloc[0]


def report(scale: Scale, store: Path, to: Report) -> None:
    networks, layers = _rows(scale, store)
    correlations = _correlations(networks)
    to.table("networks", networks)
    to.table("layers", layers)
    to.table("correlations", correlations)
    to.summary(_summary(networks))
    to.figure("layers", _draw_layers(layers))
    to.figure("family", _draw_family(networks, correlations))
    strongest = networks.training.unique()[-1]
    for (network, family), measure in product(networks.groupby("network", sort=False), MEASURES):
        by_seed = family.set_index("seed")
        standard, robust = (by_seed[by_seed.training == kind][measure] for kind in (STANDARD, strongest))
        to.finding(
            f"{network}: {MEASURES[measure]} is lower after training against PGD than after standard training",
            f"{spread(robust, 3)} against {spread(standard, 3)}",
            verdict(list(standard - robust)),
        )
        of = _correlation(correlations, network, measure)
        to.finding(
            f"{network}: the lower {MEASURES[measure]}, the more robust a network is",
            f"Pearson r {of.r:.2f}, 95 % confidence {of.low:.2f} to {of.high:.2f}, {of.n} networks",
            "yes" if of.high < 0 else "no" if of.low > 0 else "open",
        )


EXPERIMENT = Experiment(
    "aliasing_and_robustness", "Aliasing of standard and of adversarially trained networks", jobs, report
)

if __name__ == "__main__":
    run(EXPERIMENT)
