"""``alias-ops bench`` behind the measurement: what it makes of a result that is there, bad or missing; no case runs."""

import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from helpers import ROOT

from alias_ops.cli import bench, main

if not (ROOT / "benchmarks" / "cases.py").is_file():
    pytest.skip("not in a checkout", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import report

COMMITTED = ROOT / "benchmarks" / "results" / "2026-11-22-cpu-zen5.json"


@pytest.fixture
def leave(tmp_path, monkeypatch):
    """Says what pytest leaves behind instead of measuring: a file, or none, and its exit status."""
    monkeypatch.chdir(tmp_path)
    given = []

    def say(left=COMMITTED, status=pytest.ExitCode.OK):
        def run(options):
            given[:] = options
            if left is not None:
                shutil.copy(left, options[options.index("--bench-json") + 1])
            return status

        monkeypatch.setattr(pytest, "main", run)
        return given

    return say


def slower(target, factor):
    """The committed result of the poolings with our own times multiplied."""
    document = {**json.loads(COMMITTED.read_text()), "memory": []}
    document["results"] = [result for result in document["results"] if result["group"].startswith("pooling")]
    for result in document["results"]:
        result["times"]["alias_ops"]["median"] *= factor
        result["floor"]["fraction"] /= factor
    target.write_text(json.dumps(document))
    return target, sum(bar.met is False for bar in report.bars(document))


def test_a_whole_run_prints_times_memory_and_bars(leave, capsys):
    given = leave()
    assert main(["bench", "--json", "mine.json", "--one-process", "--keep-memory", "--device", "meta"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == ""
    assert lines[0].startswith("about a quarter of an hour")
    assert lines[-1] == "wrote mine.json"
    document = report.load(COMMITTED)
    for header, body in (report.rows(document), report.memory_rows(document)):
        assert sum(line.startswith(header[0]) for line in lines) == 1
        assert len(body) > 3
    assert set(report.bar_lines(document)) <= set(lines)
    assert "--bench-one-process" in given
    assert "--bench-keep-memory" in given
    assert given[given.index("--bench-device") + 1] == "meta"
    assert "--bench-quick" not in given
    main(["bench", "--quick"])
    assert "--bench-quick" in given
    assert "--bench-keep-memory" not in given


def test_strict_fails_where_bars_are_missed(leave, capsys, tmp_path):
    left, missed = slower(tmp_path / "slower.json", 100)
    assert missed > 5
    leave(left)
    assert main(["bench", "--quick"]) == 0
    assert not capsys.readouterr().out.startswith("about")
    assert main(["bench", "--quick", "--strict"]) == 2
    assert capsys.readouterr().err == f"alias-ops: {missed} bars missed\n"
    left, missed = slower(tmp_path / "faster.json", 1e-6)
    assert missed == 0
    leave(left)
    assert main(["bench", "--quick", "--strict"]) == 0


def test_cases_that_failed_are_told_after_the_results(leave, capsys):
    leave(status=pytest.ExitCode.TESTS_FAILED)
    assert main(["bench", "--quick"]) == 2
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "wrote bench.json"
    assert err == "alias-ops: some cases failed; what pytest printed above says which\n"


@pytest.mark.parametrize("earlier", [False, True])
def test_an_earlier_result_is_not_taken_for_one(leave, capsys, earlier, tmp_path):
    leave(None, pytest.ExitCode.INTERNAL_ERROR)
    if earlier:
        shutil.copy(COMMITTED, tmp_path / "bench.json")
        os.utime(tmp_path / "bench.json", (1, 1))
    assert main(["bench", "--quick"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "alias-ops: nothing was measured; what pytest printed above says why\n"


def test_figures_ask_for_matplotlib_before_anything_is_measured(leave, capsys, monkeypatch):
    given = leave()
    monkeypatch.setattr(bench, "find_spec", lambda name: None if name == "matplotlib" else name)
    assert main(["bench", "--figures", "figures"]) == 2
    assert capsys.readouterr().err == "alias-ops: --figures needs matplotlib: pip install 'alias-ops[bench]'\n"
    assert given == []


def test_installed_without_a_checkout(tmp_path, monkeypatch, capsys):
    """The benchmark is a part of the package then, or of no part of the installation at all."""
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "alias_ops" / "cli" / "bench.py"))
    inside = tmp_path / "alias_ops" / "benchmarks" / "__init__.py"
    monkeypatch.setattr(bench, "find_spec", lambda name: SimpleNamespace(origin=str(inside)))
    assert bench._package() == ("alias_ops.benchmarks", inside.parent)
    for found in (None, SimpleNamespace(origin=None)):
        monkeypatch.setattr(bench, "find_spec", lambda name, f=found: f if "benchmarks" in name else name)
        assert main(["bench"]) == 2
        assert capsys.readouterr().err == "alias-ops: the benchmark is not part of this installation\n"
