"""The benchmark: what it writes, how it judges, and that a wrong kernel cannot win. Nothing here is timed."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, assert_close, randn, run_python

from alias_ops import reference
from alias_ops.cli import main

if not (ROOT / "benchmarks" / "cases.py").is_file():
    pytest.skip("not in a checkout", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import cases, floor, peers, race, report


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A run of the two smallest cases, by the command line."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["bench", "--quick", "-k", "test_call or 256", "--json", "run.json", "--figures", "figures"]
    done = run_python(f"from alias_ops.cli import main; raise SystemExit(main({arguments!r}))", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout, json.loads((folder / "run.json").read_text())


def test_a_run_leaves_everything_a_reader_needs(quick):
    _, _, document = quick
    assert document["format"] == 1
    assert document["commit"] == "" or len(document["commit"]) == 40
    assert document["started"] <= document["finished"]
    assert set(document["machine"]["versions"]) == {"alias_ops", "torch", "python"}
    assert document["machine"]["processor"]["threads"] == 1
    assert {r["direction"] for r in document["results"]} == {"forward", "forward+backward"}
    for result in document["results"]:
        times = result["times"]["alias_ops"]
        assert 0 < times["min"] <= times["q1"] <= times["median"] <= times["q3"]
        assert times["rounds"] == 3
        assert result["relative error"] <= race.TOLERANCES[torch.float32]
        assert len(result["times"]) > 1


def test_a_run_names_no_place(quick):
    text = json.dumps(quick[2])
    assert str(Path.home()) not in text
    assert str(ROOT) not in text


def test_what_is_printed_follows_from_the_file(quick):
    _, printed, document = quick
    for result in document["results"]:
        ours = result["times"]["alias_ops"]["median"]
        for peer, times in result["times"].items():
            if peer != "alias_ops":
                assert f"{peer} {times['median'] / ours:.2f}" in printed
    for bar in report.bars(document):
        assert bar.what in printed


def test_figures_are_drawn_from_the_file_alone(quick):
    assert (quick[0] / "figures" / "bench_convolutions.png").stat().st_size > 5000


def result_of(group, shape, ours, direction="forward", op="flc_pool2d", **peers_times):
    times = {"alias_ops": {"median": ours}, **{name: {"median": value} for name, value in peers_times.items()}}
    document = {"group": group, "op": op, "shape": shape, "direction": direction, "times": times, "dtype": "float32"}
    return {**document, "unavailable": {}, "floor": {"fraction": 0.6, "peak": 1.0}}


def verdicts(*results):
    return {bar.what: bar for bar in report.bars({"results": list(results)})}


@pytest.mark.parametrize(("ours", "met"), [(1.0, True), (1.01, False)])
def test_a_bar_is_met_or_missed(ours, met):
    bar = verdicts(result_of("pooling, bars", [64, 64, 32, 32], ours, **{"fft2 (published module)": 60.0}))[
        "flc_pool2d against the published FFT module, N = 32, forward"
    ]
    assert bar.met is met
    assert bar.wanted == "≥ 60x"
    assert bar.measured == f"{60 / ours:.2f}x"


def test_the_worst_case_decides():
    growth = [result_of("growth with N", [1, 64, n, n], 1.0, matmul=2.0, rfft2=1.5) for n in (4, 512)]
    slow = copy.deepcopy(growth)
    slow[1]["times"]["rfft2"]["median"] = 0.99
    what = "flc_pool2d against rfft2, any N from 4 to 512, forward"
    assert verdicts(*growth)[what].met
    assert not verdicts(*slow)[what].met


def test_what_was_not_measured_is_neither():
    assert all(bar.met is None for bar in report.bars({"results": []}))


def test_a_missing_peer_is_reported_and_not_fatal(monkeypatch):
    monkeypatch.setattr(
        peers, "_module", lambda *_: (_ for _ in ()).throw(peers.Unavailable("kornia is not installed"))
    )
    with pytest.raises(peers.Unavailable, match="not installed"):
        peers.kornia(4, "cpu", torch.float32)


def test_a_wrong_result_fails():
    right = randn(3, 4)
    assert race.checked(right, right, torch.float32) == 0
    for wrong in (right + 1e-4, right * float("nan")):
        with pytest.raises(race.WrongResult):
            race.checked(wrong, right, torch.float32)


def test_the_published_module_is_found_in_a_folder(tmp_path):
    (tmp_path / "other.py").write_text("raise RuntimeError('not to be imported')\n")
    (tmp_path / "pooling.py").write_text("class FLC_Pooling:\n    def __call__(self, x):\n        return x\n")
    name, layer = peers.published(str(tmp_path))
    assert name == "fft2 (published module)"
    assert layer(3) == 3
    assert peers.published(None)[1] is reference.flc_pool2d_fft2


@pytest.mark.parametrize("width", [4, 5, 6, 7, 8, 14, 30])
@pytest.mark.parametrize("height", [4, 6, 9, 10, 12, 16])
def test_torch_fft_peers_compute_what_they_stand_for(height, width):
    x = randn(2, height, width)
    assert_close(reference.flc_pool2d_rfft2(x), reference.flc_pool2d(x), torch.float64)
    assert_close(reference.flc_pool2d_fft2(x), reference.flc_pool2d(x, variant="upstream"), torch.float64)


def test_the_floor_of_a_half_band_pooling():
    """8 x 8 to 4 x 4: 4 rows of 4 products over 8 columns, then 4 x 4 of 4."""
    made = floor.pool_floor("flc", (1, 1, 8, 8), torch.float32, 1)
    assert made.operations == 2 * (4 * 4 * 8 + 4 * 4 * 4)
    assert made.fewest == made.operations / 2
    assert made.bytes == 4 * (64 + 16)
    assert floor.pool_floor("asap", (1, 1, 8, 8), torch.float32, 1).operations == 2 * made.operations
    assert floor.pool_floor("flc", (1, 1, 7, 7), torch.float32, 1).operations == 2 * (4 * 7 * 7 + 4 * 4 * 7)
    both = floor.pool_floor("flc", (1, 1, 8, 8), torch.float16, 2)
    assert (both.bytes, both.operations) == (2 * 2 * 80, 2 * made.operations)


def test_the_floor_of_a_convolution():
    made = floor.conv_floor(cases.Conv("", 2, 3, 5, 8, 3), torch.float32)
    assert made.bytes == 4 * (2 * 3 * 64 + 2 * 5 * 16 + 3 * 5 * 9)
    assert made.operations == 8 * 2 * 3 * 5 * (3 * 3 + 1) / 2
    pointwise = floor.conv_floor(cases.Conv("", 2, 3, 5, 8, 1), torch.float32)
    assert pointwise.operations == 2 * 2 * 3 * 5 * 16


def test_every_network_layer_halves_its_map():
    for conv in (*cases.CONV_ROWS, *cases.LAYERS):
        assert conv.size % 2 == 0
        assert conv.kernel % 2 == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--upstream", "nowhere"], "--upstream: nowhere is not a folder"),
        (["--quick", "-k", "no_such_case"], "no case matches 'no_such_case'"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(arguments, sentence, tmp_path):
    code = f"from alias_ops.cli import main; raise SystemExit(main(['bench', *{arguments!r}]))"
    done = run_python(code, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == f"alias-ops: {sentence}"


def test_without_pytest_benchmark_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr("alias_ops.cli.bench.find_spec", lambda name: None)
    assert main(["bench"]) == 2
    assert "pip install 'alias-ops[bench]'" in capsys.readouterr().err


def test_committed_results_are_readable():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        document = report.load(path)
        assert document["commit"]
        assert not document["quick"]
        assert report.markdown(document)
