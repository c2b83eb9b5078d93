"""The experiment on cost: its table, without a word on how long anything takes."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from helpers import ROOT, importable, reference_pool2d

for needed in ("foolbox", "skimage", "pandas", "scipy", "rich", "matplotlib"):
    pytest.importorskip(needed)

EXPERIMENTS = ROOT / "examples" / "experiments"
PUBLISHED = '''
import torch, torch.nn as nn
class FLC_Pooling(nn.Module):
    def forward(self, x):
        return x[..., ::2, ::2]
class ASAP_padding_one(nn.Module):
    pass
class ASAP(nn.Module):
    def __init__(self, transpose=True):
        self.transpose, self.window2d = transpose, None
        super().__init__()
    def forward(self, x):
        x = x.transpose(2, 3) if self.transpose else x
        if self.window2d is None:
            raise RuntimeError("there may be no GPU")
        return (x * self.window2d)[..., ::2, ::2]
'''  # fmt: skip

pytestmark = pytest.mark.skipif(not (EXPERIMENTS / "cost.py").is_file(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def example():
    with importable(EXPERIMENTS.parent), importable(EXPERIMENTS):
        yield


@pytest.fixture(scope="module")
def output(example, tmp_path_factory):
    """Two rounds instead of one: a ratio of one round says nothing of medians."""
    import cost
    from lab import command
    from lab.scale import SCALES

    folder = tmp_path_factory.mktemp("cost")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(command.SCALES, "tiny", replace(SCALES["tiny"], rounds=2))
        assert command.main([cost.EXPERIMENT], ["--scale", "tiny", "--workers", "1", "--output", str(folder)]) == 0
    return folder / "cost"


@pytest.fixture(scope="module")
def table(output):
    return pd.read_csv(output / "kinds.csv").set_index("kind")


def kinds(upstream=None):
    from lab import pools

    return {kind.name: kind for kind in pools.kinds(upstream)}


def racer(name, upstream=None):
    from lab.racer import Racer
    from lab.scale import SCALES

    return Racer(kinds(upstream)[name], SCALES["tiny"])


def test_it_leaves_its_files(output):
    pil = pytest.importorskip("PIL.Image")
    files = {"about.json", "summary.csv", "cost.png", "findings.csv", "kinds.csv", "rounds.csv"}
    assert {path.name for path in output.iterdir()} == files
    with pil.open(output / "cost.png") as image:
        assert min(image.size) >= 400
        assert len(image.convert("L").getcolors()) > 50


def test_every_kind_has_one_row_and_is_timed_or_not_installed(table):
    assert list(table.index) == list(kinds())
    assert table.index.is_unique
    assert set(table.status) <= {"timed", "not installed"}
    missing = table[table.status == "not installed"]
    assert set(missing.family) <= {"blur"}
    assert missing.seconds.isna().all()
    timed = table[table.status == "timed"]
    assert (timed.seconds > 0).all()
    pooled = ~timed.family.isin(["strided", "watched"])
    assert (timed.pools[pooled] == 6).all()
    assert (timed.pools_alone[pooled] > 0).all()
    assert (timed.pools[~pooled] == 0).all()
    assert timed.pools_alone[~pooled].isna().all()


def test_ratios_are_those_of_the_rounds(output, table):
    rounds = pd.read_csv(output / "rounds.csv").pivot(index="round", columns="kind", values="seconds")
    timed = table[table.status == "timed"]
    assert set(rounds.columns) == set(timed.index)
    assert len(rounds) == 2
    for kind, row in timed.iterrows():
        ratio = rounds[kind] / rounds.strided
        assert row.seconds == pytest.approx(rounds[kind].median(), rel=1e-4)
        assert (row.ratio, row.lowest, row.highest) == pytest.approx(
            (ratio.median(), ratio.min(), ratio.max()), rel=1e-4
        )
    assert tuple(table.loc["strided", ["ratio", "lowest", "highest"]]) == (1, 1, 1)


def test_findings_are_those_of_the_rounds(output):
    rounds = pd.read_csv(output / "rounds.csv").pivot(index="round", columns="kind", values="seconds")
    findings = pd.read_csv(output / "findings.csv").set_index("claim").held
    (watched,) = (held for claim, held in findings.items() if "every step" in claim)
    below = (rounds["strided, AM at every step"] < 1.05 * rounds.strided).sum()
    assert watched == ("no", "partly", "yes")[below]
    (name,) = (name for name in rounds if name.startswith("FLC by torch.fft"))
    (faster,) = (
        held for claim, held in findings.items() if f"less time than with {name}" == claim.partition(" takes ")[2]
    )
    assert faster == ("no", "partly", "yes")[(rounds["FLC of alias_ops"] < rounds[name]).sum()]


@pytest.mark.parametrize("name", ["flc", "asap"])
def test_a_network_has_the_pool_that_its_row_names(name):
    pooled = racer(f"{name.upper()} of alias_ops")
    (by_fft,) = (kind for kind in kinds() if kind.startswith(f"{name.upper()} by torch.fft"))
    other = racer(by_fft)
    assert [tuple(x.shape[-2:]) for x in pooled.inputs] == [(32, 32)] * 2 + [(16, 16)] * 2 + [(8, 8)] * 2
    for mine, theirs, x in zip(pooled.pools, other.pools, pooled.inputs, strict=True):
        torch.testing.assert_close(
            theirs(x), reference_pool2d(name, x, variant="upstream").float(), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(mine(x), reference_pool2d(name, x).float(), rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, pooled.model.parameters(), other.model.parameters()))


def test_a_step_is_timed_and_trains(monkeypatch):
    from lab import racer as module

    timed = racer("strided")
    before = [parameter.detach().clone() for parameter in timed.model.parameters()]
    monkeypatch.setattr(module.time, "perf_counter", iter([3.0, 5.0]).__next__)
    assert timed.step(0) == 2
    assert not any(map(torch.equal, before, timed.model.parameters()))


@pytest.mark.parametrize(("name", "measured"), [("every step", 12), ("every 10th step", 2)])
def test_monitors_measure_as_often_as_they_say(name, measured):
    watched = racer(f"strided, AM at {name}")
    for index in range(12):
        watched.step(index)
    maps = watched.monitor.state_dict()["maps"]
    (layer,) = (layer for layer in maps if layer.endswith("layer4.0.conv1"))
    assert maps[layer] == measured * watched.batch * 128


def test_published_modules_are_taken_from_their_folder(tmp_path):
    (tmp_path / "modules.py").write_text(PUBLISHED)
    flc, asap = (racer(f"{name} of the published module", tmp_path) for name in ("FLC", "ASAP"))
    assert {type(pool).__name__ for pool in flc.pools} == {"FLC_Pooling"}
    assert asap.step(0) > 0
    window = torch.hamming_window(8, periodic=False)
    torch.testing.assert_close(asap.pools[-1].made.window2d, torch.outer(window, window).sqrt(), rtol=1e-5, atol=1e-6)
    assert not any("torch.fft" in name for name in kinds(tmp_path))


def test_a_folder_without_them_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no file with a class FLC_Pooling"):
        kinds(tmp_path)


def test_ten_steps_are_scaled_to_the_epoch_and_a_missing_library_has_its_row(monkeypatch):
    import cost
    from lab import pools
    from lab.racer import Racer
    from lab.scale import SCALES

    def gone(channels, stride):
        raise pools.NotInstalled("some library is not installed")

    steps = []
    named = [pools.Kind("strided", "strided"), pools.Kind("BlurPool of some library", "blur", gone)]
    monkeypatch.setattr(cost, "kinds", lambda _: named)
    monkeypatch.setattr(Racer, "step", lambda self, index: steps.append(index) or (100.0 if index < 10 else 0.5))
    table, rounds = cost.race(replace(SCALES["tiny"], patches=16))
    assert steps == list(range(20))  # the first ten to warm up
    assert list(table.status) == ["timed", "not installed"]
    assert tuple(table.loc[0, ["timed_steps", "epoch_steps", "batch", "seconds"]]) == (10, 16, 16, 8)
    assert list(rounds.seconds) == [8]
