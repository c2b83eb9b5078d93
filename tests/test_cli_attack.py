"""``alias-ops attack``: what it prints and writes is what the attack found, and one sentence for what goes wrong."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_one_sentence
from PIL import Image
from torch import nn

from alias_ops.cli import images as cli_images
from alias_ops.cli import main
from alias_ops.cli.running import bar
from alias_ops.frequency import distances, high_frequency_attack, low_pass

SIZE = 16

MODELS = """
import torch
from torch import nn

def net(classes=6, channels=3):
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, classes))

def grey():
    return net(channels=1)

def five():
    return net(channels=5)

def one_class():
    return net(1)

def maps():
    return nn.Conv2d(3, 4, 3)

class Breaks(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.net, self.error, self.batches = net(), error, 0

    def forward(self, x):
        self.batches += x.shape[0]
        if self.batches > 60:
            raise self.error("out of luck")
        return self.net(x)

def breaks():
    return Breaks(ValueError)

def interrupted():
    return Breaks(KeyboardInterrupt)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder: models in attacked.py; images in two classes, and without."""
    (tmp_path / "attacked.py").write_text(MODELS)
    random = np.random.default_rng(0)
    for name in ("classes/cat/a.png", "classes/cat/b.png", "classes/dog/deep/c.bmp", "flat/d.png", "flat/cat/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "classes" / "ant").mkdir()
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    sys.modules.pop("attacked", None)


def attack(model: str, images: str, *more: str) -> list[str]:
    return ["attack", f"attacked:{model}", images, "--size", str(SIZE), *more]


def found(names: list[str], labels=None, channels: int = 3, **settings):
    """The same by the function, the images normalised as the command does."""
    import attacked

    model = {3: attacked.net, 1: attacked.grey}[channels]().eval()
    mean, std = cli_images.statistics(channels)
    batch = torch.stack([cli_images.pixels(Path(name), channels, SIZE) for name in names])
    ask = nn.Sequential(Normalise(mean, std), model).eval()
    return batch, high_frequency_attack(ask, batch, labels, bounds=(0, 1), **settings), ask


class Normalise(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        return (x - self.mean) / self.std


CLASSES = ["classes/cat/a.png", "classes/cat/b.png", "classes/dog/deep/c.bmp"]


def test_the_table(here, capsys):
    assert main(attack("net", "classes", "--step", "2", "--min-radius", "0")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    every = len(distances(SIZE, SIZE))
    assert lines[0] == (
        f"High-frequency attack on attacked:net: 3 images of classes, 16x16, cpu; labels by subfolder; "
        f"{-(-every // 2)} of {every} radii"
    )
    assert lines[2].split() == ["image", "result", "label", "predicted", "radius", "L2", "queries"]
    assert [line.split()[0] for line in lines[4:7]] == CLASSES
    _, expected, _ = found(CLASSES, torch.tensor([1, 1, 2]), step=2, min_radius=0)
    assert [int(line.split()[-1]) for line in lines[4:7]] == expected.queries.tolist()
    wrong = int(expected.radius.isinf().sum())
    by_attack = int(expected.success.sum()) - wrong
    assert lines[-1] == (
        f"3 images: {wrong} wrong as they are, {by_attack} by the attack, {3 - wrong - by_attack} right on all; "
        f"{expected.queries.sum()} queries"
    )


@pytest.mark.parametrize("batch_size", ["1", "2", "16"])
@pytest.mark.parametrize("model", ["net", "grey"])
def test_what_it_writes_is_what_the_attack_finds(here, capsys, model, batch_size):
    more = ["--predicted", "--min-radius", "0", "--step", "1", "--output", "out", "--json", "--batch-size", batch_size]
    assert main(attack(model, "classes", *more)) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    record = json.loads(printed)
    assert json.loads(Path("out/attack.json").read_text()) == record
    channels = 1 if model == "grey" else 3
    batch, expected, ask = found(CLASSES, channels=channels, min_radius=0)
    assert record["complete"] is True
    assert (record["step"], record["min_radius"], record["size"]) == (1, 0, SIZE)
    assert record["command"] == "alias-ops " + " ".join(attack(model, "classes", *more))
    assert [row["image"] for row in record["images"]] == CLASSES
    pictures = {str(path.relative_to("out")) for path in Path("out").rglob("*.png")}
    assert expected.success.any(), "the model of these tests is one that can be attacked"
    for i, row in enumerate(record["images"]):
        success = bool(expected.success[i])
        assert row["result"] == ("by attack" if success else "right")
        assert row["queries"] == expected.queries[i]
        assert row["label"] == ask(batch)[i].argmax()
        assert row["predicted"] == ask(expected.images)[i].argmax()
        name = f"{Path(CLASSES[i]).relative_to('classes')}.png"
        assert (name in pictures) == success
        if success:
            assert row["radius"] == expected.radius[i]
            assert row["norm"] == pytest.approx(expected.norm[i].item(), rel=1e-5)
            picture = np.asarray(Image.open(Path("out", name)), dtype=np.float32).reshape(SIZE, SIZE, channels) / 255
            wanted = low_pass(batch[i], row["radius"]).clamp(0, 1).movedim(0, -1).numpy()
            assert np.abs(picture - wanted).max() <= 0.51 / 255
        else:
            assert row["radius"] is row["norm"] is None


def test_labels_are_of_the_model_where_some_images_are_in_no_subfolder(here, capsys):
    assert main(attack("net", "flat", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert [row["result"] for row in record["images"] if row["result"] == "wrong as it is"] == []
    assert main(attack("net", "flat")) == 0
    assert "labels of the model;" in capsys.readouterr().out


def test_about_a_hundred_radii_and_a_quarter_of_the_side_by_default(here, capsys):
    assert main(attack("net", "classes", "--json", "--size", "16")) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["step"], record["min_radius"]) == (1, 4)
    (here / "large.py").write_text(MODELS.replace("14 * 14", "62 * 62"))
    assert main(["attack", "large:net", "classes", "--size", "64", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    every = (distances(64, 64) >= 16).sum().item()
    assert 80 <= every / record["step"] <= 125
    assert record["step"] > 1
    sys.modules.pop("large")


def test_samples_are_chosen_by_the_seed(here, capsys):
    names = []
    for seed in ("0", "0", "1", "2", "3"):
        assert main(attack("net", "classes", "--samples", "1", "--seed", seed, "--json")) == 0
        names.append(json.loads(capsys.readouterr().out)["images"][0]["image"])
    assert names[0] == names[1]
    assert len(set(names)) > 1


def test_unreadable_images_are_named_and_skipped(here, capsys):
    (here / "classes" / "cat" / "torn.png").write_bytes(b"no png")
    assert main(attack("net", "classes", "--json")) == 0
    out, err = capsys.readouterr()
    assert [row["image"] for row in json.loads(out)["images"]] == CLASSES
    assert err.startswith("alias-ops: skipped classes/cat/torn.png, it cannot be read (")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("model", "status"), [("breaks", 2), ("interrupted", 130)])
def test_what_was_found_survives_an_error(here, capsys, model, status):
    more = ["--predicted", "--step", "1", "--batch-size", "1", "--output", "out"]
    assert main(attack(model, "classes", *more)) == status
    out, err = capsys.readouterr()
    assert "; labels of the model; " in out
    assert out.splitlines()[0].endswith("radii, incomplete")
    record = json.loads(Path("out/attack.json").read_text())
    assert record["complete"] is False
    assert 0 < len(record["images"]) < 3
    assert err.count("\n") == 1
    done = len(record["images"])
    expected = {2: "the model failed on a batch [1, 3, 16, 16] (ValueError: out of luck)", 130: "interrupted after"}
    assert expected[status] in err
    assert status == 2 or f"interrupted after {done} of 3 images" in err


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with bar(10, "attacking") as move:
        move(5)
    assert "attacking" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "rich", None)
    with bar(10, "attacking") as move:
        move(5)
    assert capsys.readouterr().err == ""


ERRORS = {
    "no images": (["attack", "attacked:net"], "the following arguments are required: IMAGES"),
    "no folder": (attack("net", "nowhere"), "IMAGES nowhere is not a folder"),
    "empty folder": (attack("net", "bare"), "IMAGES bare holds no image"),
    "step": (attack("net", "classes", "--step", "0"), "argument --step: expected a positive whole number, got '0'"),
    "radius": (attack("net", "classes", "--min-radius", "-1"), "argument --min-radius: expected a number from 0 on"),
    "no radius": (attack("net", "classes", "--min-radius", "x"), "--min-radius: expected a number from 0 on, got 'x'"),
    "channels": (attack("five", "classes"), "IMAGES are of 1 or 3 channels, and the model takes 5"),
    "size": (attack("net", "classes", "--size", "24"), "the model failed on a batch [3, 3, 24, 24] (RuntimeError: "),
    "no scores": (
        attack("maps", "classes"),
        "attacked:maps: model must return floating scores [3, classes] or integer",
    ),
    "classes": (attack("one_class", "classes"), "IMAGES has subfolders for 3 classes, and the model 1; --predicted"),
    "no model": (attack("nett", "classes"), "attacked has no nett; did you mean net?"),
    "device": (attack("net", "classes", "--device", "toaster"), "--device toaster cannot be used"),
    "output": (
        attack("net", "classes", "--output", "attacked.py"),
        "--output attacked.py cannot be made (File exists)",
    ),
    "layers": (attack("net", "classes", "--layers", "0"), "unrecognized arguments: --layers 0"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_one_sentence_for_every_error(here, capsys, case):
    arguments, sentence = ERRORS[case]
    assert_one_sentence(arguments, sentence, capsys)


def test_no_readable_image(here, capsys):
    (here / "bare" / "x.png").write_bytes(b"no png")
    assert main(attack("net", "bare", "--output", "out")) == 2
    assert capsys.readouterr().err.splitlines()[1] == "alias-ops: none of the 1 images of bare can be read"
    assert not any(Path("out").iterdir())
