"""What the experiments share: recipes, trainings and their store, corruptions, verdicts, the command line."""

import json
import re
from dataclasses import replace

import pytest
import torch
from helpers import ROOT, importable
from torch import nn

for needed in ("foolbox", "rich", "matplotlib", "scipy", "skimage", "tabulate"):
    pytest.importorskip(needed)
pd = pytest.importorskip("pandas")

EXPERIMENTS = ROOT / "examples" / "experiments"

pytestmark = pytest.mark.skipif(not EXPERIMENTS.is_dir(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def experiments():
    with importable(EXPERIMENTS):
        yield


@pytest.fixture
def recipe():
    from lab.recipe import Recipe

    return Recipe("narrow PreActResNet", epochs=1, batch=16, patches=2, checked=32, pgd_steps=1)


def test_a_recipe_has_a_key_of_its_own_for_every_setting(recipe):
    others = [
        recipe.but(seed=1),
        recipe.but(size=16),
        recipe.but(attack="fgsm", epsilon=8),
        recipe.but(attack="fgsm", epsilon=4),
        recipe.but(downsampling="flc"),
        recipe.but(lr=0.3),
        recipe.but(data="/elsewhere"),
    ]
    assert len({recipe.key, *(other.key for other in others)}) == len(others) + 1
    assert recipe.key == replace(recipe).key
    with pytest.raises(ValueError, match="does not go with epsilon"):
        recipe.but(epsilon=8)
    with pytest.raises(ValueError, match="does not go with epsilon"):
        recipe.but(attack="pgd")


def test_a_training_is_the_same_again_and_is_done_once(recipe, tmp_path):
    from lab.training import load, train

    recipe = recipe.but(attack="fgsm-rs", epsilon=8, every_epoch=True, epochs=2)
    assert [train(recipe, tmp_path / folder) for folder in ("one", "other", "one")] == [False, False, True]
    one, other = (load(recipe, tmp_path / folder) for folder in ("one", "other"))
    assert one.recipe == recipe
    assert all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())
    assert [epoch["epoch"] for epoch in one.history] == [1, 2]
    timed = ("seconds_training", "seconds_am", "seconds_pgd", "spectrum", "sure_wrong")
    for mine, its in zip(one.history, other.history):
        assert torch.equal(mine["spectrum"], its["spectrum"])
        assert {k: v for k, v in mine.items() if k not in timed} == {k: v for k, v in its.items() if k not in timed}
    assert list((tmp_path / "one").iterdir()) == [tmp_path / "one" / f"{recipe.key}.pt"]
    with pytest.raises(FileNotFoundError):
        load(recipe.but(seed=7), tmp_path / "one")


@pytest.mark.parametrize("attack", ["none", "fgsm", "fgsm-rs", "pgd"])
def test_the_network_trains_on_images_within_epsilon(recipe, attack):
    from lab import training

    recipe = recipe.but(attack=attack, epsilon=0 if attack == "none" else 8)
    torch.manual_seed(0)
    model = training.network(recipe).train()
    x, y = torch.rand(6, 3, 32, 32), torch.arange(6)
    attacked = training._attacked(model, x, y, recipe)
    most = (attacked - x).abs().max()
    assert model.training
    assert not attacked.requires_grad
    assert 0 <= attacked.min() <= attacked.max() <= 1
    assert most == 0 if attack == "none" else 6 / 255 < most <= 8 / 255 + 1e-6
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("downsampling", ["strided", "max", "average", "blur", "flc", "asap"])
def test_networks_halve_their_maps_as_they_are_told(recipe, downsampling):
    from lab.checks import measure
    from lab.networks import can_alias
    from lab.training import network

    model = network(recipe.but(downsampling=downsampling)).eval()
    strided = network(recipe).state_dict()
    mine = model.state_dict()
    same = [name for name in strided if name in mine and torch.equal(strided[name], mine[name])]
    assert len(same) == len(strided)  # the same weights to begin with
    images = torch.rand(4, 3, 32, 32)
    assert model(images).shape == (4, 16)
    if can_alias(recipe.network, downsampling):
        layers = measure(model, images)
        assert len(layers) == 6
        assert min(layers.values()) > 0


def test_blur_is_blurpool():
    from lab.networks import DOWNSAMPLING

    layers = pytest.importorskip("kornia").filters
    x = torch.rand(2, 5, 12, 14)
    mine, its = DOWNSAMPLING["blur"](channels=5, stride=2)(x), layers.BlurPool2D(3, stride=2)(x)
    # The border differs: kornia pads with zeros, Zhang's module by reflection.
    torch.testing.assert_close(mine[..., 1:, 1:], its[..., 1:, 1:])
    assert not any(p.requires_grad for p in DOWNSAMPLING["blur"](channels=5, stride=2).parameters())


def test_smaller_images_are_means_over_squares(recipe):
    from lab.images import dataset

    whole, half = dataset(recipe), dataset(recipe.but(size=16))
    means = whole.train.images.double().view(-1, 3, 16, 2, 16, 2).mean((3, 5))
    assert half.train.images.shape[1:] == (3, 16, 16)
    assert (half.train.images.double() - means).abs().max() <= 0.5
    assert torch.equal(half.held_out.labels, whole.held_out.labels)


def test_large_pictures_are_of_disjoint_parts():
    from lab.images import large_pictures

    found = large_pictures(2, 1, 64, seed=3)
    assert found.train.images.shape == (32, 3, 64, 64)
    assert found.held_out.images.shape == (16, 3, 64, 64)
    assert found.train.images.dtype == torch.uint8
    assert found.held_out.labels.tolist() == list(range(16))
    assert torch.equal(found.train.images, large_pictures(2, 1, 64, seed=3).train.images)
    assert not torch.equal(found.train.images, large_pictures(2, 1, 64, seed=4).train.images)


@pytest.fixture(scope="module")
def grey():
    return torch.linspace(0.25, 0.6, 4).view(4, 1, 1, 1).expand(4, 3, 32, 32).contiguous()


def test_corruptions_stay_images_and_are_the_same_again(experiments):
    from lab.corruptions import CORRUPTIONS, corrupt

    torch.manual_seed(0)
    x = torch.rand(3, 3, 32, 32)
    for kind in CORRUPTIONS:
        found = [corrupt(x, kind, severity) for severity in (1, 5)]
        for y in found:
            assert (y.shape, y.dtype) == (x.shape, x.dtype)
            assert 0 <= y.min() <= y.max() <= 1
        weak, strong = ((y - x).square().mean() for y in found)
        assert 0 < weak < strong
        assert torch.equal(found[0], corrupt(x, kind, 1))


def test_corruptions_are_as_strong_as_they_are_named(grey):
    from lab.corruptions import corrupt

    noise = corrupt(grey, "gaussian noise", 3) - grey
    assert noise.std() == pytest.approx(0.08, rel=0.05)
    assert not torch.equal(noise[0], noise[1])
    shot = corrupt(grey[:1], "shot noise", 5) - grey[:1]
    assert shot.std() == pytest.approx((0.25 / 50) ** 0.5, rel=0.1)
    speckle = corrupt(grey[:1], "speckle noise", 1) - grey[:1]
    assert speckle.std() == pytest.approx(0.25 * 0.06, rel=0.1)
    assert (corrupt(grey, "impulse noise", 5) != grey).double().mean() == pytest.approx(0.07, rel=0.2)
    torch.testing.assert_close(corrupt(grey, "brightness", 2), (grey + 0.1).clamp(0, 1))
    torch.testing.assert_close(corrupt(grey, "gaussian blur", 5), grey)
    torch.testing.assert_close(corrupt(grey, "contrast", 5), grey)
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 3, 32, 32).contiguous()
    low = corrupt(ramp, "contrast", 5)
    torch.testing.assert_close(low.mean(), ramp.mean())
    assert low.std() == pytest.approx(0.15 * float(ramp.std()), rel=1e-3)


