"""The experiments themselves, at the scale that only shows that they run; all of them, by one command, in processes."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from helpers import ROOT, importable

for needed in ("foolbox", "rich", "matplotlib", "scipy", "skimage", "tabulate"):
    pytest.importorskip(needed)
pd = pytest.importorskip("pandas")

EXPERIMENTS = ROOT / "examples" / "experiments"

pytestmark = pytest.mark.skipif(not EXPERIMENTS.is_dir(), reason="not in a checkout")


@pytest.fixture(scope="module", autouse=True)
def experiments():
    with importable(EXPERIMENTS):
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


def run(output, experiment, *arguments):
    from lab.command import main

    assert main([experiment], ["--scale", "tiny", "--workers", "1", "--output", str(output), *arguments]) == 0
    folder = output / experiment.name
    findings = pd.read_csv(folder / "findings.csv")
    assert findings.held.isin(["yes", "partly", "no", "open"]).all()
    assert findings.measured.notna().all()
    assert len(pd.read_csv(folder / "summary.csv")) > 1
    return {path.stem: pd.read_csv(path) for path in folder.glob("*.csv")}, {path.stem for path in folder.glob("*.png")}


def test_aliasing_and_robustness(output):
    import aliasing_and_robustness

    tables, figures = run(output, aliasing_and_robustness.EXPERIMENT)
    assert figures == {"layers", "family"}
    networks, layers = tables["networks"], tables["layers"]
    assert networks.groupby(["network", "training"]).seed.apply(list).tolist() == [[0, 1]] * 6
    means = layers.groupby(["network", "training", "seed"]).am.mean()
    assert (networks.set_index(["network", "training", "seed"]).am - means).abs().max() < 1e-4
    for _, row in tables["correlations"].iterrows():
        of = networks[networks.network == row.network]
        assert row.r == pytest.approx(of[row.measure].corr(of.pgd), abs=1e-3)
        assert row.low < row.r < row.high


def test_downsampling(output):
    import downsampling
    from lab.corruptions import CORRUPTIONS

    tables, figures = run(output, downsampling.EXPERIMENT)
    assert figures == {"downsampling", "corruptions"}
    networks = tables["networks"]
    assert networks.groupby(["training", "downsampling"]).seed.apply(list).tolist() == [[0, 1]] * 12
    assert (networks.corrupted - networks[list(CORRUPTIONS)].mean(axis=1)).abs().max() < 1e-5
    assert networks[networks.downsampling.isin(["flc", "asap"])].am.isna().all()
    assert networks[~networks.downsampling.isin(["flc", "asap"])].am.gt(0).all()
    shares = networks.drop(columns=["training", "downsampling", "seed", "am"])
    assert shares.stack().between(0, 1).all()
    # A stronger attack of the same start and steps leaves no more, up to an image or two that a start was lucky with.
    assert (networks["pgd 8"] <= networks["pgd 1"] + 3 / 32).all()


def test_fully_connected(output):
    import fully_connected

    tables, figures = run(output, fully_connected.EXPERIMENT)
    assert figures == {"fully_connected"}
    networks, pairs = tables["networks"], tables["transfer"]
    assert set(networks.network) == {"narrow PreActResNet", "fully connected"}
    assert networks["high share"].between(0, 1).all()
    own = pairs[pairs.network == pairs.judge].set_index(["training", "network", "seed"]).attacked
    assert (own - networks.set_index(["training", "network", "seed"]).pgd).abs().max() < 1e-6
    assert len(pairs) == 2 * len(networks)


def test_early_stopping_looks_at_the_trainings_that_overfit(output):
    import early_stopping
    import overfitting

    epochs = run(output, overfitting.EXPERIMENT)[0]["epochs"]
    tables, figures = run(output, early_stopping.EXPERIMENT)
    assert figures == {"early_stopping"}
    stops, networks = tables["stops"], tables["networks"]
    assert stops.groupby("seed").threshold.apply(list).tolist() == [list(early_stopping.THRESHOLDS)] * 2
    last = networks[networks["stopped by"] == "never"].set_index("seed")
    assert (last.pgd - epochs[epochs.epoch == 6].set_index("seed").pgd).abs().max() < 1e-6
    best = networks[networks["stopped by"] == "most robust"].set_index("seed").pgd
    assert (best - epochs.groupby("seed").pgd.max()).abs().max() < 1e-6
    assert (tables["costs"].seconds_am > 0).all()


def command(*arguments):
    return [sys.executable, str(EXPERIMENTS), *map(str, arguments)]


def environment():
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def test_one_command_runs_those_that_are_named_in_processes(tmp_path):
    named = ("overfitting", "early_stopping")
    asked = command(*named, "--scale", "tiny", "--workers", 2, "--output", tmp_path)
    done = subprocess.run(asked, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"runs", *named}
    assert done.stdout.count("seed 0") == 1  # the two share their trainings
    assert "Early stopping by AM and by PGD (" in done.stdout
    refused = subprocess.run(command("everything"), capture_output=True, text=True, env=environment(), timeout=300)
    assert refused.returncode == 2
    assert "no experiment everything; there are aliasing_and_robustness, " in refused.stderr


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_ends_all_processes_and_keeps_what_was_trained(tmp_path):
    asked = command("aliasing_and_robustness", "downsampling", "--scale", "tiny", "--workers", 2, "--output", tmp_path)
    # Ignored, as in what a shell runs in the background, it would be ignored by the child too.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    with subprocess.Popen(asked, start_new_session=True, preexec_fn=heed, **pipes) as process:
        assert process.stdout
        said = process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        rest, errors = process.communicate(timeout=60)
    assert said.startswith("[1/"), errors
    assert process.returncode == 130, errors
    assert "Interrupted" in rest
    assert len(list((tmp_path / "runs").glob("*.pt"))) >= 1
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    pytest.fail("processes were left behind")
