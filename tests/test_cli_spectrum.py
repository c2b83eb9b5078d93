"""``alias-ops spectrum``: what it writes is what the functions return, and what it says where it cannot."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alias_ops import spectra
from alias_ops.cli import images as cli_images
from alias_ops.cli import main, spectrum

pytest.importorskip("matplotlib")

MODELS = """
import torch
from torch import nn

def net():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2))

def diverged():
    model = net()
    nn.init.constant_(model[0].weight, float("nan"))
    return model

class Own(nn.AvgPool2d):
    def forward(self, x):
        return x

def own():
    return nn.Sequential(nn.AvgPool2d(2), Own(2))

def five():
    return nn.Sequential(nn.Conv2d(5, 4, 3, stride=2))

def wide():
    return nn.Sequential(nn.Conv2d(3, 4, 99, stride=2))

class Interrupted(nn.Module):
    def forward(self, x):
        raise KeyboardInterrupt

def interrupted():
    return nn.Sequential(nn.MaxPool2d(2), Interrupted())
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "spectrum_nets.py").write_text(MODELS)
    random = np.random.default_rng(0)
    for folder in ("photos", "bad"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b", "c"):
        pixels = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    (tmp_path / "bad" / "x.png").write_bytes(b"not a png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    sys.modules.pop("spectrum_nets", None)


SPECTRUM = ["spectrum", "spectrum_nets:net", "--images", "photos", "--size", "20", "--output", "out"]


def batch() -> torch.Tensor:
    return torch.stack([cli_images._read(path, 3, 20) for path in sorted(Path("photos").iterdir())])


def test_spectra_of_a_model_are_those_of_the_functions(here, capsys):
    assert main([*SPECTRUM, "--batch-size", "2"]) == 0
    import spectrum_nets

    out, err = capsys.readouterr()
    assert err == ""
    expected = spectra.layer_spectra(spectrum_nets.net(), batch())
    written = json.loads(Path("out/spectra.json").read_text())
    assert [(one["layer"], one["kind"]) for one in written["layers"]] == [
        ("0", "conv 3x3 /2"),
        ("2", "max pool 2x2 /2"),
    ]
    assert [one["am"] for one in written["layers"]] == pytest.approx([one.aliasing for one in expected], rel=1e-5)
    frequency, level = spectra.radial_profile(batch())
    profile = written["radial_profile"]
    assert profile["frequency, cycles/sample"] == pytest.approx(frequency.tolist())
    np.testing.assert_allclose(profile["mean log10 magnitude"], level.numpy(), rtol=1e-4)
    assert (written["images"], written["size"], written["model"]) == (3, 20, "spectrum_nets:net")
    assert out.splitlines()[0] == f"0  AM {expected[0].aliasing:<9.4g}  conv 3x3 /2"
    assert (
        out.splitlines()[-1] == "3 images of photos, 20x20; in out: images.png, profile.png, layers.png, spectra.json"
    )
    for name in ("images.png", "profile.png", "layers.png"):
        with Image.open(Path("out", name)) as picture:
            assert min(picture.size) > 200
    assert {path.name for path in Path("out").iterdir()} == {"images.png", "profile.png", "layers.png", "spectra.json"}


def test_of_images_alone(here, capsys):
    assert main(["spectrum", "--images", "photos", "--size", "20"]) == 0
    written = json.loads(Path("spectra/spectra.json").read_text())
    assert (written["model"], written["layers"]) == (None, [])
    assert {path.name for path in Path("spectra").iterdir()} == {"images.png", "profile.png", "spectra.json"}


def test_layers_are_chosen_and_what_is_left_out_is_said_once(here, capsys):
    assert main([*SPECTRUM, "--layers", "2"]) == 0
    assert [one["layer"] for one in json.loads(Path("out/spectra.json").read_text())["layers"]] == ["2"]
    capsys.readouterr()
    assert main(["spectrum", "spectrum_nets:own", *SPECTRUM[2:]]) == 0
    assert capsys.readouterr().err.count("spectrum leaves out '1'") == 1


def test_five_channels_have_names(here):
    assert main(["spectrum", "spectrum_nets:five", "--size", "8", "--samples", "2"]) == 0
    written = json.loads(Path("spectra/spectra.json").read_text())
    assert len(written["radial_profile"]["mean log10 magnitude"]) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["spectrum", "--images", "bad", "--size", "8"], "none of the 1 images of bad can be read"),
        (["spectrum", "--images", "nowhere"], "--images nowhere is not a folder"),
        (["spectrum", "--images", "photos", "--layers", "0"], "--layers needs a MODEL"),
        ([*SPECTRUM, "--layers", "1"], "spectrum_nets:net: layers: '1' does not downsample"),
        (
            ["spectrum", "spectrum_nets:wide", *SPECTRUM[2:]],
            "the model failed on a batch [3, 3, 20, 20] (Runt",
        ),
        (["spectrum", "spectrum_nets:nothing"], "spectrum_nets has no nothing"),
        (["spectrum", "--images", "photos", "--output", "photos/a.png"], "--output photos/a.png cannot be made"),
    ],
)
def test_what_goes_wrong_is_one_sentence(here, capsys, arguments, says):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("alias-ops: ")


def test_an_interrupt_leaves_no_file(here, capsys):
    assert main(["spectrum", "spectrum_nets:interrupted", *SPECTRUM[2:]]) == 130
    assert capsys.readouterr().err == "alias-ops: interrupted after 3 of 3 images; nothing was written\n"
    assert list(Path("out").iterdir()) == []


def test_a_diverged_model_is_written_too(here, capsys):
    assert main(["spectrum", "spectrum_nets:diverged", *SPECTRUM[2:]]) == 0
    assert [one["am"] for one in json.loads(Path("out/spectra.json").read_text())["layers"]] == [None, None]
    assert capsys.readouterr().out.splitlines()[0].split() == ["0", "AM", "-", "conv", "3x3", "/2"]


def test_without_matplotlib(capsys, monkeypatch):
    monkeypatch.setattr(spectrum, "find_spec", lambda name: None)
    assert main(["spectrum"]) == 2
    assert capsys.readouterr().err == "alias-ops: spectrum needs matplotlib; pip install 'alias-ops[cli]'\n"
