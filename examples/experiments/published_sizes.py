"""FLC and ASAP as published, where 4 does not divide the map: the layer, and ResNets on pictures of 224 pixels.

Source: Grabinski, Jung, Keuper & Keuper, ECCV 2022, and arXiv 2307.09804, with the modules published along. For
H = 2 mod 4 these reassemble the spectrum with DC in a wrong bin: 14 -> 7 in every ResNet on 224 pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import alias_ops
from lab.command import Experiment, Job, run
from lab.pictures import SIZE, squares, trainings
from lab.pictures_training import AGREES, load, train
from lab.report import Report, spread, verdict
from lab.scale import Scale

SIZES = range(4, 66, 2)
POOLS = {"flc": alias_ops.flc_pool2d, "asap": alias_ops.asap_pool2d}
VARIANTS = ("centered", "upstream")
CROPS = 4  # of each photograph
ROUNDING = 1e-12  # relative, of a layer in float64

LOOKS: dict[str, dict[str, Any]] = {
    "strided": {"color": "#bdbdbd", "hatch": ""},
    "centered": {"color": "#0072B2", "hatch": ""},
    "upstream": {"color": "#E69F00", "hatch": "///"},
}


def jobs(scale: Scale) -> list[Job]:
    return [Job(training, train) for training in trainings(scale)]


def _relative(x: torch.Tensor, to: torch.Tensor) -> float:
    return float((x - to).norm() / to.norm())


def layer_rows() -> pd.DataFrame:
    """The layers at stride 2, one row for each size and pool, float64.

    ``difference`` is the relative L2 distance of the published output from the centered one. ``moved`` is that of
    pool(x moved by 2) from pool(x) moved by 1, both circularly, where 0 is equivariance. ``lowest`` and ``highest``
    are what becomes of a map of ones.
    """
    rows = []
    for size in SIZES:
        x, ones = squares(size, CROPS), torch.ones(1, 1, size, size, dtype=torch.float64)
        for name, pool in POOLS.items():
            row: dict[str, Any] = {"pool": name, "size": size, "four": size % 4 == 0}
            out = {variant: pool(x, variant=variant) for variant in VARIANTS}
            row["difference"] = _relative(out["upstream"], out["centered"])
            for variant in VARIANTS:
                moved = pool(x.roll((2, 2), (-2, -1)), variant=variant)
                constant = pool(ones, variant=variant)
                row[f"moved_{variant}"] = _relative(moved, out[variant].roll((1, 1), (-2, -1)))
                row[f"lowest_{variant}"], row[f"highest_{variant}"] = float(constant.min()), float(constant.max())
            rows.append(row)
    return pd.DataFrame(rows)


def _rows(scale: Scale, store: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row for each network and variant that it is run with, and one for each network run with both."""
    networks, swaps = [], []
    for training in trainings(scale):
        kept = load(training, store)
        who = {"network": training.network, "pool": training.pool, "trained": training.variant, "seed": training.seed}
        if training.pool == "strided":
            who["trained"] = "strided"
        for which, checks in kept["checks"].items():
            ran = who["trained"] if which == "own" else next(v for v in VARIANTS if v != training.variant)
            numbers = {name: checks[name] for name in ("accuracy", "accuracy_256", "consistency")}
            networks.append({**who, "run": ran, **numbers, **kept["result"]})
        if "other" in kept["checks"]:
            own, other = (kept["checks"][which]["logits"] for which in ("own", "other"))
            for size in (SIZE, AGREES):
                changed = float((own[size].argmax(1) != other[size].argmax(1)).float().mean())
                swaps.append({**who, "size": size, "logits": _relative(other[size], own[size]), "classes": changed})
    return pd.DataFrame(networks), pd.DataFrame(swaps)


