"""Networks trained against attacks alias less: AM of either kind by layer, and Pearson's r between AM and robustness.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, section 4.1, figures 6 and 7.
"""

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
        networks.append({**who, "am": last["am"], "clean": last["clean"], "pgd": last["pgd"]})
        layers += [{**who, "layer": layer, "am": am} for layer, am in last["layers"].items()]
    return pd.DataFrame(networks), pd.DataFrame(layers)


def _correlations(networks: pd.DataFrame) -> pd.DataFrame:
    """Of each kind of network: all networks, and those that were trained against an attack alone."""
    rows = []
    for network, family in networks.groupby("network", sort=False):
        for name, part in (("all", family), ("adversarially trained", family[family.training != STANDARD])):
            if len(part) > 2 and part.am.nunique() > 1 and part.pgd.nunique() > 1:
                found = pearsonr(part.am, part.pgd)
                low, high = found.confidence_interval()
                numbers = {"r": found.statistic, "low": low, "high": high, "p": found.pvalue}
            else:
                numbers = dict.fromkeys(("r", "low", "high", "p"), float("nan"))
            rows.append({"network": network, "family": name, "n": len(part), **numbers})
    return pd.DataFrame(rows)


def _summary(networks: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (network, training), of in networks.groupby(["network", "training"], sort=False):
        shares = {"clean, %": spread(of.clean, 1, 100), "under PGD, %": spread(of.pgd, 1, 100)}
        rows.append({"network": network, "trained": training, "AM": spread(of.am, 3), **shares})
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
        ax.set_xticks(range(len(where)), where)
        ax.set(ylabel="aliasing measure (AM)", title=network)
        ax.grid(axis="x", visible=False)
        ax.legend(title="trained", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_family(networks: pd.DataFrame, correlations: pd.DataFrame) -> Figure:
    names = list(networks.network.unique())
    figure = Figure(figsize=(4.4 * len(names) + 1.6, 3.6), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, network in zip(axes, names):
        part = networks[networks.network == network]
        for index, (kind, group) in enumerate(part.groupby("training", sort=False)):
            look = {"color": SHADES[index % len(SHADES)], "marker": MARKS[index % len(MARKS)]}
            ax.plot(
                group.am, 100 * group.pgd, linestyle="", markersize=7, markeredgecolor="#333333", label=kind, **look
            )
        of = correlations[(correlations.network == network) & (correlations.family == "all")].iloc[0]
        ax.set_title(f"{network}: r = {of.r:.2f} (95 %: {of.low:.2f} to {of.high:.2f}), n = {of.n}")
        ax.set(xlabel="aliasing measure (AM)")
    axes[0].set(ylabel="accuracy under PGD (%)")
    axes[-1].legend(title="trained", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


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
    for network, family in networks.groupby("network", sort=False):
        standard, robust = (family[family.training == kind].set_index("seed").am for kind in (STANDARD, strongest))
        to.finding(
            f"{network}: AM is lower after training against PGD than after standard training",
            f"AM {spread(robust, 2)} against {spread(standard, 2)}",
            verdict(list(standard - robust)),
        )
        of = correlations[(correlations.network == network) & (correlations.family == "all")].iloc[0]
        to.finding(
            f"{network}: the less a network aliases, the more robust it is",
            f"Pearson r {of.r:.2f}, 95 % confidence {of.low:.2f} to {of.high:.2f}, {of.n} networks",
            "yes" if of.high < 0 else "no" if of.low > 0 else "open",
        )


EXPERIMENT = Experiment(
    "aliasing_and_robustness", "Aliasing of standard and of adversarially trained networks", jobs, report
)

if __name__ == "__main__":
    run(EXPERIMENT)
