"""The benchmark: what it writes, how it judges, and that a wrong kernel cannot win. Nothing here is timed."""

import copy
import json
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT, assert_close, randn, run_python, vision

import alias_ops
from alias_ops import reference
from alias_ops.cli import main

if not (ROOT / "benchmarks" / "cases.py").is_file():
    pytest.skip("not in a checkout", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import bench_measure, bench_pooling, cases, floor, peers, race, report


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
        # The gradient of a modulus loses digits where the modulus is small, which random inputs may have anywhere.
        steep = result["op"] == "conv2d_aliasing" and result["direction"] != "forward"
        slack = bench_measure.GRADIENT_SLACK if steep else 1
        assert result["relative error"] <= slack * race.TOLERANCES[torch.float32]
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


@pytest.mark.parametrize(
    ("own", "idle", "pgd", "peak", "met"),
    [(0.08, 0.001, 30.0, 1.005, [True] * 4), (0.12, 0.01, 19.0, 1.02, [False] * 4)],
)
def test_bars_of_a_watched_training(own, idle, pgd, peak, met):
    watched = result_of("training", [1], 2.1, **{"no monitor": 2.0, "not its turn": 2.0})
    watched |= {"layer": "PreActResNet-18, step", "monitor": {"seconds": own, "seconds when it is not its turn": idle}}
    check = result_of("training", [1], 1.0, **{"PGD-5": pgd}) | {"layer": "PreActResNet-18, check"}
    memory = [{"op": "training step", "bytes": {"alias_ops": {"peak": 100 * peak}, "no monitor": {"peak": 100}}}]
    bars = [bar for bar in report.bars({"results": [watched, check], "memory": memory}) if bar.met is not None]
    assert [bar.met for bar in bars] == met
    assert bars[0].measured == f"{1 + own / 2:.3f}x"
    assert bars[1].measured == f"{1 + (own + 9 * idle) / 20:.3f}x"


def test_the_worst_case_decides():
    growth = [result_of("growth with N", [1, 64, n, n], 1.0, matmul=2.0, rfft2=1.5) for n in (4, 512)]
    slow = copy.deepcopy(growth)
    slow[1]["times"]["rfft2"]["median"] = 0.99
    what = "flc_pool2d against the best torch.fft form, any N from 4 to 512, forward"
    assert verdicts(*growth)[what].met
    assert not verdicts(*slow)[what].met
    growth[0]["times"]["rfft, cropped"] = {"median": 0.99}
    assert not verdicts(*growth)[what].met


def test_convolutions_have_bars_in_both_directions():
    layer = "64→128 at 32, 3x3"
    results = [
        {**result_of("convolutions, bars", [], 1.0, direction, definition=slow), "layer": layer}
        for direction, slow in (("forward", 20.0), ("forward+backward", 4.0))
    ]
    what = "conv2d_aliasing(output=y) against the definition, every row, "
    assert verdicts(*results)[what + "forward"].met is True
    assert verdicts(*results)[what + "forward+backward"].met is False


def test_what_a_term_adds_to_a_layer():
    """Layer 4, with our term 6, with the definition 25: it adds 10.5 times as much."""
    times = {"layer alone": 4.0, "definition": 25.0, "not through the output": 7.0}
    first = {**result_of("convolutions, training", [8], 6.0, **times), "layer": "64→128 at 32, 3x3"}
    slow = {**result_of("convolutions, training", [8], 6.2, **times), "layer": "256→512 at 8, 3x3"}
    assert report.added(first, "definition") == 10.5
    assert report.added(result_of("convolutions, training", [8], 3.9, **times), "definition") is None
    assert report.added(result_of("convolutions, training", [8], 6.0, definition=25.0), "definition") is None
    large, every = (bar for what, bar in verdicts(first, slow).items() if "adds to a layer" in what)
    assert (large.measured, large.met) == ("10.50x", True)
    assert (every.measured, every.met) == ("9.55x", True)
    assert report._added_bars({"results": [{**slow, "layer": "128→256 at 16, 3x3"}]})[0].met is False
    assert "| 64→128 at 32, 3x3, batch 8 | 4000.0 | 2000.0 | 3000.0 | 21000.0 | 10.5 |" in report.markdown(
        {"results": [first], "memory": []}
    )


@pytest.mark.parametrize("group", ["growth with N", "pooling, sizes", "pooling, bars"])
def test_a_size_counts_wherever_it_was_measured(group):
    slow = result_of(group, [1, 64, 32, 32], 1.0, matmul=0.9, rfft2=2.0)
    assert verdicts(slow)["flc_pool2d against matmul, any N from 4 to 512, forward"].met is False


def test_memory_is_beyond_the_result():
    taken = {"alias_ops": {"peak": 5 * 2**20, "result": 4 * 2**20}, "fft2": {"peak": 2**20, "result": 4 * 2**20}}
    entry = {"op": "flc_pool2d", "shape": [1, 2], "input": 2**24, "bytes": taken}
    header, body = report.memory_rows({"memory": [entry, {**entry, "bytes": {"matmul": taken["fft2"]}}]})
    assert header[1:] == ["input", "alias_ops", "fft2", "matmul"]
    assert body[0][1:] == ["16.0", "1.0", "0.0", "-"]
    assert body[1][1:] == ["16.0", "-", "-", "0.0"]


def test_what_was_not_measured_is_neither():
    assert all(bar.met is None for bar in report.bars({"results": []}))


def test_a_missing_peer_is_reported_and_not_fatal(monkeypatch):
    monkeypatch.setattr(
        peers, "_module", lambda *_: (_ for _ in ()).throw(peers.Unavailable("kornia is not installed"))
    )
    with pytest.raises(peers.Unavailable, match="not installed"):
        peers.kornia(4, "cpu", torch.float32)


def test_everybody_is_timed_once_a_round_after_changing_others():
    called = []
    calls = {name: (lambda name=name: called.append(name)) for name in ("ours", "a", "b", "c", "d")}
    ours = calls.pop("ours")
    benchmark = SimpleNamespace(extra_info={}, stats=SimpleNamespace(stats=SimpleNamespace(data=[])))

    def pedantic(timed, setup, rounds, warmup_rounds):
        called.clear()
        for _ in range(rounds + warmup_rounds):
            setup()
            timed()
            benchmark.stats.stats.data.append(1.0)

    benchmark.pedantic = pedantic
    settings = SimpleNamespace(device="cpu", fewest_rounds=19, most_rounds=19, seconds_a_case=0, results=[])
    race.race(benchmark, settings, {"group": "none"}, ours, calls)
    # Calls that take no time are repeated within a timing.
    turns = [name for i, name in enumerate(called) if i == 0 or name != called[i - 1]]
    assert len(turns) == 20 * 5
    assert all(sorted(turns[at : at + 4]) == list("abcd") and turns[at + 4] == "ours" for at in range(0, 100, 5))
    assert len(set(pairwise(turns))) == 4 * 3 + 4 + 4
    assert {
        name: t["rounds"] for name, t in settings.results[0]["times"].items() if name != "alias_ops"
    } == dict.fromkeys("abcd", 19)


def test_a_wrong_result_fails():
    right = randn(3, 4)
    assert race.checked(right, right, torch.float32) == 0
    for wrong in (right + 1e-4, right * float("nan")):
        with pytest.raises(race.WrongResult):
            race.checked(wrong, right, torch.float32)


def test_indices_are_spread_over_all():
    assert race.spread(4, 10).tolist() == [0, 1, 2, 3]
    assert race.spread(101, 3).tolist() == [0, 50, 100]
    assert race.spread(1, 3).tolist() == [0]


@pytest.mark.parametrize("place", [0, 17, 39])
@pytest.mark.parametrize("wrong", ["result", "gradient"])
def test_a_pooling_that_is_wrong_in_one_map_fails(monkeypatch, wrong, place):
    """In any map that is looked at, also far behind the first, and in the gradient alone."""
    right = alias_ops.flc_pool2d

    def pool(x):
        spoilt = torch.zeros(x.shape[0] * x.shape[1]).index_fill(0, torch.tensor([place]), 1e-2)
        spoilt = spoilt.reshape(*x.shape[:2], 1, 1)
        return right(x) + spoilt if wrong == "result" else right(x) + spoilt * (x - x.detach())[..., ::2, ::2]

    monkeypatch.setattr(alias_ops, "flc_pool2d", pool)
    x, dy = randn(5, 8, 6, 6).float(), randn(5, 8, 3, 3).float()
    with pytest.raises(race.WrongResult):
        bench_pooling.error_of("flc", x, pool(x), dy, "forward+backward")
    monkeypatch.undo()
    assert bench_pooling.error_of("flc", x, right(x), dy, "forward+backward") < 1e-6


@pytest.mark.parametrize("way", ["with output", "without output", "through output"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_measure_that_is_wrong_fails(monkeypatch, kernel, way):
    right = alias_ops.conv2d_aliasing
    given = randn(5, 3, 8, 8).float(), randn(4, 3, kernel, kernel).float(), kernel // 2, "forward+backward", [way]
    assert bench_measure.conv_error(*given) < 1e-5
    for wrong in (lambda maps: maps * 1.001, lambda maps: maps.detach() + 0.9 * (maps - maps.detach())):
        monkeypatch.setattr(alias_ops, "conv2d_aliasing", lambda *a, _wrong=wrong, **k: _wrong(right(*a, **k)))
        with pytest.raises(race.WrongResult):
            bench_measure.conv_error(*given)


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
    for form in (reference.flc_pool2d_rfft2, reference.flc_pool2d_rfft):
        assert_close(form(x), reference.flc_pool2d(x), torch.float64)
    assert_close(reference.flc_pool2d_fft2(x), reference.flc_pool2d(x, variant="upstream"), torch.float64)


def test_the_floor_of_a_half_band_pooling():
    """8 x 8 to 4 x 4: 4 rows of 4 products over 8 columns, then 4 x 4 of 4."""
    made = floor.pool_floor("flc", torch.ones(1, 1, 8, 8), 1)
    assert made.operations == 2 * (4 * 4 * 8 + 4 * 4 * 4)
    assert made.fewest == made.operations / 2
    assert made.bytes == 4 * (64 + 16)
    assert floor.pool_floor("asap", torch.ones(1, 1, 8, 8), 1).operations == 2 * made.operations
    assert floor.pool_floor("flc", torch.ones(1, 1, 7, 7), 1).operations == 2 * (4 * 7 * 7 + 4 * 4 * 7)
    both = floor.pool_floor("flc", torch.ones(1, 1, 8, 8, dtype=torch.float16), 2)
    assert (both.bytes, both.operations) == (2 * 2 * 80, 2 * made.operations)


def test_the_floor_of_a_convolution():
    made = floor.conv_floor(cases.Conv("", 2, 3, 5, 8, 3), torch.ones(2, 3, 8, 8))
    assert made.bytes == 4 * (2 * 3 * 64 + 2 * 5 * 16 + 3 * 5 * 9)
    assert made.operations == 8 * 2 * 3 * 5 * (3 * 3 + 1) / 2
    pointwise = floor.conv_floor(cases.Conv("", 2, 3, 5, 8, 1), torch.ones(2, 3, 8, 8))
    assert pointwise.operations == 2 * 2 * 3 * 5 * 16


def test_the_floor_of_a_convolution_and_its_gradients():
    """Two products more; x and weight are read as before and their gradients written."""
    conv = cases.Conv("", 2, 3, 5, 8, 3)
    made = floor.conv_floor(conv, torch.ones(conv.batch, conv.channels, conv.size, conv.size), backward=True)
    assert (
        made.operations
        == 3 * floor.conv_floor(conv, torch.ones(conv.batch, conv.channels, conv.size, conv.size)).operations
    )
    assert made.bytes == 4 * (2 * (2 * 3 * 64 + 3 * 5 * 9) + 2 * 5 * 16)


def test_the_floor_of_the_measure_of_maps():
    """8 x 8: 3 rows of 4 over 8 columns, 3 x 3 of 4; the 4 x 4 samples: 4 x 2 over 4 columns, twice."""
    made = floor.alias_floor(torch.ones(1, 2, 8, 8, dtype=torch.float64))
    assert made.operations == 2 * 2 * (3 * 4 * 8 + 3 * 3 * 4 + 2 * 4 * 2 * 4)
    assert made.bytes == 2 * 8 * 64


def test_the_floor_of_the_measure_of_maps_and_its_gradient():
    """x is read again, transformed again and back, and its gradient written."""
    x = torch.ones(1, 2, 8, 8, dtype=torch.float64)
    made = floor.alias_floor(x, backward=True)
    assert made.operations == 3 * floor.alias_floor(x).operations
    assert made.bytes == 3 * 2 * 8 * 64


@pytest.mark.parametrize(("network", "name"), [("resnet18", "ResNet-18 "), ("resnet50", "ResNet-50 ")])
def test_layers_are_those_of_torchvision(network, name):
    """Name, channels, map and kernel of every strided convolution, as the network itself runs."""
    models = vision("torchvision.models")
    found = {}
    with torch.device("meta"):
        model = getattr(models, network)()
        for layer, module in model.named_modules():
            if isinstance(module, torch.nn.Conv2d) and module.stride == (2, 2):
                module.register_forward_hook(lambda m, x, _, layer=layer: found.update({layer: (m, x[0].shape)}))
        model(torch.empty(1, 3, 224, 224))
    expected = {
        layer.removesuffix(".0") if "downsample" in layer else layer: (*shape[1:3], m.out_channels, m.kernel_size[0])
        for layer, (m, shape) in found.items()
    }
    stem = expected.pop("conv1")
    listed = {c.name: (c.channels, c.size, c.outputs, c.kernel) for c in cases.LAYERS}
    assert listed["ResNet-18/50 stem"] == stem
    assert {k.removeprefix(name): v for k, v in listed.items() if k.startswith(name)} == expected


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's /proc; glibc's switch")
@pytest.mark.parametrize("kept", [True, False])
def test_what_a_call_frees_stays_with_the_process_where_asked(kept):
    code = f"""
import torch
from benchmarks.allocator import keep_freed_memory, settle

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) >> 8

assert not {kept} or keep_freed_memory()
parts = [torch.zeros(1 << 20) for _ in range(40)]
before = resident()
del parts
settle()
print(before - resident())
"""
    done = run_python(code, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) < 16) == kept  # MB, of 160
