"""What the experiment on frequency components measures, on networks that are understood."""

import math

import pytest
import torch
from helpers import ROOT, importable
from torch import nn

from alias_ops.frequency import low_pass

for needed in ("foolbox", "skimage", "scipy", "rich", "matplotlib"):
    pytest.importorskip(needed)
pd = pytest.importorskip("pandas")

EXPERIMENTS = ROOT / "examples" / "experiments"

pytestmark = pytest.mark.skipif(not (EXPERIMENTS / "lab").is_dir(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def lab():
    """The experiments' modules, importable as they are for a script and gone again afterwards."""
    with importable(EXPERIMENTS.parent), importable(EXPERIMENTS):
        yield


def narrow():
    from fgsm.data import Dataset, Images
    from fgsm.network import PixelNetwork

    from alias_ops.models import PreActResNet

    torch.manual_seed(0)
    no = Images(torch.empty(0), torch.empty(0))
    model = PixelNetwork(PreActResNet((1, 1, 1, 1), 4, channels=4), Dataset("", 4, no, no, (0.5,) * 3, (0.2,) * 3))
    return model.eval().requires_grad_(False)


class Rule(nn.Module):
    """Class 1 where a score of the image is above 0, else class 0; counts the images that it is asked about."""

    def __init__(self, score):
        super().__init__()
        self.score, self.asked = score, 0
        self.eval()

    def forward(self, x):
        self.asked += len(x)
        score = self.score(x)
        return torch.stack([-score, score], 1)


def test_shares_of_known_predictions():
    from lab.components import shares

    labels = torch.tensor([0, 0, 1, 1, 2])
    found = shares(
        whole=torch.tensor([0, 0, 1, 0, 2]),
        low=torch.tensor([1, 0, 0, 0, 0]),
        high=torch.tensor([0, 1, 1, 1, 1]),
        without=torch.tensor([0, 0, 0, 0, 2]),
        labels=labels,
    )
    # Lost on low, and right on the image: the first, the third and the last. High has them with 1/5, 4/5 and 0.
    expected = {"plain": 4, "low": 1, "high": 3, "high_alone": 2, "by_chance": 1, "by_mean": 2, "low_alone": 1}
    assert found == pytest.approx({name: count / 5 for name, count in expected.items()})


def test_a_network_that_sees_nothing_but_a_checkerboard():
    """It is right on high at any radius, and on low from the radius that lets the checkerboard through."""
    from lab.components import AS_IS, CUTS, FREQUENCIES, WITH_MEAN, components

    sign = 1 - 2 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float()
    labels = torch.tensor([0, 1, 1, 1])
    images = 0.5 + 0.2 * (2 * labels - 1).view(-1, 1, 1, 1) * sign.expand(4, 3, 32, 32)
    model = Rule(lambda x: (x * sign).mean((1, 2, 3)) - 0.1)
    rows = [row for row in components({"any": model}, images, labels) if row["by"] == FREQUENCIES]
    assert [(row["at"], row["shown"]) for row in rows] == [
        (r, s) for r in CUTS[FREQUENCIES] for s in (AS_IS, WITH_MEAN)
    ]
    for row in rows:
        everything = row["at"] > 16 * math.sqrt(2)
        assert row["plain"] == 1
        assert row["low"] == (1 if everything else 0.25)
        assert row["high"] == (0.25 if everything else 1)
        assert row["high_alone"] == (0 if everything else 0.75)
        assert row["by_chance"] == pytest.approx(0 if everything else 0.75 * 0.75)
        assert row["by_mean"] == 0
        assert row["energy_high"] == pytest.approx(0 if everything else 0.04 / 0.29, abs=1e-6)


def test_with_the_mean_high_is_as_light_as_the_image():
    from lab.components import components

    images = (
        torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        * torch.tensor([0.2, 0.6, 1])[:, None, None, None]
    )
    labels = torch.tensor([0, 1, 1])
    model = Rule(lambda x: x.mean((1, 2, 3)) - 0.2)
    for row in components({"any": model}, images, labels):
        assert row["high"] == (1 if row["shown"] == "with the image's mean" else pytest.approx(1 / 3))


def test_defences_begin_with_none_and_leave_the_network_as_it_was():
    from lab.defences import D1, STRENGTHS, defended

    model, x = narrow(), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before, weights = model(x), {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for defence, strength, network in defended(model):
        same = torch.equal(network(x), before)
        assert same == (strength == STRENGTHS[defence][0])
        if defence == D1:
            assert torch.equal(network(x), model(low_pass(x, strength.value)))
        seen.append((defence, strength))
    assert seen == [(defence, strength) for defence, strengths in STRENGTHS.items() for strength in strengths]
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_no_strength_changes_the_images_of_attacks_that_transfer():
    from lab.defences import TRANSFERRED, held_against

    generator = torch.Generator().manual_seed(2)
    x, y = torch.rand(4, 3, 32, 32, generator=generator), torch.arange(4)
    rows = pd.DataFrame(held_against(narrow(), x, y, 4 / 255, 1))
    changes = rows.groupby(["attack", "defence"]).median_l2.nunique().unstack()
    assert (changes.loc[list(TRANSFERRED)] == 1).all(axis=None)
    assert (changes.loc["FGSM through the defence"] > 1).all()
    largest = 4 / 255 * math.sqrt(x[0].numel())
    assert rows[rows.attack.str.startswith("FGSM")].median_l2.between(0.8 * largest, largest + 1e-4).all()


def test_an_attack_that_finds_nothing_leaves_images():
    """Foolbox's Carlini & Wagner gives black ones back then, which this network gets wrong."""
    from lab.defences import CARLINI, attack, attacks

    x = torch.full((2, 3, 8, 8), 0.5)
    found = attack(Rule(lambda x: x.mean((1, 2, 3)) - 0.01), x, torch.ones(2).long(), *attacks(0.1, 1)[CARLINI])
    assert torch.equal(found, x)
    found = attack(Rule(lambda x: x.mean((1, 2, 3)) - 0.499), x, torch.ones(2).long(), *attacks(0.1, 1)[CARLINI])
    assert (found.mean((1, 2, 3)) < 0.499).all()


@pytest.mark.parametrize("light", [0.5, 1.0])
def test_one_pixel_changes_one_pixel(light):
    from lab.black_box import one_pixel

    model = Rule(lambda x: 0.45 - (x - light).abs().amax((1, 2, 3)))
    x, y = torch.full((6, 3, 8, 8), light), torch.ones(6).long()
    found = one_pixel(model, x, y, 10, 0)
    changed = (found.images != x).any(1).flatten(1).sum(1)
    assert found.success.all()
    assert changed.eq(1).all()
    assert found.queries.eq(2).all()
    assert model.asked == found.queries.sum()
    assert found.norm.equal((found.images - x).flatten(1).norm(dim=1))
    assert ((found.images == x) | (found.images == 0) | (found.images == 1)).all()


def test_one_pixel_keeps_to_its_queries():
    from lab.black_box import one_pixel

    # One pixel of each image counts, so that of 40 tries in 64 places some find it and some do not.
    model = Rule(lambda x: 0.2 - (x[:, :, 2, 3] - 0.5).abs().amax(1))
    x, y = torch.full((32, 3, 8, 8), 0.5), torch.ones(32).long()
    y[0] = 0
    found = one_pixel(model, x, y, 40, 1)
    assert model.asked == found.queries.sum()
    assert found.queries.max() == 40
    assert found.queries[~found.success].eq(40).all()
    assert (found.success[0], found.queries[0], found.norm[0]) == (True, 1, 0)
    assert 0.1 < found.success[1:].float().mean() < 0.9
    changed = (found.images != x).any(1).flatten(1).sum(1)
    assert changed[1:].equal(found.success[1:].long())
    assert found.norm[~found.success].isinf().all()
    again = one_pixel(model, x, y, 40, 1)
    assert all(map(torch.equal, found, again))
    assert not torch.equal(found.success, one_pixel(model, x, y, 40, 2).success)


def test_queries_are_the_same_for_all():
    from lab.black_box import budget, high_frequencies, salt_and_pepper

    x, y = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(3)), torch.ones(3).long()
    model = Rule(lambda x: x.mean((1, 2, 3)) + 9)
    found = high_frequencies(model, x, y)
    assert found.queries.eq(budget(32, 32)).all()
    assert model.asked == 3 * budget(32, 32)
    assert salt_and_pepper(model, x, y, 0).queries.equal(found.queries)
    assert model.asked <= 3 * (2 * budget(32, 32) + 1)  # one more, by which Foolbox judges what it found
