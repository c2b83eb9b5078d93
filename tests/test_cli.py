"""The command line: what it prints and writes, and one sentence for everything that can go wrong."""

import csv
import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_one_sentence, run_python
from PIL import Image
from torch import nn

import alias_ops
from alias_ops import AliasingMonitor, reference
from alias_ops.cli import images as cli_images
from alias_ops.cli import main
from alias_ops.cli import measure as cli_measure


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Files that hold a model, or seem to."""
    folder = tmp_path_factory.mktemp("saved")
    torch.save(nn.MaxPool2d(2), folder / "model.pt")
    torch.save(nn.Linear(2, 2).state_dict(), folder / "weights.pt")
    torch.save(torch.ones(3), folder / "tensor.pt")
    (folder / "junk.pt").write_bytes(b"hello")
    (folder / "empty.pt").write_bytes(b"")
    (folder / "model.safetensors").write_bytes(b"")
    x = torch.ones(1, 1, 4, 4)
    torch.export.save(torch.export.export(nn.MaxPool2d(2), (x,)), folder / "exported.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(nn.MaxPool2d(2), x), folder / "scripted.pt")
    return folder


@pytest.fixture
def here(tmp_path, saved, monkeypatch):
    """A user's folder: models in nets.py, modules that cannot be imported, saved files, images."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    shutil.copy(Path(__file__).with_name("data") / "cli_models.py", tmp_path / "nets.py")
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\n")
    (tmp_path / "invalid.py").write_text("def (\n")
    random = np.random.default_rng(0)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "more/c.bmp"):
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"not a png")
    (tmp_path / "bare").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    for name in ("nets", "broken", "invalid"):
        sys.modules.pop(name, None)


def written(folder="out"):
    rows = list(csv.DictReader(Path(folder, "aliasing.csv").read_text().splitlines()))
    return rows, json.loads(Path(folder, "aliasing.json").read_text())


MEASURE = ["measure", "nets:net", "--size", "32", "--images", "photos"]


def test_measure_prints_a_table(here, capsys):
    assert main(MEASURE) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "Aliasing of nets:net: 3 images of photos, 32x32, cpu"
    assert lines[2].split() == ["layer", "kind", "output", "AM", "ms"]
    assert lines[4].startswith("0      conv 3x3 /2      4x15x15  ")
    assert lines[5].startswith("2      max pool 2x2 /2  4x7x7    ")
    assert all(float(line.split()[-2]) > 0 and float(line.split()[-1]) > 0 for line in lines[4:7])
    assert not any(line.endswith(" ") for line in lines)


def test_measure_writes_what_the_definition_says(here, capsys):
    arguments = [*MEASURE, "--reference", "--output", "out/deep", "--batch-size", "2", "--seed", "5"]
    assert main(arguments) == 0
    rows, report = written("out/deep")
    torch.manual_seed(5)
    import nets

    model = nets.net().eval()
    batch = torch.stack([cli_images._read(path, 3, 32) for path in sorted(Path("photos").rglob("*.[!t]*"))])
    with torch.no_grad():
        stride_1 = nn.functional.conv2d(batch, model[0].weight, model[0].bias)
    expected = reference.aliasing(stride_1, 2).item()
    assert float(rows[0]["am"]) == pytest.approx(expected, rel=1e-5)
    assert float(rows[0]["reference_am"]) == pytest.approx(expected, rel=1e-5)
    assert [row["layer"] for row in rows] == ["0", "2", "3"]
    assert [row["output_shape"] for row in rows] == ["4x15x15", "4x7x7", "5x4x4"]
    for row, entry in zip(rows, report["layers"], strict=True):
        assert entry["ratio"] == pytest.approx(entry["reference_ms"] / entry["ms"])
        assert {name: "" if value is None else str(value) for name, value in entry.items()} == row
    assert report["versions"]["alias_ops"] == alias_ops.__version__
    assert report["command"] == "alias-ops " + " ".join(arguments)
    assert (report["device"], report["images"], report["complete"]) == ("cpu", 3, True)
    assert "ref. ms" in capsys.readouterr().out
    assert {path.name for path in Path("out/deep").iterdir()} == {"aliasing.csv", "aliasing.json", "aliasing.png"}