def _draw_layer(layer: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True)
    looks = {"centered": ("#0072B2", "o"), "upstream": ("#D55E00", "^")}
    for line, pool in zip(axes, POOLS):
        part = layer[layer.pool == pool]
        for four, marker, colour, label in (
            (True, "o", "#0072B2", "4 divides N"),
            (False, "^", "#D55E00", "N = 2 mod 4"),
        ):
            some = part[part.four == four]
            height = some.difference.clip(lower=1e-16)
            line[0].plot(some["size"], height, linestyle="", marker=marker, color=colour, markersize=5, label=label)
        line[0].set(ylabel=f"{pool.upper()}: relative distance", yscale="log", ylim=(3e-17, 30))
        for variant, (colour, marker) in looks.items():
            style = {"linestyle": "", "marker": marker, "color": colour, "markersize": 4.5, "label": variant}
            line[1].plot(part["size"], part[f"moved_{variant}"].clip(lower=1e-16), **style)
            low, high = part[f"lowest_{variant}"], part[f"highest_{variant}"]
            line[2].vlines(part["size"], low, high, color=colour, linewidth=1.2)
            line[2].plot(part["size"], high, **style)
            line[2].plot(part["size"], low, **{**style, "label": None})
        line[1].set(yscale="log", ylim=(3e-17, 30))
        line[2].set(ylim=(-1.15, 1.95), yticks=(-1, -0.5, 0, 0.5, 1))
    for ax, title in zip(
        axes[0],
        (
            "published against centered (0 at 1e-16)",
            "the output, when the input moves by 2",
            "a map of ones: lowest and highest",
        ),
    ):
        ax.set_title(title)
    for ax in axes[1]:
        ax.set(xlabel="size N of the map, pooled to N/2", xticks=(4, 14, 24, 34, 44, 54, 64))
    for ax in axes[0, :2]:
        ax.legend(loc="center right")
    axes[0, 2].legend(loc="upper right", ncols=2)
    return figure


def _bars(networks: pd.DataFrame) -> list[tuple[str, str, str, str]]:
    """Pool, trained, run, and what it is called; in the order of the figure."""
    kinds = networks[["pool", "trained", "run"]].drop_duplicates().itertuples(index=False)
    return [(p, t, r, "strided" if p == "strided" else f"{p.upper()} trained {t},\nrun {r}") for p, t, r in kinds]


def _draw_networks(networks: pd.DataFrame) -> Figure:
    bars, networks = _bars(networks), networks.assign(inconsistency=1 - networks.consistency)
    panels = {
        "accuracy": f"held-out accuracy at {SIZE} (%)",
        "accuracy_256": f"the same networks at {AGREES} (%)",
        "inconsistency": f"another class after a shift, at {SIZE} (%)",
    }
    accuracy, moved = (105 * networks[columns].to_numpy().max() for columns in (list(panels)[:2], list(panels)[2:]))
    tops = dict(zip(panels, (accuracy, accuracy, max(moved, 5))))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for ax, (column, title) in zip(axes, panels.items()):
        for index, (pool, trained, ran, _) in enumerate(bars):
            some = networks[(networks.pool == pool) & (networks.trained == trained) & (networks.run == ran)]
            values = 100 * some[column]
            look = {**LOOKS[ran], "edgecolor": "#333333", "linewidth": 0.6}
            ax.barh(index, values.mean(), 0.75, **look)
            marks = {"color": "#000000", "markersize": 3.5, "markerfacecolor": "#ffffff", "zorder": 3}
            ax.plot(values, [index] * len(values), linestyle="", marker="o", **marks)
        ax.set(title=title, xlim=(0, tops[column]))
        ax.grid(axis="y", visible=False)
    axes[0].set_yticks(range(len(bars)), [label for *_, label in bars])
    axes[0].invert_yaxis()
    return figure


def _layer_findings(layer: pd.DataFrame, to: Report) -> None:
    odd = layer[~layer.four]
    for pool in POOLS:
        name, wrong = pool.upper(), odd[odd.pool == pool]
        right = layer[layer.four & (layer.pool == pool)]
        to.finding(
            f"{name}: where 4 divides the map, the published module computes what centered does, up to rounding",
            f"relative distance at most {right.difference.max():.1e}",
            verdict(list(ROUNDING - right.difference)),
        )
        at = wrong[wrong["size"] == 14].iloc[0]
        to.finding(
            f"{name}: where 4 does not divide an even map, the published module loses a constant map",
            f"ones come back between {wrong.lowest_upstream.min():.2f} and {wrong.highest_upstream.max():.2f}; at 14 "
            f"between {at.lowest_upstream:.2f} and {at.highest_upstream:.2f}, "
            f"centered {at.lowest_centered:.2f} to {at.highest_centered:.2f}",
            verdict(list(0.5 - wrong.lowest_upstream)),
        )
        to.finding(
            f"{name}: and a shift by the stride no longer commutes with it, while it does with centered",
            f"relative error {wrong.moved_upstream.min():.2f} to {wrong.moved_upstream.max():.2f}, "
            f"centered at most {wrong.moved_centered.max():.1e}",
            verdict([min(a - 0.01, ROUNDING - b) for a, b in zip(wrong.moved_upstream, wrong.moved_centered)]),
        )