def test_images_of_every_class_are_chosen():
    from lab.checks import some

    labels = torch.arange(16).repeat_interleave(32)
    _, chosen = some((torch.zeros(512, 1), labels), 96)
    assert torch.bincount(chosen, minlength=16).min() >= 5
    assert some((torch.zeros(8, 1), labels[:8]), 96)[0].shape == (8, 1)


def test_a_verdict_is_of_all_runs():
    from lab.report import spread, verdict

    assert verdict([0.1, 2]) == "yes"
    assert verdict([0.1, -2]) == "partly"
    assert verdict([0.1, float("nan")]) == "partly"
    assert verdict([0, -1]) == verdict([]) == "no"
    assert spread([1, 3], 1) == "2.0 ± 1.4"
    assert spread([0.5, float("nan"), None], 0, 100) == "50"
    assert spread([]) == "-"


def test_a_collapse_is_one_of_pgd_alone(experiments):
    from overfitting import _jump, collapse

    def run(pgd, fgsm, am=None):
        numbers = {"epoch": range(1, len(pgd) + 1), "pgd": pgd, "fgsm": fgsm, "am": am or [1.0] * len(pgd)}
        return pd.DataFrame(numbers)

    assert collapse(run([0.2, 0.4, 0.1, 0.0], [0.3, 0.5, 0.6, 0.7])) == 3
    assert collapse(run([0.2, 0.4, 0.1, *[0.4] * 5], [0.5] * 8)) is None  # an accident
    assert collapse(run([0.2, 0.4, 0.1, *[0.4] * 5, 0.1, 0.0, 0.0], [0.5] * 11)) == 9
    assert collapse(run([0.2, 0.4, 0.1, 0.0], [0.2, 0.5, 0.1, 0.0])) is None  # the network failed as a whole
    assert collapse(run([0.2, 0.4, 0.3], [0.3, 0.5, 0.9])) is None
    aliasing = [9, 1, 1, 2, 1, 1, 1.5, 3, 9, 9, 9]
    assert _jump(run([0] * 11, [0] * 11, aliasing), 6) == (9, 1)
    assert _jump(run([0] * 11, [0] * 11, aliasing), 5) == (3, 1.5)


