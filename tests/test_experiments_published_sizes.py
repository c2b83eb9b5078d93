"""The experiment on sizes that 4 does not divide: what the layers do, what a swap of variants does, what is left."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from helpers import ROOT, importable, reference_pool2d

for needed in ("foolbox", "skimage", "pandas", "scipy", "rich", "matplotlib"):
    pytest.importorskip(needed)

EXPERIMENTS = ROOT / "examples" / "experiments"
FILES = {
    "about.json",
    "summary.csv",
    "findings.csv",
    "layer.csv",
    "layer.png",
    "networks.csv",
    "networks.png",
    "swaps.csv",
}

pytestmark = pytest.mark.skipif(not (EXPERIMENTS / "published_sizes.py").is_file(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def example():
    with importable(EXPERIMENTS.parent), importable(EXPERIMENTS):
        yield


@pytest.fixture(scope="module")
def output(example, tmp_path_factory):
    """Of one seed: what is made of several is tested on a table of its own."""
    import published_sizes
    from lab import command

    folder = tmp_path_factory.mktemp("sizes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(command.SCALES, "tiny", replace(command.SCALES["tiny"], seeds=1))
        arguments = ["--scale", "tiny", "--workers", "1", "--output", str(folder)]
        assert command.main([published_sizes.EXPERIMENT], arguments) == 0
    return folder


def table(output, name):
    return pd.read_csv(output / "published_sizes" / f"{name}.csv")


@pytest.fixture(scope="module")
def layer(output):
    return table(output, "layer").set_index(["pool", "size"])


def scale():
    from lab.scale import SCALES

    return SCALES["tiny"]


def test_it_leaves_its_files(output):
    pil = pytest.importorskip("PIL.Image")
    assert {path.name for path in (output / "published_sizes").iterdir()} == FILES
    for name in ("layer.png", "networks.png"):
        with pil.open(output / "published_sizes" / name) as image:
            assert min(image.size) >= 400
            assert len(image.convert("L").getcolors()) > 50
    about = json.loads((output / "published_sizes" / "about.json").read_text())
    assert about["scale"] == "tiny"
    assert len(about["settings"]["trainings"]) == len(set(about["settings"]["trainings"])) == 5


def test_flc_as_published_is_right_where_4_divides_the_size_and_nowhere_else(layer):
    flc = layer.loc["flc"]
    assert list(flc.index) == list(range(4, 66, 2))
    right = flc.index % 4 == 0
    assert (flc.difference[right] <= 1e-12).all()
    assert (flc.difference[~right] > 0.5).all()
    assert list(flc.four) == list(right)


def test_asap_as_published_differs_everywhere_by_its_window_and_far_more_where_dc_is_lost(layer):
    asap = layer.loc["asap"].difference
    right = asap.index % 4 == 0
    assert asap[right].is_monotonic_decreasing
    assert (asap[right] > 1e-4).all()
    assert (asap[~right] > 0.5).all()


@pytest.mark.parametrize("pool", ["flc", "asap"])
def test_a_constant_map_survives_centered_and_not_as_published_at_14(layer, pool):
    at = layer.loc[(pool, 14)]
    assert (at.lowest_centered, at.highest_centered) == pytest.approx((1, 1), abs=1e-6)
    expected = reference_pool2d(pool, torch.ones(1, 1, 14, 14), variant="upstream")
    assert (at.lowest_upstream, at.highest_upstream) == pytest.approx(tuple(map(float, expected.aminmax())), abs=1e-5)
    assert at.lowest_upstream < -0.85


def test_moving_by_the_stride_commutes_with_centered_at_all_sizes(layer):
    assert layer.moved_centered.max() < 1e-12
    assert (layer.moved_upstream[~layer.four] > 0.3).all()
    assert layer.moved_upstream[layer.four].max() < 1e-12


def test_every_network_is_run_as_it_was_trained_and_with_the_other_variant(output):
    networks = table(output, "networks")
    kinds = networks.groupby(["pool", "trained", "run"]).seed.agg(list)
    assert all(seeds == [0] for seeds in kinds)
    variants = ("centered", "upstream")
    swapped = {(pool, trained, ran) for pool in ("flc", "asap") for trained in variants for ran in variants}
    assert set(kinds.index) == {("strided", "strided", "strided"), *swapped}
    shares = networks[["accuracy", "accuracy_256", "consistency"]]
    images = 16 * 2 * shares.to_numpy()
    assert abs(images - images.round()).max() < 1e-3
    assert (networks.loss > 0.5).all()


def test_the_swap_is_rounding_at_256_and_far_more_at_224(output):
    swaps = table(output, "swaps").set_index(["pool", "size"]).sort_index()
    assert (swaps.logits["flc", 256] < 1e-5).all()
    assert (swaps.logits["asap", 256] < 0.05).all()
    assert (swaps.logits[:, 224] > 5 * swaps.logits["asap", 256].max()).all()


def test_findings_are_those_of_the_tables(output):
    findings = table(output, "findings").set_index("claim").held
    assert set(findings) <= {"yes", "partly", "no", "open"}
    (exact,) = (held for claim, held in findings.items() if claim.startswith("FLC: where 4 divides"))
    (inexact,) = (held for claim, held in findings.items() if claim.startswith("ASAP: where 4 divides"))
    assert (exact, inexact) == ("yes", "no")
    kinds = table(output, "networks").set_index(["pool", "trained", "run"]).accuracy.sort_index()
    own = kinds["flc", "upstream"]
    (held,) = (held for claim, held in findings.items() if claim.startswith("FLC at 224: trained upstream"))
    assert held == ("yes" if own.upstream > own.centered else "no")


def test_findings_over_seeds():
    """Centered is better in one seed of two at 224, the published networks fall further from there in both."""
    import published_sizes
    from lab.pictures import KINDS

    accuracies = {  # at 224 and at 256, of two seeds, when run as trained
        "strided": ((0.5, 0.5), (0.5, 0.5)),
        "centered": ((0.6, 0.55), (0.5, 0.5)),
        "upstream": ((0.5, 0.3), (0.55, 0.2)),
    }
    rows, swaps = [], []
    for pool, variant in KINDS:
        trained = "strided" if pool == "strided" else variant
        for seed, (here, there) in enumerate(accuracies[trained]):
            who = {"pool": pool, "trained": trained, "seed": seed}
            numbers = {**who, "accuracy": here, "accuracy_256": there, "consistency": 0.9, "classes": 16}
            rows.append({**numbers, "run": trained})
            if pool != "strided":
                rows.append({**numbers, "run": "upstream" if variant == "centered" else "centered", "accuracy": 0.1})
                swaps += [{**who, "size": size, "logits": 0.1, "classes": 0.5 * seed} for size in (224, 256)]
    findings = []
    to = SimpleNamespace(finding=lambda *finding: findings.append(finding))
    published_sizes._network_findings(pd.DataFrame(rows), pd.DataFrame(swaps), to)
    flc = [(measured, held) for claim, measured, held in findings if claim.startswith("FLC")]
    assert [held for _, held in flc] == ["partly", "no", "yes", "yes", "yes", "partly"]
    assert flc[0][0] == "55.0 ± 7.1 against 52.5 ± 3.5 %"
    assert flc[4][0] == "27.5 ± 10.6 against 2.5 ± 3.5 points"
    assert findings[-1][2] == "yes"


def test_what_is_kept_gives_the_same_numbers_and_is_not_trained_again(output):
    from lab.pictures import trainings
    from lab.pictures_training import load, predict, train, trained

    training = next(t for t in trainings(scale()) if (t.pool, t.variant) == ("asap", "upstream"))
    assert train(training, output / "runs")
    kept = load(training, output / "runs")
    logits, labels = predict(trained(training, kept["weights"]), training, 224)
    assert torch.allclose(logits, kept["checks"]["own"]["logits"][224], rtol=1e-4, atol=1e-5)
    assert (logits.argmax(1) == labels).float().mean() == pytest.approx(kept["checks"]["own"]["accuracy"])
    assert logits.std(0).min() > 0


def test_maps_and_first_weights_are_the_same_whatever_the_pool():
    from lab.pictures import network, trainings

    kinds = {(t.pool, t.variant): t for t in trainings(scale()) if t.seed == 0}
    sizes = {}
    for kind, training in kinds.items():
        model = network(training).eval()
        stages = [model.network.conv1, model.network.maxpool, *(getattr(model.network, f"layer{i}") for i in (2, 3, 4))]
        seen = []
        for stage in stages:
            stage.register_forward_hook(lambda *call, seen=seen: seen.append(call[-1].shape[-1]))
        model(torch.rand(1, 3, 224, 224))
        sizes[kind] = seen
        assert torch.equal(
            model.network.layer4[0].conv1.weight, network(kinds["strided", "centered"]).network.layer4[0].conv1.weight
        )
    assert set(map(tuple, sizes.values())) == {(112, 56, 28, 14, 7)}
    assert len(kinds) == 5


def test_held_out_pictures_are_the_same_at_any_size_and_not_trained_on():
    from lab.pictures import held_out, source, trainings

    training = trainings(scale())[0]
    small, large = (torch.cat([x for x, _ in held_out(training, size)]) for size in (224, 256))
    again = torch.nn.functional.interpolate(large, size=224, mode="bilinear", antialias=True)
    assert (again - small).abs().mean() < 0.03
    shown = torch.cat([x for x, _ in source(training).train()])
    assert torch.cdist(shown.flatten(1), small.flatten(1)).min() > 1