def _network_findings(networks: pd.DataFrame, swaps: pd.DataFrame, to: Report) -> None:
    def of(column: str, pool: str, trained: str, ran: str) -> pd.Series:
        some = networks[(networks.pool == pool) & (networks.trained == trained) & (networks.run == ran)]
        return some.set_index("seed")[column]

    for pool in POOLS:
        name = pool.upper()
        compared = (
            ("accuracy", "a network trained and run centered is more accurate than one as published", "%"),
            ("consistency", "it keeps its class more often when the picture moves", "% of pairs"),
        )
        for column, claim, unit in compared:
            ours, theirs = of(column, pool, "centered", "centered"), of(column, pool, "upstream", "upstream")
            measured = f"{spread(ours, unit=100)} against {spread(theirs, unit=100)} {unit}"
            to.finding(f"{name} at {SIZE}: {claim}", measured, verdict(list(ours - theirs)))
        for trained, ran in (VARIANTS, VARIANTS[::-1]):
            own, swapped = of("accuracy", pool, trained, trained), of("accuracy", pool, trained, ran)
            to.finding(
                f"{name} at {SIZE}: trained {trained}, run {ran}: accuracy is lost",
                f"{spread(own, unit=100)} becomes {spread(swapped, unit=100)} %",
                verdict(list(own - swapped)),
            )
        fall = {v: of("accuracy", pool, v, v) - of("accuracy_256", pool, v, v) for v in VARIANTS}
        to.finding(
            f"{name}: from {SIZE} to {AGREES}, a network as published loses more accuracy than one centered",
            f"{spread(fall['upstream'], unit=100)} against {spread(fall['centered'], unit=100)} points",
            verdict(list(fall["upstream"] - fall["centered"])),
        )
        here, there = (swaps[(swaps.pool == pool) & (swaps["size"] == size)] for size in (SIZE, AGREES))
        to.finding(
            f"{name}: at {AGREES}, where 4 divides every map, the same swap changes no class",
            f"{spread(there.classes, unit=100)} % of classes change, logits by {there.logits.max():.1e} at most; at "
            f"{SIZE} {spread(here.classes, unit=100)} %, logits by {here.logits.max():.2g}",
            verdict([0.5 - (changed > 0) for changed in there.classes]),
        )
    strided = of("accuracy", "strided", "strided", "strided")
    guessing = 1 / networks.classes.iloc[0]
    learnt = [of("accuracy", p, t, t) for p, t in (("strided", "strided"), *((p, v) for p in POOLS for v in VARIANTS))]
    to.finding(
        "the networks have learnt: five times better than guessing, each with what it was trained with",
        f"strided {spread(strided, unit=100)} %, all of them {100 * min(s.min() for s in learnt):.0f} % and more",
        verdict(list(np.concatenate(learnt) - 5 * guessing)),
    )


def _summary(networks: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (pool, trained, ran), of in networks.groupby(["pool", "trained", "run"], sort=False):
        accuracies = {f"at {SIZE}, %": spread(of.accuracy, 1, 100), f"at {AGREES}, %": spread(of.accuracy_256, 1, 100)}
        kept = {f"same class after a shift, at {SIZE}, %": spread(of.consistency, 1, 100)}
        rows.append({"downsampling": pool, "trained": trained, "run": ran, **accuracies, **kept})
    return pd.DataFrame(rows)


def report(scale: Scale, store: Path, to: Report) -> None:
    layer = layer_rows()
    networks, swaps = _rows(scale, store)
    to.table("layer", layer)
    to.table("networks", networks)
    to.table("swaps", swaps)
    to.summary(_summary(networks))
    to.figure("layer", _draw_layer(layer))
    to.figure("networks", _draw_networks(networks))
    _layer_findings(layer, to)
    _network_findings(networks, swaps, to)


EXPERIMENT = Experiment("published_sizes", "The published pools' error where 4 does not divide a map", jobs, report)

if __name__ == "__main__":
    run(EXPERIMENT)
