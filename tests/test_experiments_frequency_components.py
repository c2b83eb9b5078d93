"""The experiment on frequency components: a tiny run's files, and how its numbers are judged."""

import json

import numpy as np
import pytest
from helpers import ROOT, importable

for needed in ("foolbox", "skimage", "scipy", "rich", "matplotlib"):
    pytest.importorskip(needed)
pd = pytest.importorskip("pandas")

EXPERIMENTS = ROOT / "examples" / "experiments"
TABLES = ("parts", "parts_matched", "defences", "defences_judged", "black_box", "black_box_images", "findings")
FIGURES = ("parts", "high_alone", "defences", "black_box")
WHO = ["training", "seed"]

pytestmark = pytest.mark.skipif(not (EXPERIMENTS / "lab").is_dir(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def experiment():
    """The script as a module, importable as its own folder has it and gone again afterwards."""
    with importable(EXPERIMENTS.parent), importable(EXPERIMENTS):
        import frequency_components

        yield frequency_components


@pytest.fixture(scope="module")
def folder(experiment, tmp_path_factory):
    from lab.command import main

    output = tmp_path_factory.mktemp("experiments")
    options = ["--scale", "tiny", "--workers", "1", "--output", str(output)]
    assert main([experiment.EXPERIMENT], options) == 0
    return output / "frequency_components"


def table(folder, name):
    return pd.read_csv(folder / f"{name}.csv")


def test_it_leaves_its_files(folder):
    wanted = {f"{name}.csv" for name in TABLES} | {f"{name}.png" for name in FIGURES} | {"about.json", "summary.csv"}
    assert {path.name for path in folder.iterdir()} == wanted
    assert len(json.loads((folder / "about.json").read_text())["settings"]["trainings"]) == 4
    findings = table(folder, "findings")
    assert len(findings) >= 19
    assert set(findings.held) <= {"yes", "partly", "no", "open"}
    assert findings.claim.is_unique


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_are_drawn(folder, name):
    pil = pytest.importorskip("PIL.Image")
    with pil.open(folder / f"{name}.png") as image:
        assert min(image.size) >= 400
        assert len(image.convert("L").getcolors()) > 50


def test_parts_of_a_run(folder):
    from lab.components import CUTS

    parts = table(folder, "parts")
    assert len(parts) == 2 * 2 * 2 * sum(map(len, CUTS.values()))
    numbers = parts[["plain", "low", "high", "high_alone", "by_chance", "by_mean", "low_alone", "energy_high"]]
    assert ((numbers >= 0) & (numbers <= 1)).all(axis=None)
    assert (parts.high_alone <= parts.high).all()
    assert (parts.high_alone + parts.low_alone <= parts.plain + 1e-5).all()
    for (_, _, by, _), part in parts.groupby([*WHO, "by", "shown"]):
        assert tuple(part["at"]) == CUTS[by]
        assert part.energy_high.is_monotonic_decreasing
        whole = part.iloc[-1]
        assert whole.energy_high == 0
        assert whole.low == whole.plain
        assert whole.high_alone == 0


def test_defences_of_a_run(folder):
    from lab.defences import STRENGTHS

    defences = table(folder, "defences")
    assert defences.accuracy.between(0, 1).all()
    assert not defences.duplicated([*WHO, "defence", "strength", "layers", "attack"]).any()
    assert len(defences) == 4 * 5 * sum(map(len, STRENGTHS.values()))
    for _, network in defences.groupby(WHO):
        plain = {}
        for defence, strengths in STRENGTHS.items():
            none = network[(network.defence == defence) & (network.strength == strengths[0].value)]
            plain[defence] = none.set_index("attack").accuracy.to_dict()
            assert plain[defence]["FGSM through the defence"] == plain[defence]["FGSM"]
        assert plain["D1, radius"] == plain["D2, radius"] == plain["D2, rho"]
    assert (defences[defences.attack == "no attack"].median_l2 == 0).all()
    assert (defences[defences.attack == "FGSM"].median_l2 > 0).all()


def test_black_box_of_a_run(folder):
    from lab.black_box import budget

    images, summary = table(folder, "black_box_images"), table(folder, "black_box")
    assert len(images) > 0
    assert set(images.attack) == {"high frequencies", "salt and pepper", "one pixel"}
    assert images.queries.between(2, budget(32, 32)).all()
    assert (np.isfinite(images.l2) == images.success).all()
    assert (images.l2 > 0).all()
    for who, part in images.groupby([*WHO, "attack"]):
        (row,) = summary[(summary[[*WHO, "attack"]] == list(who)).all(axis=1)].itertuples()
        assert row.images == len(part)
        assert row.success == pytest.approx(part.success.mean(), rel=1e-5)
        assert row.queries == pytest.approx(part.queries.mean(), rel=1e-5)
        assert row.success_at_largest <= row.success


def test_black_box_attacks_are_compared_at_one_size_and_on_the_same_images(experiment):
    from lab.black_box import HIGH, PEPPER, PIXEL

    found = {HIGH: (3, 1, np.inf, np.inf), PEPPER: (8, 2.5, 2, np.inf), PIXEL: (np.inf, np.inf, np.inf, 1)}
    rows = [
        {"training": "any", "seed": 0, "attack": name, "image": i, "success": size < np.inf, "l2": size, "queries": i}
        for name, sizes in found.items()
        for i, size in enumerate(sizes)
    ]
    summary = experiment._summary(pd.DataFrame(rows)).set_index("attack")
    assert summary.success.to_dict() == {HIGH: 0.5, PEPPER: 0.75, PIXEL: 0.25}
    assert summary.success_at_largest.to_dict() == {HIGH: 0.5, PEPPER: 0.5, PIXEL: 0.25}
    assert summary.median_l2_of_both.to_dict() == pytest.approx({HIGH: 2, PEPPER: 5.25, PIXEL: np.nan}, nan_ok=True)
    assert summary.median_l2[PEPPER] == 5.25
    assert np.isinf(summary.median_l2[PIXEL])
    assert experiment._summary(pd.DataFrame(rows).iloc[:0]).empty


def test_a_defence_is_judged_at_the_strongest_strength_that_is_bearable(experiment):
    from lab.defences import CLEAN, D2_RHO, STRENGTHS, TRANSFERRED, WHITE

    clean, transferred, white = (0.8, 0.7, 0.76, 0.1), (0.1, 0.2, 0.4, 0.9), (0.1, 0.9, 0.05, 0.9)
    rows = [
        {
            "training": "any",
            "seed": 0,
            "defence": D2_RHO,
            "strength": s.value,
            "layers": s.layers,
            "attack": a,
            "accuracy": v,
        }
        for attacks, values in ((TRANSFERRED, transferred), ((CLEAN,), clean), ((WHITE,), white))
        for a in attacks
        for s, v in zip(STRENGTHS[D2_RHO], values, strict=True)
    ]
    judged = experiment._judged(pd.DataFrame(rows)).set_index("attack")
    assert set(judged.strength) == {STRENGTHS[D2_RHO][2].value}
    expected = {CLEAN: -0.04, **dict.fromkeys(TRANSFERRED, 0.3), WHITE: -0.05}
    assert judged.gain.to_dict() == pytest.approx(expected)


def test_ways_to_part_are_matched_by_their_energy(experiment):
    from lab.components import FREQUENCIES, SINGULAR_VALUES, WITH_MEAN

    def rows(by, points):
        who = {"training": "any", "seed": 0, "by": by, "shown": WITH_MEAN, "by_chance": 0.01, "by_mean": 0.02}
        return [{**who, "at": at, "energy_high": share, "high_alone": alone} for at, share, alone in points]

    waves = rows(FREQUENCIES, [(2, 1e-1, 0.5), (4, 1e-2, 0.3), (6, 1e-5, 0.1), (23, 0, 0)])
    ranks = rows(SINGULAR_VALUES, [(1, 1e-1, 0.4), (2, 1e-3, 0.2), (32, 0, 0)])
    (first, second) = experiment._matched(pd.DataFrame(waves + ranks)).sort_values("radius").itertuples()
    assert (first.radius, second.radius) == (2, 4)
    assert (first.frequencies, first.singular_values) == pytest.approx((0.48, 0.38))
    assert (second.frequencies, second.singular_values) == pytest.approx((0.28, 0.28))
