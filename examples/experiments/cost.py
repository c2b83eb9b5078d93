"""What an epoch of training costs with every way of downsampling, and with the aliasing measure taken beside it.

The claim of the published code is that FLC and ASAP can be put in place of strided convolutions; what it costs is
timed here. Nothing may run beside it.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from lab.command import Experiment, Job, run
from lab.pools import NotInstalled, kinds
from lab.racer import Racer
from lab.report import Report, verdict
from lab.scale import Scale

CHEAP = 1.05  # what a monitor may multiply an epoch's time by
BEHIND = {"facecolor": "#ffffff", "edgecolor": "none", "pad": 0.5}  # the line at 1
BESIDE: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
LOOKS: dict[str, dict[str, Any]] = {
    "strided": {"color": "#bdbdbd", "hatch": ""},
    "pooling": {"color": "#56B4E9", "hatch": "..."},
    "blur": {"color": "#009E73", "hatch": "xxx"},
    "published": {"color": "#E69F00", "hatch": "///"},
    "ours": {"color": "#0072B2", "hatch": ""},
    "watched": {"color": "#CC79A7", "hatch": "++"},
}


def jobs(scale: Scale) -> list[Job]:
    return []


def _round(racers: dict[str, Racer], index: int) -> dict[str, float]:
    """Seconds of an epoch with each, by some of its steps.

    They take turns step by step, in an order that goes round: whatever else slows the machine slows all of them.
    """
    names = list(racers)
    seconds = dict.fromkeys(names, 0.0)
    first = racers[names[0]]
    for step in range((index + 1) * first.steps, (index + 2) * first.steps):
        turn = step % len(names)
        for name in (*names[turn:], *names[:turn]):
            seconds[name] += racers[name].step(step)
    return {name: taken * first.epoch / first.steps for name, taken in seconds.items()}


def race(scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each kind, and one for each round of each; the kinds that are not installed have no rounds."""
    racers: dict[str, Racer] = {}
    missing: dict[str, str] = {}
    everyone = kinds(scale.upstream)
    for kind in everyone:
        try:
            racers[kind.name] = Racer(kind, scale)
        except NotInstalled:
            missing[kind.name] = "not installed"
    names, taken = list(racers), []
    for index in range(-1, scale.rounds):
        seconds = _round(racers, index)
        alone = {name: racers[name].alone() for name in names}
        if index >= 0:  # the one before is to warm up
            taken += [{"round": index, "kind": n, "seconds": seconds[n], "pools": alone[n]} for n in names]
    rounds = pd.DataFrame(taken)
    seconds = rounds.pivot(index="round", columns="kind", values="seconds")
    rows = []
    for kind in everyone:
        row: dict[str, Any] = {"kind": kind.name, "family": kind.family, "status": missing.get(kind.name, "timed")}
        if racer := racers.get(kind.name):
            ratio = seconds[kind.name] / seconds["strided"]
            row |= {
                "pools": len(racer.pools),
                "seconds": seconds[kind.name].median(),
                "ratio": ratio.median(),
                "lowest": ratio.min(),
                "highest": ratio.max(),
                "pools_alone": rounds[rounds.kind == kind.name].pools.median(),
                "timed_steps": racer.steps,
                "epoch_steps": racer.epoch,
                "batch": racer.batch,
                "threads": torch.get_num_threads(),
            }
        rows.append(row)
    return pd.DataFrame(rows), rounds


def _draw(kinds_: pd.DataFrame, network: str) -> Figure:
    figure = Figure(figsize=(10.5, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for index, row in enumerate(kinds_.itertuples()):
        look = {**LOOKS[row.family], "edgecolor": "#333333", "linewidth": 0.6}
        if row.status != "timed":
            axes[0].text(0.02, index, row.status, va="center", fontsize=8, color="#666666", style="italic")
            continue
        spread = [[row.ratio - row.lowest], [row.highest - row.ratio]]
        axes[0].barh(index, row.ratio, 0.72, xerr=spread, capsize=2.5, error_kw={"linewidth": 0.9}, **look)
        axes[0].annotate(f"{row.ratio:.2f}", (row.highest, index), bbox=BEHIND, **BESIDE)
        if row.pools:
            axes[1].barh(index, row.pools_alone, 0.72, **look)
            axes[1].annotate(f"{row.pools_alone:.3g}", (row.pools_alone, index), **BESIDE)
    axes[0].axvline(1, color="#333333", linewidth=0.8)
    axes[0].set(title=f"{network}: an epoch's time, over strided", xlabel="ratio, median and range over rounds")
    axes[1].set(title="the pools by themselves", xlabel="seconds an epoch, forward and backward")
    for ax in axes:
        ax.set_xlim(0, 1.12 * ax.get_xlim()[1])
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(kinds_)), kinds_.kind)
    axes[0].invert_yaxis()
    return figure


def _findings(table: pd.DataFrame, rounds: pd.DataFrame, to: Report) -> None:
    seconds = rounds.pivot(index="round", columns="kind", values="seconds")
    timed = table[table.status == "timed"].set_index("kind")

    def about(*names: str) -> str:
        return "; ".join(f"{name}: {timed.seconds[name]:.2f} s, {timed.ratio[name]:.2f} of strided" for name in names)

    for pool in ("FLC", "ASAP"):
        ours = f"{pool} of alias_ops"
        (published,) = (name for name in timed.index[timed.family == "published"] if name.startswith(pool))
        to.finding(
            f"an epoch with {ours} takes less time than with {published}",
            about(ours, published),
            verdict(list(seconds[published] - seconds[ours])),
        )
        for family, what in (("blur", "the cheapest BlurPool"), ("pooling", "the cheaper of max and average pooling")):
            others = list(timed.index[timed.family == family])
            if others:
                cheapest = timed.seconds[others].idxmin()
                to.finding(
                    f"an epoch with {ours} takes less time than with {what}",
                    about(ours, cheapest),
                    verdict(list(seconds[cheapest] - seconds[ours])),
                )
    for name in timed.index[timed.family == "watched"]:
        to.finding(
            f"{name} costs at most {100 * (CHEAP - 1):.0f} % more than strided",
            about("strided", name),
            verdict(list(CHEAP - seconds[name] / seconds["strided"])),
        )


def _summary(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in table.itertuples():
        said = [row.status, "-", "-"]
        if row.status == "timed":
            ratio = f"{row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f})"
            said = [f"{row.seconds:.2f}", ratio, f"{row.pools_alone:.3g}" if row.pools else "-"]
        rows.append([row.kind, *said])
    return pd.DataFrame(rows, columns=["downsampling", "s an epoch", "over strided", "the pools alone, s"])


def report(scale: Scale, store: Path, to: Report) -> None:
    table, rounds = race(scale)
    to.table("kinds", table)
    to.table("rounds", rounds)
    to.summary(_summary(table))
    to.figure("cost", _draw(table, scale.networks[0]))
    _findings(table, rounds, to)


EXPERIMENT = Experiment("cost", "What an epoch costs with every way of downsampling", jobs, report, alone=True)

if __name__ == "__main__":
    run(EXPERIMENT)
