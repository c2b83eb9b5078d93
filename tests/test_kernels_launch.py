"""How kernels are reached and configured: what says no, what is measured, what is kept."""

import pytest
import torch
from helpers import randn, run_python
from kernels import module

import alias_ops
from alias_ops import _backend


def test_importing_the_package_imports_no_kernels():
    code = "import sys, alias_ops; print([m for m in sys.modules if m.startswith('alias_ops.kernels')])"
    process = run_python(code)
    assert process.stdout.strip() == "[]", process.stderr


def test_triton_refuses_cpu_tensors_without_the_interpreter():
    pytest.importorskip("triton")
    code = """
import torch, alias_ops
from alias_ops import _backend
print(_backend.availability("cpu")["triton"])
try:
    with alias_ops.backend("auto"):
        _backend._forced = "triton"
        alias_ops.flc_pool2d(torch.ones(1, 4, 4))
except alias_ops._backend.Unavailable as error:
    print(error)
"""
    lines = run_python(code, TRITON_INTERPRET="0").stdout.splitlines()
    reason = "it takes CPU tensors only if TRITON_INTERPRET=1 was set before the import"
    assert lines == [reason, f"backend 'triton' cannot run here: {reason}"]


def test_triton_that_is_missing_says_how_to_get_it():
    code = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else real(name, *a)
import alias_ops
print(alias_ops._backend.availability("cuda")["triton"])
print(alias_ops.flc_pool2d(alias_ops._backend.torch.ones(1, 4, 4)).sum().item())
"""
    lines = run_python(code).stdout.splitlines()
    assert lines == ["Triton is not installed (pip install 'alias-ops[triton]')", "4.0"]


def test_other_devices_are_refused():
    assert _backend.availability("meta")["triton"] in (
        "it runs on GPUs, not on meta",
        "Triton is not installed (pip install 'alias-ops[triton]')",
    )


def test_gpus_take_the_pytorch_form_unless_asked(monkeypatch):
    monkeypatch.setattr(_backend, "_forced", "auto")
    assert _backend.resolve("cuda") == "reference"


def test_the_environment_chooses_it():
    pytest.importorskip("triton")
    code = """
import sys, torch, alias_ops
y = alias_ops.flc_pool2d(torch.ones(1, 4, 4))
print(y.sum().item(), "alias_ops.kernels.separable2d" in sys.modules)
"""
    process = run_python(code, ALIAS_OPS_BACKEND="triton", TRITON_INTERPRET="1")
    assert process.stdout.split() == ["4.0", "True"], process.stderr


def test_other_backends_keep_their_kernels_under_the_interpreter():
    """The interpreter's kernels stand in front of the extension's and must let calls through to them."""
    x = randn(3, 8, 10, dtype=torch.float32)
    expected = {}
    for name in [n for n, why in _backend.availability().items() if not why]:
        with alias_ops.backend(name):
            expected[name] = torch.ops.alias_ops.separable2d(x, *alias_ops.designs.pooling_factors("flc", 8, 10))
    assert len({tuple(y.shape) for y in expected.values()}) == 1
    if {"cpu", "triton"} <= set(expected):
        assert not torch.equal(expected["cpu"], expected["triton"])  # float32 sums, and pairs of float16


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """The module, as on a GPU of 132 multiprocessors where the second candidate is the faster one."""
    found = module("_launch")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(found, "_choices", {})
    monkeypatch.setattr(found, "tuning", lambda: "")
    monkeypatch.setattr(found, "_name_of", lambda device: "some GPU")
    monkeypatch.setattr(found, "_multiprocessors", lambda device: 132)
    return found


def choose(launch, programs=1 << 20, size_class=(64, "float32")):
    a, b = launch.Config((("BLOCK", 16),), 4), launch.Config((("BLOCK", 32),), 8)
    x = torch.empty(1)
    return launch.chosen("kernel", size_class, (a, b), lambda config: None, x, programs).warps


def timing(launch, monkeypatch, log):
    def do_bench(run, **kwargs):
        log.append(1)
        return 1.0 / len(log)

    monkeypatch.setattr(launch.triton.testing, "do_bench", do_bench)


def test_the_faster_candidate_is_measured_once_and_kept_across_processes(launch, monkeypatch):
    log = []
    timing(launch, monkeypatch, log)
    assert [choose(launch), choose(launch)] == [8, 8]
    assert len(log) == 2
    assert launch.cached_choices() == {"kernel": 1}
    monkeypatch.setattr(launch, "_choices", {})  # another process
    assert choose(launch) == 8
    assert len(log) == 2
    assert choose(launch, size_class=(128, "float32")) == 8
    assert len(log) == 4


def test_calls_too_small_to_tell_take_the_rules_choice(launch, monkeypatch):
    log = []
    timing(launch, monkeypatch, log)
    assert choose(launch, programs=100) == 4
    assert log == []
    assert launch.cached_choices() == {}


def test_nothing_is_measured_inside_a_capture(launch, monkeypatch):
    log = []
    timing(launch, monkeypatch, log)
    monkeypatch.setattr(launch, "capturing", lambda: True)
    assert choose(launch) == 4
    assert log == []


def test_a_broken_cache_is_measured_again(launch, monkeypatch, tmp_path):
    log = []
    timing(launch, monkeypatch, log)
    choose(launch)
    for file in tmp_path.rglob("*.json"):
        file.write_text("{")
    monkeypatch.setattr(launch, "_choices", {})
    assert choose(launch) == 8
    assert len(log) == 4


def test_measuring_can_be_switched_off(monkeypatch):
    found = module("_launch")
    monkeypatch.setattr(found.knobs.runtime, "interpret", False)
    monkeypatch.delenv(found.AUTOTUNE, raising=False)
    assert found.tuning() == ""
    for value in ("0", "off", "False"):
        monkeypatch.setenv(found.AUTOTUNE, value)
        assert found.tuning() == "ALIAS_OPS_AUTOTUNE=0"
