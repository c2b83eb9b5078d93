"""Early stopping by AM beside early stopping by PGD: when either stops, what a check costs, what the network is then.

Both rules are replayed on the epochs of the trainings of ``overfitting``: a rule looks at one number an epoch, and a
training that is stopped is the same training until then.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, Algorithm 1, figure 15 and table 1.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import overfitting
from alias_ops import AliasingEarlyStopping
from alias_ops.plots import COLOURS
from fgsm.attack import PGDEarlyStopping
from lab.command import Experiment, run
from lab.report import Report, spread, verdict
from lab.scale import Scale
from lab.training import load

THRESHOLDS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.33, 0.4, 0.45, 0.5)
PAPERS, WINDOW = 0.33, 5
NEAR = 5  # epochs
SHOWN = (0.1, 0.15, 0.2)  # in the figure, beside the paper's
# Of the accuracy under PGD, from one epoch to the next: Wong et al., ICLR 2020, where it is nearly half of all images.
# At the small scale it is a third, and the fall that stops is as much of it.
DROP, SMALL_DROP = 0.2, 0.15
PAPERS_RATIO = 903 / 1316  # ms of a check by AM over ms of one by PGD


def stops_at(rule: AliasingEarlyStopping | PGDEarlyStopping, values: Sequence[float]) -> int | None:
    """The epoch, from 1 on, after which a rule says stop."""
    return next((epoch for epoch, value in enumerate(values, 1) if rule.step(value)), None)


def _stops(epochs: pd.DataFrame, drop: float) -> pd.DataFrame:
    """One row a run and threshold. Epochs are NaN where a rule never stops or nothing collapses; so are distances."""
    rows = []
    for seed, training in epochs.groupby("seed"):
        pgd = stops_at(PGDEarlyStopping(drop), list(training.pgd))
        for threshold in THRESHOLDS:
            am = stops_at(AliasingEarlyStopping(threshold, WINDOW), list(training.am))
            distance = abs(am - pgd) if am and pgd else None
            when = {"am": am, "pgd": pgd, "distance": distance, "collapse": overfitting.collapse(training)}
            rows.append({"seed": seed, "threshold": threshold, **when})
    return pd.DataFrame(rows).astype(dict.fromkeys(("am", "pgd", "distance", "collapse"), float))


def _kept(training: pd.DataFrame, stop: float) -> pd.Series:
    """The epoch whose weights a rule keeps: the one before it says stop, the last one if it never does."""
    last = training.epoch.max()
    return training[training.epoch == (last if pd.isna(stop) else max(1, stop - 1))].iloc[0]


def _networks(epochs: pd.DataFrame, stops: pd.DataFrame) -> pd.DataFrame:
    """Accuracies of the networks that the rules keep, beside the last epoch's and the most robust one's."""
    rows = []
    for seed, training in epochs.groupby("seed"):
        of = stops[stops.seed == seed].set_index("threshold")
        chosen = {f"AM, {threshold:g}": _kept(training, of.am[threshold]) for threshold in THRESHOLDS}
        chosen |= {"PGD": _kept(training, of.pgd.iloc[0]), "never": _kept(training, float("nan"))}
        chosen["most robust"] = training.loc[training.pgd.idxmax()]
        rows += [
            {"seed": seed, "stopped by": rule, "epoch": int(epoch.epoch), "clean": epoch.clean, "pgd": epoch.pgd}
            for rule, epoch in chosen.items()
        ]
    return pd.DataFrame(rows)


def _draw(stops: pd.DataFrame, networks: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    by = stops.groupby("threshold")
    for offset, (_, training) in enumerate(stops.groupby("seed")):
        shift = 0.004 * (offset - 2)
        left.plot(training.threshold + shift, training.am, "o", color=COLOURS["blue"], markersize=4, alpha=0.7)
    left.plot(by.am.mean().index, by.am.mean(), color=COLOURS["blue"], linewidth=2, label="by AM, mean; dots: runs")
    if stops.pgd.notna().any():
        label = "by PGD, mean and range"
        low, mean, high = stops.pgd.min(), stops.pgd.mean(), stops.pgd.max()
        left.axhline(mean, color=COLOURS["vermillion"], linestyle="--", linewidth=1.8, label=label)
        left.axhspan(low, high, color=COLOURS["vermillion"], alpha=0.12, linewidth=0)
    else:
        left.plot([], [], "--", color=COLOURS["vermillion"], label="by PGD: in no run")
    if stops.collapse.notna().any():
        left.axhspan(stops.collapse.min(), stops.collapse.max(), color="#555555", alpha=0.15, linewidth=0)
        left.axhline(stops.collapse.mean(), color="#555555", linewidth=1, label="collapse, mean and range")
    left.axvline(PAPERS, color="#777777", linestyle=":", linewidth=1)
    left.set(xlabel="threshold of the AM rule (dotted: the paper's)", ylabel="stopped after epoch")
    left.set(xlim=(THRESHOLDS[0] - 0.02, THRESHOLDS[-1] + 0.02), ylim=(0, None))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2)
    shown = [*(f"AM, {threshold:g}" for threshold in (*SHOWN, PAPERS)), "PGD", "never", "most robust"]
    looks = {"clean": ("clean", "black", "o"), "pgd": ("under PGD", "vermillion", "^")}
    for shift, (name, (label, colour, marker)) in zip((-0.08, 0.08), looks.items()):
        of = 100 * networks.groupby("stopped by")[name].agg(["mean", "std"]).loc[shown].fillna(0)
        at = [place + shift for place in range(len(shown))]
        look = {"color": COLOURS[colour], "marker": marker, "linestyle": "", "capsize": 3}
        right.errorbar(at, of["mean"], of["std"], label=label, **look)
    right.set_xticks(range(len(shown)), [name.replace(" ", "\n", 1) for name in shown])
    right.set(xlabel="stopped by", ylabel="held-out accuracy (%)", ylim=(0, 100))
    right.legend(loc="upper left", bbox_to_anchor=(0, -0.26), ncols=2)
    return figure


def _summary(stops: pd.DataFrame, networks: pd.DataFrame) -> pd.DataFrame:
    """A row for each rule: when it stops, and what it keeps."""
    rows = []
    for rule, kept in networks.groupby("stopped by", sort=False):
        of = stops[stops.threshold == float(rule.partition(", ")[2] or PAPERS)]
        when = of.am if rule.startswith("AM") else of.pgd if rule == "PGD" else pd.Series(dtype=float)
        stopped = {"runs stopped": f"{when.notna().sum()} of {len(when)}" if len(when) else "-"}
        stopped |= {"after epoch": spread(when), "epochs after the collapse": spread(when - of.collapse)}
        stopped["epochs from PGD's stop"] = spread(of.distance) if rule.startswith("AM") else "-"
        accuracies = {"clean, %": spread(kept.clean, 1, 100), "under PGD, %": spread(kept.pgd, 1, 100)}
        rows.append({"stopped by": rule, **stopped, "epoch kept": spread(kept.epoch), **accuracies})
    return pd.DataFrame(rows)


def report(scale: Scale, store: Path, to: Report) -> None:
    runs = [load(recipe, store) for recipe in overfitting.recipes(scale)]
    epochs = overfitting.epochs(runs)
    drop = DROP if scale.name == "gpu" else SMALL_DROP
    stops = _stops(epochs, drop)
    costs = epochs[epochs.epoch > 1].groupby("seed")[["seconds_am", "seconds_pgd"]].median()
    costs["ratio"] = costs.seconds_am / costs.seconds_pgd
    networks = _networks(epochs, stops)
    to.table("stops", stops)
    to.table("networks", networks)
    to.table("costs", costs.reset_index())
    to.figure("early_stopping", _draw(stops, networks))
    to.summary(_summary(stops, networks))
    papers = stops[stops.threshold == PAPERS]
    both = papers[papers.distance.notna()]
    nearest = stops.groupby("threshold").distance.mean()
    best = f"; nearest at a threshold of {nearest.idxmin():g}, {nearest.min():.1f}" if nearest.notna().any() else ""
    to.finding(
        f"Stopping by AM and by PGD stop within a few epochs of each other (threshold {PAPERS:g})",
        f"AM stops {papers.am.notna().sum()}, PGD {papers.pgd.notna().sum()}, both {len(both)} of {len(papers)} runs; "
        f"{spread(both.distance)} epochs apart{best}",
        "open" if not len(both) else verdict([3.5 - distance for distance in both.distance]),
    )
    late = stops.assign(late=stops.am - stops.collapse).pivot(index="threshold", columns="seed", values="late")
    misses = late.abs().max(axis=1, skipna=False)
    claim = f"One of the thresholds stops every run within {NEAR} epochs of its collapse"
    if misses.notna().any():
        chosen = late.loc[misses.idxmin()]
        said = f"{chosen.name:g} does best: {chosen.min():+.0f} to {chosen.max():+.0f} epochs after it"
        to.finding(claim, said, verdict([NEAR + 0.5 - miss for miss in chosen.abs()]))
    else:
        everywhere = stops.collapse.notna().all()
        to.finding(claim, "none stops every run that collapses", "no" if everywhere else "open")
    to.finding(
        "A check by AM costs less than one by PGD on as many images",
        f"{spread(costs.seconds_am, 0, 1000)} against {spread(costs.seconds_pgd, 0, 1000)} ms, a ratio of "
        f"{spread(costs.ratio, 3)}; the paper's is {PAPERS_RATIO:.2f}",
        verdict(list(1 - costs.ratio)),
    )
    by = networks.set_index(["stopped by", "seed"])
    gains = by.loc[f"AM, {PAPERS:g}"].pgd - by.loc["never"].pgd
    to.finding(
        "A network stopped by AM is more robust than the last one",
        f"under PGD {spread(by.loc[f'AM, {PAPERS:g}'].pgd, 1, 100)} % against {spread(by.loc['never'].pgd, 1, 100)} %; "
        f"stopped by PGD {spread(by.loc['PGD'].pgd, 1, 100)} %",
        verdict(list(gains)),
    )


EXPERIMENT = Experiment("early_stopping", "Early stopping by AM and by PGD", overfitting.jobs, report)

if __name__ == "__main__":
    run(EXPERIMENT)
