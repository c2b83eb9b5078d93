"""The example of adversarial training: tiny runs, resumed, interrupted, stopped and in two processes."""

import csv
import json
import os
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from helpers import ROOT, importable

from alias_ops.cli import main
from alias_ops.models import PreActResNet

for needed in ("foolbox", "rich", "matplotlib", "skimage"):
    pytest.importorskip(needed)

EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "train_fgsm.py"
TINY = "--patches 2 --batch 16 --max-samples 4 --every 1 --pgd-images 32 --pgd-steps 1".split()
FILES = {"last.pt", "model.pt", "results.csv", "results.json", "training.png"}

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def example():
    """The example's modules, importable as they are for its script and gone again afterwards."""
    with importable(EXAMPLES):
        yield


def command(*arguments):
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return [sys.executable, *map(str, arguments)], environment


def train(folder, *arguments):
    import train_fgsm

    return train_fgsm.main(["--output", str(folder), *TINY, *arguments])


def rows(folder):
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def checkpoint(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def without_times(history):
    return [{name: value for name, value in epoch.items() if not name.startswith("seconds")} for epoch in history]


def training(*arguments, world=1):
    from fgsm import data, processes, settings
    from fgsm.training import Training

    chosen = settings.parse([*TINY, *arguments])
    first = processes.Processes(0, world, torch.device("cpu"))
    return Training(chosen, data.photographs(chosen.patches, chosen.seed), first)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fgsm") / "new" / "folder"
    assert train(folder, "--epochs", "3") == 0
    return folder


def test_its_results_make_a_report(finished, tmp_path, capsys):
    pytest.importorskip("jinja2")
    assert main(["report", str(finished), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count('<img src="data:image/svg+xml') == 3
    assert "AM over 3 epochs" in page
    last = json.loads((finished / "results.json").read_text())["epochs"][-1]
    assert f'<td class="number">{last["am"]:.4g}</td>' in page
    assert f'<td class="number">{last["pgd_accuracy"]:.1%}</td>' in page
    assert '<th scope="row">settings epsilon</th>' in page


def test_every_epoch_has_its_row(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    results = json.loads((finished / "results.json").read_text())
    assert results["finished"]
    assert results["stops"] == {rule: {"epoch": None, "reason": None} for rule in ("am", "pgd")}
    table = rows(finished)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    for row, epoch in zip(table, results["epochs"], strict=True):
        blocks = [float(row[f"am {block}"]) for block in ("layer2.0", "layer3.0", "layer4.0")]
        assert blocks == list(epoch["blocks"].values())
        assert float(row["am"]) == pytest.approx(np.mean(blocks), rel=1e-12)
        assert min(blocks) > 0
        assert float(row["clean_accuracy"]) == epoch["clean_accuracy"]
        assert 32 * epoch["clean_accuracy"] == round(32 * epoch["clean_accuracy"])
        assert all(epoch[f"seconds_{what}"] > 0 for what in ("training", "am", "pgd"))
    assert set(results["versions"]) == {"alias_ops", "torch", "foolbox", "python"}


def test_checkpoint_and_weights_load(finished):
    state = checkpoint(finished)
    network = PreActResNet((1, 1, 1, 1), 16, channels=16)
    network.load_state_dict(torch.load(finished / "model.pt", weights_only=True))
    for name, value in network.state_dict().items():
        assert torch.equal(value, state["model"][f"network.{name}"])


def test_the_figure_is_drawn(finished):
    pil = pytest.importorskip("PIL.Image")
    with pil.open(finished / "training.png") as image:
        assert min(image.size) >= 700
        assert len(image.convert("L").getcolors()) > 50


def test_a_resumed_run_is_the_same_bit_for_bit(finished, tmp_path):
    """Given up in the midst of the second epoch, and taken up by another process's worth of state."""
    from fgsm import results

    first = training("--epochs", "3")
    first.epoch(lambda *_: None, lambda: False)
    results.save(first, tmp_path)
    assert first.epoch(lambda *_: None, lambda: True) is None
    torch.rand(7)
    assert train(tmp_path, "--epochs", "3", "--resume") == 0
    whole, resumed = checkpoint(finished), checkpoint(tmp_path)
    assert without_times(resumed["history"]) == without_times(whole["history"])
    assert all(map(torch.equal, resumed["model"].values(), whole["model"].values()))
    momenta = [[s["momentum_buffer"] for s in c["optimizer"]["state"].values()] for c in (resumed, whole)]
    assert all(map(torch.equal, *momenta))
    assert resumed["am_rule"] == whole["am_rule"]
    assert len(whole["am_rule"]["history"]) == 3


def test_a_run_with_other_settings_is_not_resumed(finished):
    with pytest.raises(SystemExit, match="other settings: epsilon was 8, is 4"):
        train(finished, "--epochs", "3", "--epsilon", "4", "--resume")


def test_nothing_to_resume(tmp_path):
    with pytest.raises(SystemExit, match="nothing to resume: there is no"):
        train(tmp_path, "--resume")


@pytest.mark.parametrize(("stop", "epochs"), [("pgd", 3), ("never", 4)])
def test_the_rule_in_charge_ends_the_run_and_keeps_the_weights_from_before(tmp_path, monkeypatch, capsys, stop, epochs):
    survivors = iter([16, 15, 8, 16])
    monkeypatch.setattr("fgsm.training.pgd_survivors", lambda *_: next(survivors))
    assert train(tmp_path, "--epochs", "4", "--stop", stop) == 0
    assert [row["pgd_stop"] for row in rows(tmp_path)] == ["False", "False", "True", "True"][:epochs]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["finished"]
    assert results["stops"]["pgd"]["epoch"] == 3
    assert "stop after epoch 3: accuracy under PGD fell from 46.9 % to 25.0 %" in capsys.readouterr().out
    weights, last = torch.load(tmp_path / "model.pt", weights_only=True), checkpoint(tmp_path)["model"]
    assert torch.equal(weights["conv1.weight"], last["network.conv1.weight"]) == (stop == "never")


def test_the_aliasing_rule_ends_the_run(tmp_path, monkeypatch):
    aliasing = iter([0.5, 0.5, 0.6, 0.5, 0.5, 0.8, 0.9, 0.1])
    monkeypatch.setattr("alias_ops.AliasingMonitor.mean", lambda self: next(aliasing))
    assert train(tmp_path, "--epochs", "8", "--stop", "aliasing") == 0
    assert [row["am_stop"] for row in rows(tmp_path)] == ["False"] * 6 + ["True"]


def test_training_forwards_are_measured_and_no_others():
    run = training("--epochs", "1")
    run._train(1, lambda *_: None, lambda: False)
    before = run.monitor.state_dict()
    assert before["forwards"] == run.steps == 2
    assert before["maps"]["module.network.layer2.0.conv1"] == 2 * 4 * 32
    run._check()
    assert run.monitor.state_dict()["forwards"] == 2


@pytest.mark.parametrize("downsampling", ["flc", "max"])
def test_other_downsampling(tmp_path, downsampling):
    assert train(tmp_path, "--epochs", "1", "--downsampling", downsampling, "--no-random-start") == 0
    (row,) = rows(tmp_path)
    assert (row["am"] == "") == (downsampling == "flc")
    assert row["am_stop"] == "False"


def test_a_diverged_run_says_so(tmp_path):
    with pytest.raises(SystemExit, match="the loss of epoch 1 is nan: try a lower --lr"):
        train(tmp_path, "--epochs", "2", "--lr", "1e30")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--epochs", "0"), ("--batch", "many"), ("--epsilon", "-1"), ("--lr", "nan"), ("--seed", "-1")],
)
def test_a_wrong_option_is_named(option, value, capsys):
    from fgsm.settings import parse

    with pytest.raises(SystemExit):
        parse([f"{option}={value}"])
    message = capsys.readouterr().err
    assert option in message
    assert f"got '{value}'" in message


@pytest.mark.parametrize(("option", "wanted"), [("--batch", "a multiple of the 3"), ("--pgd-images", "at least 3")])
def test_processes_share_evenly(option, wanted):
    with pytest.raises(ValueError, match=f"{option} must be {wanted}.*, got 2"):
        training("--batch", "3", option, "2", world=3)


def test_an_interrupt_is_clean_and_can_be_resumed(tmp_path):
    line, environment = command(SCRIPT, "--output", tmp_path, *TINY, "--epochs", "500")
    # A shell's background jobs ignore SIGINT, and so would what they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(line, env={**environment, "PYTHONUNBUFFERED": "1"}, preexec_fn=heed, **pipes) as process:
        while not process.stdout.readline().startswith("epoch 2"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "Interrupted. In" in output
    done = len(rows(tmp_path))
    assert 2 <= done < 500
    assert f"--resume goes on with epoch {done + 1}" in output
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert len(checkpoint(tmp_path)["history"]) == done
    assert not json.loads((tmp_path / "results.json").read_text())["finished"]


@pytest.mark.parametrize(("world", "then"), [(1, signal.SIG_DFL), (2, signal.SIG_IGN)])
def test_a_second_interrupt_kills_but_not_what_torchrun_runs(world, then):
    from fgsm.processes import Interrupt

    # Of a process in the background of a script the shell has it ignored, and then it stays so.
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Interrupt(world) as interrupt:
            assert not interrupt.asked
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupt.asked
            assert signal.getsignal(signal.SIGINT) == then
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="needs gloo")
def test_two_processes(tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost", "--nproc-per-node", "2"]
    line, environment = command(*launch, SCRIPT, "--output", tmp_path, *TINY, "--epochs", "1")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trains on 32 images") == done.stdout.count("epoch 1  loss") == 1
    (row,) = rows(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["processes"] == 2
    # Parts of all images of both processes: shares of one would come in steps half as fine.
    for field, images in (("train_accuracy", 32), ("clean_accuracy", 32), ("pgd_accuracy", 32)):
        right = images * float(row[field])
        assert right == pytest.approx(round(right), abs=1e-9)
    assert float(row["am"]) > 0
    assert {path.name for path in tmp_path.iterdir()} == FILES
