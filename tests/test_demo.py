"""The demo: a small run from the command line, the measure it makes of pooled layers, and an interrupt."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
import torch
from helpers import ROOT

import alias_ops
from alias_ops import reference

for needed in ("rich", "matplotlib", "skimage"):
    pytest.importorskip(needed)

DEMO = ROOT / "examples" / "demo"
LAYERS = ["stage2.conv1", "stage2.shortcut", "stage3.conv1", "stage3.shortcut"]
FIGURES = ("aliasing_over_training.png", "spectra.png", "photograph.png")
TABLES = ("layers.csv", "results.json", "models.pt")

pytestmark = pytest.mark.skipif(not DEMO.is_dir(), reason="not in a checkout")


def command(*arguments: str) -> tuple[list[str], dict[str, str]]:
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    return [sys.executable, str(DEMO), *arguments], environment


def demo(*arguments: str) -> subprocess.CompletedProcess:
    line, environment = command(*arguments)
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Output folder and terminal output of one epoch on few patches."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    done = demo("--output", str(folder), "--epochs", "1", "--patches", "8")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def modules(monkeypatch):
    """The demo's own modules, importable as they are for its script and gone again afterwards."""
    monkeypatch.syspath_prepend(str(DEMO))
    before = set(sys.modules)
    import measure
    import model

    yield measure, model
    for name in set(sys.modules) - before:
        if str(DEMO) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_every_layer_of_every_variant_is_in_the_table(finished):
    folder, output = finished
    with (folder / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["layer"]) for row in rows] == [
        (variant, layer) for variant in ("strided", "FLC", "ASAP") for layer in LAYERS
    ]
    for row in rows:
        assert float(row["aliasing"]) == pytest.approx(float(row["reference_aliasing"]), rel=1e-4)
        assert float(row["alias_ops_ms"]) > 0
        assert f"{float(row['aliasing']):.4f}" in output


def test_poolings_fold_less_than_strides_from_the_same_weights(finished):
    folder, _ = finished
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"]
    start = {name: variant["history"][0]["aliasing"] for name, variant in results["variants"].items()}
    for layer in LAYERS:
        assert start["strided"][layer] > 2 * start["FLC"][layer] > 2 * start["ASAP"][layer] > 0


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn(finished, name):
    pil = pytest.importorskip("PIL.Image")
    with pil.open(finished[0] / name) as image:
        assert min(image.size) >= 700
        assert len(image.convert("L").getcolors()) > 50


def test_the_terminal_names_what_was_written_and_nothing_else_was(finished):
    folder, output = finished
    assert {path.name for path in folder.iterdir()} == {*FIGURES, *TABLES}
    assert all(str(folder / name) in output for name in (*FIGURES, *TABLES))
    assert "loss" in output
    assert "held out" in output


def test_an_interrupt_while_training_still_reports(tmp_path):
    line, environment = command("--output", str(tmp_path), "--epochs", "500", "--patches", "32")
    # A shell's background jobs ignore SIGINT, and so would what they start.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    for patience in (6, 30, 90):
        with subprocess.Popen(line, env=environment, preexec_fn=heed, **pipes) as process:
            # Its first line stands before training; the first measure follows within a second or so, unless the
            # machine is busy with something else.
            assert "ResNet" in process.stdout.readline()
            time.sleep(patience)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=200)
        if (tmp_path / "results.json").exists():
            break
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Interrupted: what follows is what was measured so far." in output
    assert not json.loads((tmp_path / "results.json").read_text())["finished"]


def test_the_penalty_lowers_aliasing():
    line, environment = command("--epochs", "2", "--patches", "32", "--plain", "1", "--relative", "1")
    line[1] = str(DEMO / "penalty.py")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    cells = [row.replace("│", " ").split() for row in done.stdout.splitlines() if "%" in row]
    assert [row[:2] for row in cells] == [["none", "0"], ["plain", "1"], ["relative", "1"]]
    without, plain, relative = ([float(value) for value in row[2:4]] for row in cells)
    assert plain[0] < 0.85 * without[0]
    assert relative[1] < 0.5 * without[1]


@pytest.mark.parametrize("option", ["--epochs", "--patches"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_wrong_number_is_named(option, value):
    done = demo(f"{option}={value}")
    assert done.returncode == 2
    assert f"expected a positive whole number, got '{value}'" in done.stderr


@pytest.mark.parametrize("size", [(9, 9), (12, 15)])
def test_the_measure_of_a_pooled_layer_is_that_of_a_strided_one(modules, size):
    """With circular padding, a strided slice as the pooling must get the aliasing measure by its definition."""
    measure, _ = modules
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    conv = torch.nn.Conv2d(3, 4, 1, bias=False, dtype=torch.float64)

    class Slice(torch.nn.Module):
        stride = 3

        def forward(self, maps):
            return maps[..., ::3, ::3]

    pooled = measure.layer_aliasing(measure.Layer(conv, Slice(), x, None))
    expected = reference.conv2d_aliasing(x, conv.weight, None, 3, 0).item()
    assert pooled == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("pool", ["FLC", "ASAP"])
def test_both_measures_of_a_pooled_layer_agree(modules, pool):
    measure, model = modules
    torch.manual_seed(0)
    network = model.ResNet(4, pool, width=4)
    layers = measure.downsampling_layers(network, torch.randn(2, 3, 32, 32))
    assert list(layers) == LAYERS
    for layer in layers.values():
        assert measure.layer_aliasing(layer) == pytest.approx(measure.reference_aliasing(layer), rel=1e-5)


def test_an_alias_free_layer_measures_nothing(modules):
    measure, _ = modules
    i, j = torch.arange(45.0).double(), torch.arange(45.0).double()
    # A third of 45 samples carries frequencies up to 7.
    x = torch.stack([torch.cos(2 * torch.pi * (f * i[:, None] + g * j) / 45) for f, g in ((7, 0), (3, -7))])[None]
    conv = torch.nn.Conv2d(2, 2, 1, bias=False, dtype=torch.float64)
    layer = measure.Layer(conv, alias_ops.FLCPool2d(2, 3), x, None)
    assert measure.layer_aliasing(layer) < 1e-12


def test_the_figures_of_the_documentation_are_drawn(tmp_path):
    pytest.importorskip("foolbox")
    line, environment = command()
    options = [str(tmp_path), "--epochs", "1", "--patches", "4", "--attacked", "16"]
    done = subprocess.run(
        [line[0], str(DEMO / "spectra_figures.py"), *options],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    drawn = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    kept = {path.name: path.stat().st_size for path in (ROOT / "docs" / "img").glob("spectra_*.png")}
    assert drawn.keys() == kept.keys()
    assert max(kept.values()) < 60_000
    assert done.stdout.count("\nadversarial       16 ") == 2, "one table a network"
