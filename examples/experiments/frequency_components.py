"""Networks see high frequencies: predictions from parts of images, the two defences made of that, and the attack.

Source: Wang, Wu, Huang & Xing, CVPR 2020, sections 1, 3 and 6.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from lab import training
from lab.black_box import HIGH, PEPPER, PIXEL, black_box
from lab.checks import some
from lab.command import Experiment, Job, run, trainings
from lab.component_figures import draw_alone, draw_black_box, draw_defences, draw_parts
from lab.components import AS_IS, FREQUENCIES, SINGULAR_VALUES, WITH_MEAN, components
from lab.defences import CLEAN, STRENGTHS, TRANSFERRED, WHITE, held_against
from lab.recipe import Recipe
from lab.report import Report, spread, verdict
from lab.scale import Scale

STANDARD, ROBUST = "standard", "against FGSM"
EPSILON = 2 / 255  # of FGSM: in L2 about what DeepFool needs; of a standard network 8/255 leaves too little to keep
RADIUS = 8  # at which people still see what the image shows: it is the image at half its resolution
MARGIN = 0.01  # of all images; less than that is a handful of them
COST = 0.05  # of clean accuracy, that a defence may take at the strength where it is judged


def _recipes(scale: Scale, seed: int) -> dict[str, Recipe]:
    robust = scale.recipe(attack="fgsm-rs", epsilon=scale.epsilons[-1], seed=seed)
    return {STANDARD: scale.recipe(seed=seed), ROBUST: robust}


def jobs(scale: Scale) -> list[Job]:
    return trainings([recipe for seed in range(scale.seeds) for recipe in _recipes(scale, seed).values()])


def _measure(scale: Scale, store: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Parts, defences and black-box attacks of all networks."""
    parts, defences, attacked = [], [], []
    for seed in range(scale.seeds):
        recipes = _recipes(scale, seed)
        models = {kind: training.trained(recipe, store) for kind, recipe in recipes.items()}
        held_out = training.held_out(recipes[STANDARD])
        parts += [{"seed": seed, **row} for row in components(models, *some(held_out, 3 * scale.images))]
        for kind, model in models.items():
            who = {"training": kind, "seed": seed}
            # DeepFool and Carlini & Wagner take most of the time.
            few, all_of_them = (some(held_out, count) for count in (scale.images // 2, scale.images))
            defences += [{**who, **row} for row in held_against(model, *few, EPSILON, scale.plain.pgd_steps)]
            attacked += [{**who, **row} for row in black_box(model, *all_of_them, seed)]
    columns = ["training", "seed", "attack", "image", "success", "l2", "queries"]
    return pd.DataFrame(parts), pd.DataFrame(defences), pd.DataFrame(attacked, columns=columns)


def _excess(parts: pd.DataFrame) -> pd.Series:
    """High alone, less what the mean colours or chance would do."""
    baseline = parts.by_chance.where(parts.shown == AS_IS, parts[["by_chance", "by_mean"]].max(axis=1))
    return parts.high_alone - baseline


def _matched(parts: pd.DataFrame) -> pd.DataFrame:
    """By frequencies and, between ranks, by singular values that leave as much energy to high: their excess."""
    rows = []
    for (kind, seed), part in parts[parts.shown == WITH_MEAN].groupby(["training", "seed"], sort=False):
        part = part[part.energy_high > 0].assign(excess=_excess).sort_values("energy_high")
        waves, ranks = (part[part.by == by] for by in (FREQUENCIES, SINGULAR_VALUES))
        inside = waves[waves.energy_high.between(ranks.energy_high.min(), ranks.energy_high.max())]
        other = np.interp(np.log(inside.energy_high), np.log(ranks.energy_high), ranks.excess)
        for radius, share, mine, theirs in zip(inside["at"], inside.energy_high, inside.excess, other):
            where = {"training": kind, "seed": seed, "radius": radius, "energy_high": share}
            rows.append({**where, "frequencies": mine, "singular_values": theirs})
    return pd.DataFrame(rows, columns=["training", "seed", "radius", "energy_high", "frequencies", "singular_values"])


def _judged(defences: pd.DataFrame) -> pd.DataFrame:
    """Gains of each network's defences, at the strongest strength that costs at most ``COST`` of clean accuracy."""
    rows = []
    for (kind, seed, defence), part in defences.groupby(["training", "seed", "defence"], sort=False):
        places = pd.MultiIndex.from_tuples(STRENGTHS[defence])
        table = part.pivot(index=["strength", "layers"], columns="attack", values="accuracy").loc[places]
        none = table.iloc[0]
        bearable = np.flatnonzero(none[CLEAN] - table[CLEAN] <= COST)
        strength, layers = places[bearable[-1]]
        who = {"training": kind, "seed": seed, "defence": defence, "strength": strength, "layers": layers}
        gains = table.iloc[bearable[-1]] - none
        gains[WHITE] = table[WHITE].iloc[bearable[-1]] - none[TRANSFERRED[0]]
        rows += [{**who, "attack": attack, "gain": gain} for attack, gain in gains.items()]
    return pd.DataFrame(rows)


def _summary(attacked: pd.DataFrame) -> pd.DataFrame:
    """One row for each network and attack.

    ``median_l2`` is over all images that were attacked, inf if most stood; ``median_l2_of_both`` over those that the
    high-frequency attack and salt and pepper turn. ``success_at_largest`` counts no larger changes than the largest
    of the high-frequency attack, which stops where people still see what the image shows.
    """
    rows = []
    for (kind, seed), network in attacked.groupby(["training", "seed"], sort=False):
        l2 = network.pivot(index="image", columns="attack", values="l2")
        turned = np.isfinite(l2)
        both, largest = l2[turned[HIGH] & turned[PEPPER]].median(), l2[HIGH][turned[HIGH]].max()
        for name, part in network.groupby("attack", sort=False):
            numbers = {"success": turned[name].mean(), "success_at_largest": (l2[name] <= largest).mean()}
            numbers |= {"median_l2": l2[name].median(), "median_l2_of_both": both[name] if name != PIXEL else np.nan}
            who = {"training": kind, "seed": seed, "attack": name, "images": len(part)}
            rows.append({**who, **numbers, "queries": part.queries.mean()})
    columns = ["training", "seed", "attack", "images", "success", "success_at_largest", "median_l2"]
    return pd.DataFrame(rows, columns=[*columns, "median_l2_of_both", "queries"])


def _shown(summary: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (kind, name), of in summary.groupby(["training", "attack"], sort=False):
        rates = [spread(rate, 1, 100) for rate in (of.success, of.success_at_largest)]
        rows.append([kind, name, *rates, spread(of.median_l2_of_both, 2), spread(of.queries)])
    measures = ["turned, %", "by no larger a change, %", "median L2 of those that both turn", "queries"]
    return pd.DataFrame(rows, columns=["trained", "attack", *measures])


def _find_parts(parts: pd.DataFrame, to: Report) -> None:
    at_radius = parts[(parts.by == FREQUENCIES) & (parts["at"] == RADIUS)]
    for (kind, shown), part in at_radius.groupby(["training", "shown"], sort=False):
        excess = _excess(part)
        to.finding(
            f"{kind}: right on HFC(x, {RADIUS}) {shown} and on x, wrong on LFC(x, {RADIUS}), more often than by chance",
            f"{spread(part.high_alone, unit=100)} % of images, {spread(part.high_alone - excess, unit=100)} % by "
            f"chance or mean colour; accuracy {spread(part.low, unit=100)} % on LFC, {spread(part.high, unit=100)} % "
            f"on HFC, {spread(part.plain, unit=100)} % on x",
            verdict(list(excess - MARGIN)),
        )
    kept = (at_radius[at_radius.shown == AS_IS].set_index("seed")).assign(kept=lambda f: f.low / f.plain)
    standard, robust = (kept[kept.training == kind].kept for kind in (STANDARD, ROBUST))
    to.finding(
        f"trained against FGSM a network keeps more of its accuracy on LFC(x, {RADIUS})",
        f"{spread(robust, unit=100)} % of it against {spread(standard, unit=100)} %",
        verdict(list(robust - standard)),
    )


def _find_matched(matched: pd.DataFrame, to: Report) -> None:
    for kind, part in matched.groupby("training", sort=False):
        means = part.groupby("seed")[["frequencies", "singular_values"]].mean()
        to.finding(
            f"{kind}: singular values that leave high as much energy show less of it",
            f"high alone beyond chance and mean colour, mean over radii: {spread(means.singular_values, 2, 100)} % of "
            f"images against {spread(means.frequencies, 2, 100)} % by frequencies",
            verdict(list(means.frequencies - means.singular_values)),
        )


def _find_defences(judged: pd.DataFrame, to: Report) -> None:
    for kind, family in judged.groupby("training", sort=False):
        for defence, part in family.groupby("defence", sort=False):
            gains = {attack: part[part.attack == attack].gain for attack in (*TRANSFERRED, CLEAN, WHITE)}
            to.finding(
                f"{kind}: {defence} holds off attacks that were made without it, for {100 * COST:g} points at most",
                ", ".join(f"{attack} {spread(gains[attack], unit=100)}" for attack in (*TRANSFERRED, CLEAN))
                + " points",
                verdict([gain for attack in TRANSFERRED for gain in gains[attack]]),
            )
            to.finding(
                f"{kind}: {defence} there holds off FGSM made through it",
                f"{spread(gains[WHITE], unit=100)} points",
                verdict(list(gains[WHITE])),
            )


def _find_black_box(summary: pd.DataFrame, to: Report) -> None:
    for kind, part in summary.groupby("training", sort=False):
        by = {name: one.set_index("seed") for name, one in part.groupby("attack")}
        rates = {name: one.success for name, one in by.items()}
        to.finding(
            f"{kind}: the high-frequency attack turns more images than one pixel with as many queries",
            ", ".join(f"{name} {spread(rates[name], unit=100)} %" for name in (HIGH, PIXEL, PEPPER)),
            verdict(list(rates[HIGH] - rates[PIXEL])),
        )
        to.finding(
            f"{kind}: it turns more images than salt and pepper that change the image no more than it does",
            f"{spread(rates[HIGH], unit=100)} % against {spread(by[PEPPER].success_at_largest, unit=100)} %",
            verdict(list(rates[HIGH] - by[PEPPER].success_at_largest)),
        )
        sizes = {name: by[name].median_l2_of_both for name in (HIGH, PEPPER)}
        to.finding(
            f"{kind}: of images that both turn it changes less than salt and pepper",
            f"median L2 {spread(sizes[HIGH], 2)} against {spread(sizes[PEPPER], 2)}",
            verdict(list(sizes[PEPPER] - sizes[HIGH])) if sizes[HIGH].notna().all() else "open",
        )


def report(scale: Scale, store: Path, to: Report) -> None:
    parts, defences, attacked = _measure(scale, store)
    matched, judged, summary = _matched(parts), _judged(defences), _summary(attacked)
    tables = {"parts": parts, "parts_matched": matched, "defences": defences, "defences_judged": judged}
    for name, table in {**tables, "black_box": summary, "black_box_images": attacked}.items():
        to.table(name, table)
    to.summary(_shown(summary))
    to.figure("parts", draw_parts(parts))
    to.figure("high_alone", draw_alone(parts))
    to.figure("defences", draw_defences(defences))
    to.figure("black_box", draw_black_box(attacked))
    _find_parts(parts, to)
    _find_matched(matched, to)
    _find_defences(judged, to)
    _find_black_box(summary, to)


EXPERIMENT = Experiment(
    "frequency_components", "Low and high frequencies: what networks see, two defences and an attack", jobs, report
)

if __name__ == "__main__":
    run(EXPERIMENT)