def test_rules_are_replayed(experiments):
    from early_stopping import _kept, _stops, stops_at
    from fgsm.attack import PGDEarlyStopping

    from alias_ops import AliasingEarlyStopping

    am = [1.0, 1.1, 1.0, 0.9, 1.0, 1.05, 1.4, 2]
    pgd = [0.1, 0.3, 0.4, 0.4, 0.4, 0.4, 0.3, 0.05]
    assert stops_at(AliasingEarlyStopping(0.3), am) == 7
    assert stops_at(AliasingEarlyStopping(3), am) is None
    assert stops_at(PGDEarlyStopping(0.2), pgd) == 8
    epochs = pd.DataFrame({"seed": 0, "epoch": range(1, 9), "am": am, "pgd": pgd, "clean": 0.5, "fgsm": 0.5})
    stops = _stops(epochs, 0.2).set_index("threshold")
    assert stops.am[0.33] == 7
    assert stops.distance[0.33] == 1
    assert stops.collapse[0.33] == 8
    assert _kept(epochs, 7).epoch == 6
    assert _kept(epochs, float("nan")).epoch == 8


def test_energy_outside_of_the_half_band(experiments):
    from fully_connected import high_share

    def wave(cycles):
        line = torch.cos(2 * torch.pi * cycles * torch.arange(32) / 32)
        return line.expand(1, 3, 32, 32)

    assert high_share(wave(3)) == pytest.approx(0, abs=1e-12)
    assert high_share(wave(8)) == pytest.approx(1)  # the edge folds onto Nyquist
    assert high_share(wave(13).transpose(-1, -2)) == pytest.approx(1)
    assert high_share(wave(3) + wave(13)) == pytest.approx(0.5)