def test_figure_has_a_bar_for_each_layer(here):
    assert main([*MEASURE, "--output", "out"]) == 0
    picture = np.asarray(Image.open("out/aliasing.png").convert("RGB")).astype(int)
    blue, orange = np.array([0x00, 0x72, 0xB2]), np.array([0xE6, 0x9F, 0x00])
    drawn = [(np.abs(picture - colour).sum(-1) < 20).sum() for colour in (blue, orange)]
    assert min(drawn) > 2000
    assert (picture == 255).all(-1).mean() > 0.5


@pytest.mark.parametrize(
    "model", ["nets:grey", "nets:half", "nets:exact", "nets:instance", "nets:Skips", "nets:own", "nets:lazy"]
)
def test_models_of_other_kinds(here, capsys, model):
    assert main(["measure", model, "--size", "32", "--images", "photos", "--output", "out", "--reference"]) == 0
    rows, _ = written()
    out, err = capsys.readouterr()
    assert float(rows[0]["am"]) > 0
    if model == "nets:Skips":
        assert rows[1] == dict.fromkeys(rows[1], "") | {"layer": "unused", "kind": "avg pool 2x2 /2"}
        assert out.splitlines()[-1].split() == ["unused", "avg", "pool", "2x2", "/2", "not", "run", *"----"]
    if model == "nets:instance":
        assert rows[0]["layer"] == "(the model)"
    assert err.startswith("alias-ops: AliasingMonitor leaves out '1'") if model == "nets:own" else err == ""


def test_a_model_that_diverged(here, capsys):
    assert main(["measure", "nets:diverged", "--size", "32", "--images", "photos", "--output", "out"]) == 0
    rows, report = written()
    assert "NaN" not in Path("out/aliasing.json").read_text()
    assert report["layers"][0]["am"] is None
    assert rows[0]["am"] == ""
    assert capsys.readouterr().out.splitlines()[4].split()[-2] == "nan"


def test_pickled_model(here, capsys):
    assert main(["measure", "model.pt", "--unsafe-load", "--size", "16", "--samples", "2"]) == 0
    assert "2 photographs of scikit-image" in capsys.readouterr().out


def test_layers(here):
    assert main([*MEASURE, "--layers", "3", "0", "--output", "out"]) == 0
    assert [row["layer"] for row in written()[0]] == ["0", "3"]


def test_samples_are_chosen_by_the_seed(here):
    results = []
    for seed in (0, 0, 1, 2, 3, 4):
        arguments = ["measure", "nets:instance", "--size", "32", "--images", "photos", "--samples", "1"]
        assert main([*arguments, "--output", "out", "--seed", str(seed)]) == 0
        rows, report = written()
        assert report["images"] == 1
        results.append(rows[0]["am"])
    assert results[0] == results[1]
    assert len(set(results)) > 1


def test_noise_where_there_are_no_photographs(here, capsys, monkeypatch):
    assert main(["measure", "nets:many_channels", "--size", "16", "--samples", "3"]) == 0
    out, err = capsys.readouterr()
    assert "3 images of white noise" in out
    assert "the model takes 5 channels" in err
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert main(["measure", "nets:net", "--size", "16", "--samples", "2", "--output", "out"]) == 0
    first = written()[0][0]["am"]
    assert "scikit-image is not installed" in capsys.readouterr().err
    assert main(["measure", "nets:net", "--size", "16", "--samples", "2", "--output", "out"]) == 0
    assert written()[0][0]["am"] == first
    assert main(["measure", "nets:net", "--size", "16", "--samples", "2", "--output", "out", "--seed", "1"]) == 0
    assert written()[0][0]["am"] != first


def test_photographs_are_local_and_real():
    photographs = cli_images._photographs()
    assert len(photographs) >= 8
    for path in photographs:
        image = cli_images._read(path, 3, 48)
        assert image.shape == (3, 48, 48)
        assert 0.1 < image.std() < 3


