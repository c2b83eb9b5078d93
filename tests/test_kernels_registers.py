"""Kernels that spill get a limit of registers that ends it: which, when, and where there is no such option."""

import json

import pytest
import torch
from helpers import run_python
from kernels import module

# What a multiprocessor and a thread have.
REGISTERS, MOST = 65536, 255


@pytest.fixture
def registers(monkeypatch):
    found = module("_registers")
    monkeypatch.setattr(found, "_found", {})
    return found


class Kernel:
    """In place of a Triton kernel on a GPU: spills as it is told to, limit by limit, and lists its launches."""

    __name__ = "kernel"

    def __init__(self, taken=128, **spills):
        self.taken, self.spills, self.launched = taken, spills, []

    def __getitem__(self, grid):
        def launch(*arguments, **options):
            self.launched.append(options)
            limit = options.get("maxnreg")
            self.n_regs, self.n_spills = limit or self.taken, self.spills.get(f"at_{limit}", 0)
            return self

        return launch


def start(registers, kernel, warps=8, **constants):
    config = module("_launch").Config((("BLOCK", 16),), warps)
    x = torch.empty(1)
    registers.start(kernel, (1,), (x, x), constants, config, x)
    return [options.get("maxnreg", "none said") for options in kernel.launched]


@pytest.mark.parametrize("warps", [1, 2, 4, 8])
@pytest.mark.parametrize("taken", [64, 72, 96, 97, 128, 168, 250, 255])
def test_limits_give_up_programs_one_step_after_the_other(registers, warps, taken):
    found = registers.limits(warps, taken)
    programs = [REGISTERS // (32 * warps * -(-limit // 8) * 8) for limit in found]
    assert found[1] < found[0] == taken
    assert len(set(found)) == len(found)
    assert max(found) == MOST
    assert programs[1] >= programs[0]
    assert programs[2:] == sorted(programs[2:], reverse=True)
    assert all(programs[0] >= p >= 1 for p in programs[2:])


def test_limits_are_few(registers):
    """Each is a compilation."""
    assert max(len(registers.limits(warps, r)) for warps in (1, 2, 4, 8) for r in range(16, 256)) <= 14
    assert registers.limits(8, 128) == [128, 112, 255]
    assert registers.limits(4, 64) == [64, 56, 80, 128, 168, 255]


def test_the_first_limit_that_ends_it_is_kept(registers, monkeypatch):
    monkeypatch.setattr(registers, "takes_limits", lambda device: True)
    kernel = Kernel(at_None=2, at_128=3)
    assert start(registers, kernel) == [None, 128, 112]
    assert start(registers, kernel)[3:] == [112]
    assert start(registers, kernel, TERMS=2)[4:] == [None, 128, 112]  # other code


def test_the_fewest_spills_where_nothing_ends_it(registers, monkeypatch):
    monkeypatch.setattr(registers, "takes_limits", lambda device: True)
    kernel = Kernel(at_None=4, at_128=4, at_112=9, at_255=3)
    assert start(registers, kernel) == [None, 128, 112, 255]
    assert start(registers, kernel)[4:] == [255]
    kernel = Kernel(at_None=4, at_128=4, at_112=9, at_255=4)
    kernel.__name__ = "another"
    assert start(registers, kernel) == [None, 128, 112, 255]
    assert start(registers, kernel)[4:] == [None]


def test_what_does_not_spill_is_left_alone(registers, monkeypatch):
    monkeypatch.setattr(registers, "takes_limits", lambda device: True)
    kernel = Kernel()
    assert start(registers, kernel) == [None]
    assert start(registers, kernel)[1:] == [None]


def test_nothing_is_launched_twice_inside_a_capture(registers, monkeypatch):
    """The graph would hold all of them. The first call outside finds the limit."""
    monkeypatch.setattr(registers, "takes_limits", lambda device: True)
    kernel = Kernel(at_None=2)
    with monkeypatch.context() as patch:
        patch.setattr(registers, "capturing", lambda: True)
        assert start(registers, kernel) == [None]
    assert start(registers, kernel)[1:] == [None, 128]


def test_only_nvidia_gpus_take_limits(registers, monkeypatch):
    monkeypatch.setattr(registers.knobs.runtime, "interpret", False)
    monkeypatch.setattr(torch.version, "hip", None)
    assert [registers.takes_limits(torch.device(d)) for d in ("cuda", "xpu", "cpu")] == [True, False, False]
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not registers.takes_limits(torch.device("cuda"))


def test_the_interpreter_is_told_nothing(registers):
    assert not registers.takes_limits(torch.device("cuda"))
    kernel = Kernel(at_None=2)
    assert start(registers, kernel) == ["none said"]


DRIVER = """
import json
import torch, triton
from triton.backends.compiler import GPUTarget
from ahead_of_time import needs
from alias_ops import designs
from alias_ops.kernels import _registers, separable2d as launcher

launched, spills = [], SPILLS

class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return TARGET
    class utils:
        def get_device_properties(device): return {"max_shared_mem": 1 << 20}
        def load_binary(name, code, shared, device):
            registers = needs(code)[0] if TARGET.backend == "cuda" else 64
            launched.append([registers])
            return 0, 0, registers, spills.pop(0), 1024
    def launcher_cls(self, source, metadata):
        return lambda *arguments: launched[-1].append(getattr(metadata, "maxnreg", "none"))

triton.runtime.driver.set_active(Driver())
_registers.takes_limits = lambda device: LIMITED
left, right = designs.pooling_factors("flc", 8, 8, dtype=torch.float32)
x, y = torch.empty(2, 16, 8, 8, dtype=torch.bfloat16), torch.empty(2, 16, 4, 4, dtype=torch.bfloat16)
for call in range(2):
    launcher.separable2d(x, left, right, out=y)
"""


def through_triton(target: str, limited: bool, spills: str, then: str = "") -> list[str]:
    """What Triton's own launch does on a driver without a GPU: [registers, limits of its launches] of each kernel."""
    pytest.importorskip("triton")
    said = DRIVER.replace("TARGET", target).replace("LIMITED", str(limited)).replace("SPILLS", spills)
    environment = {"TRITON_INTERPRET": "0", "ALIAS_OPS_AUTOTUNE": "0"}
    process = run_python(f"{said}\nprint(json.dumps(launched))\n{then}", 300, **environment)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_triton_launches_under_the_limits():
    """Said to spill with no limit and with the first: the second ends it, and the next call goes there at once."""
    (said,) = through_triton('GPUTarget("cuda", 90, 32)', True, "[2, 2, 0]")
    (free, *first), (_, *same), (fewer, *kept) = json.loads(said)
    assert (first, same, kept) == ([None], [free], [free - free // 8] * 2)
    assert fewer <= kept[0]


def test_amds_options_know_no_limit():
    """Nothing is said there, and it compiles; were something said, Triton would refuse to launch."""
    then = """
_registers.takes_limits = lambda device: True
try:
    launcher.separable2d(x, left, right, out=y)
except KeyError as error:
    print(error)
"""
    said, refused = through_triton('GPUTarget("hip", "gfx942", 64)', False, "[2]", then)
    assert json.loads(said) == [[64, "none", "none"]]
    assert "maxnreg was specified but unrecognised" in refused