def test_consistency_of_shifts(experiments):
    from downsampling import consistency

    class Brightest(nn.Module):
        def forward(self, x):
            return x.mean(1).flatten(1)  # the class is where the brightest pixel is: no shift keeps it

    class Mean(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), torch.full((len(x),), -1.0)], 1)

    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert consistency(Mean(), images, 0) == 1
    assert consistency(Brightest(), images, 0) < 0.5


def run(*arguments):
    from lab.command import main
    from overfitting import EXPERIMENT

    return main([EXPERIMENT], [*map(str, arguments)])


def test_a_script_leaves_tables_figures_and_where_they_come_from(tmp_path, capsys):
    assert run("--scale", "tiny", "--workers", 1, "--output", tmp_path) == 0
    assert "[1/2]" in capsys.readouterr().out
    assert run("--scale", "tiny", "--workers", 1, "--output", tmp_path) == 0
    assert capsys.readouterr().out.count("at hand") == 2
    folder = tmp_path / "overfitting"
    assert {path.name for path in folder.iterdir()} == {
        *("about.json", "findings.csv", "summary.csv", "epochs.csv"),
        *("training.png", "confidence.png", "perturbations.png"),
    }
    about = json.loads((folder / "about.json").read_text())
    assert about["scale"] == "tiny"
    assert about["versions"]["torch"] == torch.__version__
    assert {"device", "date", "commit", "seconds"} <= about.keys()
    assert len(about["settings"]["trainings"]) == 2
    epochs = pd.read_csv(folder / "epochs.csv")
    assert epochs.groupby("seed").epoch.apply(list).tolist() == [[1, 2, 3, 4, 5, 6]] * 2
    assert epochs[["clean", "fgsm", "pgd"]].stack().between(0, 1).all()
    layers = epochs[[name for name in epochs if name.startswith("am ")]]
    assert layers.shape[1] == 6
    assert (layers.mean(axis=1) - epochs.am).abs().max() < 1e-5
    findings = pd.read_csv(folder / "findings.csv")
    assert findings.held.isin(["yes", "partly", "no", "open"]).all()


def test_a_wrong_command_line_is_refused(tmp_path, capsys):
    for arguments, said in {
        ("--scale", "huge"): "invalid choice",
        ("--data", tmp_path / "nowhere"): "expected a folder",
        ("--data", tmp_path): "no CIFAR-10",
        ("--workers", "0"): "expected a positive whole number",
    }.items():
        with pytest.raises(SystemExit) as left:
            run(*arguments)
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_tables_of_a_page_are_those_of_the_results(tmp_path):
    from document import write_tables

    for name, held in {"second": ["no", "yes"], "first": ["yes", "yes"]}.items():
        (tmp_path / name).mkdir()
        findings = pd.DataFrame({"claim": [f"of {name}", "more"], "measured": ["1 | 2", "3"], "held": held})
        findings.to_csv(tmp_path / name / "findings.csv", index=False)
        pd.DataFrame({"AM": ["0.10"], "note": [""]}).to_csv(tmp_path / name / "summary.csv", index=False)
    page = (
        "<!-- verdicts -->\nstale\n<!-- end -->\ntext\n<!-- findings: first -->\n<!-- end -->\n"
        "<!-- summary: second -->\nstale\n<!-- end -->\n"
    )
    written = write_tables(page, tmp_path)
    assert write_tables(written, tmp_path) == written
    assert "stale" not in written
    counts = [re.findall(r"\w+", line) for line in written.splitlines() if line.startswith(("| first", "| second"))]
    assert counts == [["first", "2", "0", "0", "0"], ["second", "1", "0", "1", "0"]]
    assert written.count("**held**") == 2
    assert r"1 \| 2" in written
    assert written.count("| 0.10 |") == 1


def test_the_documentation_has_the_committed_results():
    from document import write_tables

    page = ROOT / "docs" / "experiments.md"
    assert write_tables(page.read_text(), page.parent / "experiments") == page.read_text()
