"""What an epoch of training costs with every way of downsampling, and with the aliasing measure taken beside it.

The claim of the published code is that FLC and ASAP can be put in place of strided convolutions; what it costs is
timed here. Nothing may run beside it.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import alias_ops
from fgsm.data import Images, augment, pixels
from fgsm.network import PixelNetwork
from lab.command import Experiment, Job, run
from lab.images import dataset
from lab.networks import NETWORKS
from lab.pools import Kind, NotInstalled, kinds
from lab.report import Report, verdict
from lab.scale import Scale

STEPS = 10  # that are timed of an epoch, so that one of them is a monitor's tenth
CHEAP = 1.05  # what a monitor may multiply an epoch's time by
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


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class _Racer:
    """A network with one kind of downsampling, and the steps of its training.

    Raises:
        NotInstalled: the pool's library is missing.
    """

    def __init__(self, kind: Kind, scale: Scale) -> None:
        recipe = scale.recipe()
        data = dataset(recipe)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.images: Images = data.train
        self.batch = min(recipe.batch, len(data.train))
        self.epoch = len(data.train) // self.batch
        self.steps = min(STEPS, self.epoch)
        self.pools: list[nn.Module] = []
        torch.manual_seed(recipe.seed)
        made = NETWORKS[recipe.network](data.classes)
        if kind.pool is not None:
            alias_ops.replace_downsampling(made, self._noted(kind.pool))
        self.model = PixelNetwork(made, data).to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), recipe.lr, momentum=0.9, weight_decay=5e-4)
        # Detached as soon as nothing holds it.
        self.monitor = alias_ops.AliasingMonitor(self.model, every=kind.every) if kind.every else None
        self.inputs = self._inputs()

    def _noted(self, make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        def pool(channels: int, stride: int) -> nn.Module:
            self.pools.append(make(channels=channels, stride=stride))
            return self.pools[-1]

        return pool

    def _inputs(self) -> list[torch.Tensor]:
        """What every pool gets of one batch."""
        got: list[torch.Tensor] = []
        hooks = [pool.register_forward_pre_hook(lambda _, x: got.append(x[0].detach().clone())) for pool in self.pools]
        if hooks:
            self.model(pixels(self.images.images[: self.batch]).to(self.device))
        for hook in hooks:
            hook.remove()
        return got

    def train(self) -> float:
        """Seconds of an epoch, by ``steps`` steps of it."""
        self.model.train()
        torch.manual_seed(0)
        order = torch.randperm(len(self.images))
        _wait()
        start = time.perf_counter()
        for chosen in order[: self.steps * self.batch].split(self.batch):
            x = pixels(augment(self.images.images[chosen])).to(self.device)
            loss = F.cross_entropy(self.model(x), self.images.labels[chosen].to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        _wait()
        return (time.perf_counter() - start) * self.epoch / self.steps

    def alone(self) -> float:
        """Seconds of an epoch's forwards and backwards of the pools, without the network."""
        pairs = [(pool, x.requires_grad_()) for pool, x in zip(self.pools, self.inputs)]
        _wait()
        start = time.perf_counter()
        for pool, x in pairs:
            x.grad = None
            out = pool(x)
            out.backward(torch.ones_like(out))
        _wait()
        return (time.perf_counter() - start) * self.epoch


def race(scale: Scale) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row for each kind, and one for each round of each; the kinds that are not installed have no rounds."""
    racers: dict[str, _Racer] = {}
    missing: dict[str, str] = {}
    everyone = kinds(scale.upstream)
    for kind in everyone:
        try:
            racers[kind.name] = _Racer(kind, scale)
        except NotInstalled:
            missing[kind.name] = "not installed"
    names, taken = list(racers), []
    for racer in racers.values():
        racer.train()
        racer.alone()
    for index in range(scale.rounds):
        turn = index % len(names)
        for name in (*names[turn:], *names[:turn]):
            row = {"round": index, "kind": name, "seconds": racers[name].train(), "pools": racers[name].alone()}
            taken.append(row)
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
                "pools_alone": statistics.median(rounds[rounds.kind == kind.name].pools) if racer.pools else None,
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
        axes[0].text(row.highest, index, f"  {row.ratio:.2f}", va="center", fontsize=8)
        if row.pools:
            axes[1].barh(index, row.pools_alone, 0.72, **look)
            axes[1].text(row.pools_alone, index, f"  {row.pools_alone:.3g}", va="center", fontsize=8)
    axes[0].axvline(1, color="#333333", linewidth=0.8)
    axes[0].set(title=f"{network}: an epoch's time, over strided", xlabel="ratio, median and range over rounds")
    axes[1].set(title="of it in the pools", xlabel="seconds an epoch, forward and backward alone")
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
        return ", ".join(f"{name}: {timed.seconds[name]:.2f} s ({timed.ratio[name]:.2f})" for name in names)

    for pool in ("FLC", "ASAP"):
        ours = f"{pool}, alias_ops"
        (published,) = (name for name in timed.index[timed.family == "published"] if name.startswith(pool))
        to.finding(
            f"an epoch with {pool} takes less time than with {published.partition(', ')[2]}",
            about(ours, published),
            verdict(list(seconds[published] - seconds[ours])),
        )
        for family, what in (("blur", "the cheapest BlurPool"), ("pooling", "the cheaper of max and average pooling")):
            others = list(timed.index[timed.family == family])
            if others:
                cheapest = timed.seconds[others].idxmin()
                to.finding(
                    f"an epoch with {pool} takes less time than with {what}",
                    about(ours, cheapest),
                    verdict(list(seconds[cheapest] - seconds[ours])),
                )
    for name in timed.index[timed.family == "watched"]:
        to.finding(
            f"{name}: costs at most {100 * (CHEAP - 1):.0f} % of an epoch",
            about("strided", name),
            verdict(list(CHEAP - seconds[name] / seconds["strided"])),
        )


def report(scale: Scale, store: Path, to: Report) -> None:
    table, rounds = race(scale)
    to.table("kinds", table)
    to.table("rounds", rounds)
    to.figure("cost", _draw(table, scale.networks[0]))
    _findings(table, rounds, to)


EXPERIMENT = Experiment("cost", "What an epoch costs with every way of downsampling", jobs, report, alone=True)

if __name__ == "__main__":
    run(EXPERIMENT)