def test_sixteen_bit_images_are_not_clipped(tmp_path):
    ramp = np.tile(np.linspace(0, 1, 64), (64, 1))
    Image.fromarray((ramp * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray((ramp * 255).astype(np.uint8)).save(tmp_path / "flat.png")
    deep, flat = (cli_images._read(tmp_path / name, 3, 64) for name in ("deep.png", "flat.png"))
    assert (deep - flat).abs().max() < 0.05


def test_unreadable_images_are_named_and_skipped(here, capsys):
    (here / "photos" / "torn.jpg").write_bytes((here / "photos" / "b.jpg").read_bytes()[:300])
    assert main([*MEASURE, "--output", "out"]) == 0
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.startswith("alias-ops: skipped photos/torn.jpg, it cannot be read (")
    assert written()[1]["images"] == 3


@pytest.mark.parametrize(("model", "status"), [("nets:breaks", 2), ("nets:interrupted", 130)])
def test_what_was_measured_survives_an_error(here, capsys, model, status):
    arguments = ["measure", model, "--size", "32", "--images", "photos", "--batch-size", "2", "--output", "out"]
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert out.startswith(f"Aliasing of {model}: 2 images of photos, 32x32, cpu, incomplete\n")
    assert [line.split()[0] for line in out.splitlines()[4:]] == ["0", "1"]
    rows, report = written()
    assert report["complete"] is False
    assert all(float(row["am"]) > 0 for row in rows)
    assert Path("out/aliasing.png").stat().st_size > 5000
    assert len(err.splitlines()) == 1
    assert ("RuntimeError: out of" in err) if status == 2 else ("interrupted after 2 of 3 images" in err)


def test_files_are_there_after_the_first_batch(here, monkeypatch):
    seen = []
    update = AliasingMonitor.update

    def spy(self, *args):
        seen.append(Path("out/aliasing.csv").exists())
        update(self, *args)

    monkeypatch.setattr(AliasingMonitor, "update", spy)
    assert main([*MEASURE, "--batch-size", "1", "--output", "out"]) == 0
    assert seen == [False, True, True]


@pytest.mark.parametrize("missing", ["rich", "matplotlib"])
def test_without_an_extra(here, capsys, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if missing == "matplotlib":
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*MEASURE, "--output", "out"]) == 0
    out, err = capsys.readouterr()
    assert Path("out/aliasing.png").exists() == (missing != "matplotlib")
    assert ("pip install 'alias-ops[cli]'" in err) == (missing == "matplotlib")
    assert ("----" in out) == (missing == "rich")
    assert "max pool 2x2 /2" in out
    assert written()[1]["complete"]


def test_rich_folds_names_and_nothing_else(capsys, monkeypatch):
    from alias_ops.cli.rows import Row
    from alias_ops.cli.table import print_table

    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    name = "encoder.stages.3.blocks.0.downsample.reduction.[conv]"
    print_table("a [title]", [Row(name, "conv 3x3 /2 groups 512", (512, 100, 100), 0.01234, 12.5, 0.01234, 100.0)])
    out = capsys.readouterr().out
    assert "a [title]" in out
    assert "conv 3x3 /2 groups 512  512x100x100  0.01234  12.50   100.00    8.0" in out
    assert "".join(line.split()[0] for line in out.splitlines()[4:] if line.strip()) == name
    assert max(map(len, out.splitlines())) <= 80


ERRORS = {
    "no command": ([], "the following arguments are required: COMMAND"),
    "unknown command": (["mesure"], "invalid choice: 'mesure'"),
    "unknown option": (["measure", "nets:net", "--sise", "3"], "unrecognized arguments: --sise"),
    "no model": (["measure"], "the following arguments are required: MODEL"),
    "size": (["measure", "nets:net", "--size", "0"], "argument --size: expected a positive whole number, got '0'"),
    "batch size": (["measure", "nets:net", "--batch-size", "x"], "expected a positive whole number, got 'x'"),
    "no such module": (["measure", "nest:net"], "there is no module nest; run alias-ops where it can be imported"),
    "no such submodule": (["measure", "nets.deep:net"], "there is no module nets.deep"),
    "module's own import": (["measure", "broken:net"], "importing broken failed (ModuleNotFoundError: No module named"),
    "module's syntax": (["measure", "invalid:net"], "importing invalid failed (SyntaxError"),
    "no such attribute": (["measure", "nets:nett"], "nets has no nett; did you mean net?"),
    "no colon": (["measure", "nets"], "nets names no file and no factory, expected package.module:factory"),
    "no such file": (["measure", "nothing.pt"], "there is no file nothing.pt"),
    "windows path": (["measure", "C:\\nothing.pt"], "there is no file C:\\nothing.pt"),
    "folder": (["measure", "photos"], "photos is a folder"),
    "not callable": (["measure", "nets:number"], "nets:number is of type int, expected a function"),
    "not a model": (["measure", "nets:word"], "nets:word() returned a str, expected an nn.Module"),
    "factory raises": (["measure", "nets:fails"], "nets:fails() failed (ValueError: no weights here);"),
    "factory needs arguments": (["measure", "nets:needs"], "missing 1 required positional argument: 'argument'"),
    "nothing downsamples": (["measure", "nets:plain"], "nets:plain: Linear has no downsampling layer to measure"),
    "no such layer": (["measure", "nets:net", "--layers", "9"], "layers: '9' is not a module of the model; nearest"),
    "pickled model": (["measure", "model.pt"], "add --unsafe-load if you trust where the file comes from"),
    "weights": (["measure", "weights.pt"], "weights.pt holds weights without the model's code"),
    "tensor": (["measure", "tensor.pt"], "tensor.pt holds a Tensor, not a model"),
    "junk": (["measure", "junk.pt"], "junk.pt cannot be loaded"),
    "junk, unsafe": (["measure", "junk.pt", "--unsafe-load"], "junk.pt is not a file that torch.save wrote"),
    "empty file": (["measure", "empty.pt"], "empty.pt cannot be loaded (EOFError)"),
    "safetensors": (["measure", "model.safetensors"], "model.safetensors holds weights without the model's code"),
    "exported": (["measure", "exported.pt2"], "exported.pt2 is a torch.export program"),
    "scripted": (["measure", "scripted.pt"], "scripted.pt is a TorchScript program"),
    "no such images": ([*MEASURE[:-1], "nowhere"], "--images nowhere is not a folder"),
    "empty images": ([*MEASURE[:-1], "bare"], "--images bare holds no image"),
    "channels": (["measure", "nets:many_channels", "--images", "photos"], "--images are of 1 or 3 channels"),
    "size too small": ([*MEASURE, "--size", "2"], "the model failed on a batch [3, 3, 2, 2] (RuntimeError: "),
    "device": ([*MEASURE, "--device", "toaster"], "--device toaster cannot be used"),
    "output": ([*MEASURE, "--output", "nets.py"], "--output nets.py cannot be made (File exists)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_one_sentence_for_every_error(here, capsys, case):
    arguments, sentence = ERRORS[case]
    assert_one_sentence(arguments, sentence, capsys)


def test_no_readable_image(here, capsys):
    assert main([*MEASURE[:-1], "bad", "--output", "out"]) == 2
    skipped, reason = capsys.readouterr().err.splitlines()
    assert "skipped bad/x.png" in skipped
    assert reason == "alias-ops: none of the 1 images of bad can be read"
    assert not any(Path("out").iterdir())


def test_output_that_fills_up(here, capsys, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert main([*MEASURE, "--output", "out"]) == 2
    out, err = capsys.readouterr()
    assert "max pool" in out, "the table is shown all the same"
    assert err == "alias-ops: out/aliasing.csv cannot be written (No space left on device)\n"


def test_traceback_on_demand(here, capsys, monkeypatch):
    assert main(["measure", "nets:fails", "--traceback"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("alias-ops: nets:fails() failed")
    monkeypatch.setenv("ALIAS_OPS_DEBUG", "1")
    assert main(["measure"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_while_the_model_is_built(here, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_measure, "load_model", interrupt)
    assert main(MEASURE) == 130
    assert capsys.readouterr().err == "alias-ops: interrupted\n"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "measure" in out
    assert "info" in out


def test_as_a_process(here):
    code = "import runpy, sys; sys.argv[1:] = {}; runpy.run_module('alias_ops', run_name='__main__')"
    done = run_python(code.format(MEASURE), PYTHONWARNINGS="ignore")
    assert (done.returncode, done.stderr) == (0, "")
    assert "conv 3x3 /2" in done.stdout
    done = run_python(code.format(["measure", "nets:word"]), PYTHONWARNINGS="ignore")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "alias-ops: nets:word() returned a str, expected an nn.Module\n"


def test_help_loads_no_extra():
    code = (
        "import sys; from alias_ops.cli import main\n"
        "try: main(['measure', '--help'])\n"
        "except SystemExit: print([m for m in ('rich', 'matplotlib', 'PIL', 'skimage') if m in sys.modules])"
    )
    assert run_python(code).stdout.splitlines()[-1] == "[]"
