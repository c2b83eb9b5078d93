"""FGSM training that overfits to its own attack: accuracy under PGD collapses, AM jumps with it.

One row an epoch and run; confidences and spectra of the perturbations before and after.

Source: Grabinski, Keuper & Keuper, Machine Learning 2022, figures 9 to 13.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from alias_ops.plots import COLOURS, plot_spectrum
from lab.command import Experiment, Job, run, trainings
from lab.recipe import Recipe
from lab.report import Report, spread, verdict
from lab.scale import Scale
from lab.training import Trained, load

NUMBERS = ("loss", "train", "clean", "fgsm", "pgd", "am", "relative", "sure_clean", "sure_attacked", "sure_wrong")
SECONDS = ("seconds_training", "seconds_am", "seconds_pgd")
# A collapse: accuracy under PGD falls by so much of its best so far, and to less than half of that under FGSM.
FALL, MASKED = 0.5, 0.5
LASTING = 5  # epochs, on average: one alone may be an accident
WINDOW = 5  # epochs that a jump of AM is told from, as the early stopping rule does
LAG, RISE = 3, 1.25  # it is one if AM is higher by a quarter in the collapse's epoch or one of the next three


def recipes(scale: Scale) -> list[Recipe]:
    """The trainings, which early stopping is tried on too."""
    fixed = {"data": scale.data, "patches": scale.patches}
    return [scale.collapse.but(**{**fixed, "seed": seed}) for seed in range(scale.collapses)]


def jobs(scale: Scale) -> list[Job]:
    return trainings(recipes(scale))


def epochs(runs: list[Trained]) -> pd.DataFrame:
    """One row an epoch of every run."""
    rows = []
    for trained in runs:
        for epoch in trained.history:
            numbers = {name: epoch[name] for name in ("epoch", *NUMBERS, *SECONDS)}
            layers = {f"am {layer}": value for layer, value in epoch["layers"].items()}
            rows.append({"seed": trained.recipe.seed, **numbers, **layers})
    return pd.DataFrame(rows)


def collapse(run: pd.DataFrame) -> int | None:
    """The first epoch, if any, in which accuracy under PGD has collapsed for good while that under FGSM has not."""
    best = run.pgd.cummax()
    from_here = pd.DataFrame({name: run[name][::-1].rolling(LASTING, 1).mean()[::-1] for name in ("pgd", "fgsm")})
    fallen = pd.Series(True, run.index)
    for accuracies in (run, from_here):
        fallen &= (accuracies.pgd < FALL * best) & (accuracies.pgd < MASKED * accuracies.fgsm)
    return int(run.epoch[fallen].iloc[0]) if fallen.any() else None


def _jump(run: pd.DataFrame, at: int) -> tuple[float, float]:
    """The highest AM of an epoch and the next few, and the median of those before it, as many as the rule looks at."""
    before, after = (run.am[run.epoch.between(*ends)] for ends in ((at - WINDOW, at - 1), (at, at + LAG)))
    return float(after.max()), float(before.median())


def _later(run: pd.DataFrame, at: int) -> int | None:
    """How many epochs after a collapse AM is above ``RISE`` times the median before it, if ever."""
    _, before = _jump(run, at)
    high = run[(run.epoch >= at) & (run.am > RISE * before)]
    return int(high.epoch.iloc[0]) - at if len(high) else None


def _draw_runs(table: pd.DataFrame, collapses: dict[int, int | None]) -> Figure:
    figure = Figure(figsize=(3.1 * len(collapses) + 1.4, 5.2), layout="constrained")
    axes = figure.subplots(2, len(collapses), sharex=True, sharey="row", squeeze=False)
    looks = {"clean": ("black", "-"), "fgsm": ("blue", "--"), "pgd": ("vermillion", "-.")}
    for column, (seed, at) in enumerate(collapses.items()):
        run = table[table.seed == seed]
        above, below = axes[:, column]
        for name, (colour, dashes) in looks.items():
            label = name if name == "clean" else name.upper()
            above.plot(run.epoch, 100 * run[name], color=COLOURS[colour], linestyle=dashes, label=label)
        for layer in (name for name in run.columns if name.startswith("am ")):
            below.plot(run.epoch, run[layer], color="#b5b5b5", linewidth=0.9, label="layers")
        below.plot(run.epoch, run.am, color=COLOURS["purple"], linewidth=2.2, label="mean")
        for ax in (above, below):
            if at:
                ax.axvline(at, color="#333333", linestyle=":", linewidth=1.4, label="collapse")
        above.set_title(f"seed {seed}: " + (f"collapse in epoch {at}" if at else "no collapse"))
        below.set_xlabel("epoch")
    axes[0, 0].set(ylabel="held-out accuracy (%)", ylim=(0, 100))
    axes[1, 0].set(ylabel="aliasing measure (AM)")
    for ax in axes[:, -1]:
        handles = dict(zip(*reversed(ax.get_legend_handles_labels())))
        ax.legend(handles.values(), handles.keys(), loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _draw_confidence(table: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    looks = {
        "sure_clean": ("clean images", "black", "-"),
        "sure_attacked": ("under PGD", "vermillion", "-."),
        "sure_wrong": ("under PGD and wrong", "purple", ":"),
    }
    for name, (label, colour, dashes) in looks.items():
        of = 100 * table.pivot(index="epoch", columns="seed", values=name)
        mean, std = of.mean(axis=1), of.std(axis=1).fillna(0)
        ax.plot(mean.index, mean, color=COLOURS[colour], linestyle=dashes, linewidth=2, label=label)
        ax.fill_between(mean.index, mean - std, mean + std, color=COLOURS[colour], alpha=0.15, linewidth=0)
    ax.set(xlabel="epoch", ylabel="mean confidence (%)", ylim=(0, 100))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _moments(run: Trained, at: int | None) -> tuple[int, int]:
    """Indices of the epoch before the collapse and of the last one; of the middle and the last without a collapse."""
    return (at - 2 if at and at > 1 else len(run.history) // 2), len(run.history) - 1


def _draw_spectra(runs: list[Trained], collapses: dict[int, int | None]) -> Figure:
    """The mean over the channels and runs of log10 of what PGD adds, before and after, and the difference."""
    pairs = [[run.history[i]["spectrum"].mean(0) for i in _moments(run, collapses[run.recipe.seed])] for run in runs]
    before, after = (torch.stack(part).mean(0) for part in zip(*pairs))
    collapsed = any(collapses.values())
    names = ["before the collapse", "last epoch"] if collapsed else ["half of the epochs", "last epoch"]
    figure = Figure(figsize=(10.2, 3.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.75, 1))
    plot_spectrum(torch.stack([before, after]), names=names, axes=left.subplots(1, 2))
    ax = right.subplots()
    change = (after - before).numpy()
    most = max(float(np.abs(change).max()), 1e-6)
    half = 0.5 + 0.5 / change.shape[-1]
    image = ax.imshow(change, cmap="RdBu_r", vmin=-most, vmax=most, extent=(-half, 1 - half, 1 - half, -half))
    ax.set(title="change", xticks=(-0.25, 0, 0.25), yticks=(-0.25, 0, 0.25))
    ax.grid(False)
    right.colorbar(image, ax=ax, shrink=0.8, label="log10, after - before")
    return figure


def _high_share(run: Trained, index: int) -> float:
    """How much of what PGD adds, in log10 of the magnitude, lies outside of the half-band more than inside."""
    level = run.history[index]["spectrum"].mean(0)
    side = level.shape[-1]
    inside = torch.zeros_like(level, dtype=torch.bool)
    inside[side // 4 : -(side // 4) or None, side // 4 : -(side // 4) or None] = True
    return float(level[~inside].mean() - level[inside].mean())


def _summary(table: pd.DataFrame, collapses: dict[int, int | None]) -> pd.DataFrame:
    rows = []
    for seed, at in collapses.items():
        run = table[table.seed == seed]
        best, last = run.loc[run.pgd.idxmax()], run.iloc[-1]
        accuracies = {f"{name.upper()}, last, %": f"{100 * last[name]:.1f}" for name in ("fgsm", "pgd")}
        best_pgd = {"PGD, best, %": f"{100 * best.pgd:.1f} (epoch {int(best.epoch)})"}
        now, before = _jump(run, at) if at and at > WINDOW else (float("nan"), float("nan"))
        jump = {f"AM, median of the {WINDOW} epochs before": before, f"AM, highest until {LAG} epochs after": now}
        rows.append(
            {"seed": seed, "collapse in epoch": at or "-", **best_pgd, **accuracies}
            | {name: "-" if pd.isna(value) else f"{value:.3f}" for name, value in jump.items()}
        )
    return pd.DataFrame(rows)


def report(scale: Scale, store: Path, to: Report) -> None:
    runs = [load(recipe, store) for recipe in recipes(scale)]
    table = epochs(runs)
    collapses = {seed: collapse(run) for seed, run in table.groupby("seed")}
    found = {seed: at for seed, at in collapses.items() if at}
    to.table("epochs", table)
    to.figure("training", _draw_runs(table, collapses))
    to.figure("confidence", _draw_confidence(table))
    to.figure("perturbations", _draw_spectra(runs, collapses))
    to.summary(_summary(table, collapses))
    of_runs = [table[table.seed == seed] for seed in collapses]
    gaps = [run.fgsm.iloc[-1] - run.pgd.iloc[-1] for run in of_runs]
    to.finding(
        "FGSM training ends in a collapse: accuracy under PGD falls by half while that under FGSM does not",
        f"in {len(found)} of {len(collapses)} runs; in the last epoch FGSM is {spread(gaps, 1, 100)} points above PGD",
        "yes" if len(found) == len(collapses) else "partly" if found else "no",
    )
    jumps = {seed: _jump(table[table.seed == seed], at) for seed, at in found.items() if at > WINDOW}
    rises = [now / before for now, before in jumps.values()]
    to.finding(
        f"AM jumps with the collapse: by a quarter within {LAG} epochs",
        f"AM then over the median of the {WINDOW} epochs before: {spread(rises, 2)}, {len(rises)} runs",
        verdict([rise - RISE for rise in rises]) if rises else "open",
    )
    later = {seed: _later(table[table.seed == seed], at) for seed, at in found.items() if at > WINDOW}
    to.finding(
        "AM rises by a quarter at some time after the collapse",
        f"{spread([lag for lag in later.values() if lag is not None])} epochs after it",
        verdict([1 if lag is not None else -1 for lag in later.values()]) if later else "open",
    )
    moments = {run.recipe.seed: _moments(run, collapses[run.recipe.seed]) for run in runs}
    told = [run for run in runs if run.recipe.seed in found] or runs
    wrong = [[run.history[i]["sure_wrong"] for i in moments[run.recipe.seed]] for run in told]
    to.finding(
        "After the collapse the network is surer of its errors under attack",
        f"{spread([w[0] for w in wrong], 0, 100)} % before, {spread([w[1] for w in wrong], 0, 100)} % after",
        verdict([w[1] - w[0] for w in wrong]) if found else "open",
    )
    highs = [[_high_share(run, i) for i in moments[run.recipe.seed]] for run in told]
    to.finding(
        "After the collapse perturbations hold more of the high frequencies",
        f"log10 outside of the half-band less inside: {spread([h[0] for h in highs], 2)} before, "
        f"{spread([h[1] for h in highs], 2)} after",
        verdict([h[1] - h[0] for h in highs]) if found else "open",
    )


EXPERIMENT = Experiment(
    "overfitting", "FGSM training that overfits to its attack, and what AM says of it", jobs, report
)

if __name__ == "__main__":
    run(EXPERIMENT)
