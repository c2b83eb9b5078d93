"""What is asked of a machine's GPUs, and of which one: PyTorch claims to have some, nothing runs on them."""

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from kernels import module

import alias_ops
from alias_ops import _backend
from alias_ops.cli import info


@pytest.fixture
def claim(monkeypatch):
    """A function that says what PyTorch says of GPUs: of which kind they are, their capability, which is current."""

    def say(kind, capability=(9, 0), current=0, hip=None):
        for name in ("cuda", "xpu"):
            monkeypatch.setattr(getattr(torch, name), "is_available", lambda name=name: name == kind)
            monkeypatch.setattr(getattr(torch, name), "current_device", lambda: current)
            monkeypatch.setattr(getattr(torch, name), "get_device_name", lambda device, n=name: f"{n} {device.index}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.version, "hip", hip)
        # Of each kind the count that the other has not.
        counts = {"cuda": {"multi_processor_count": 132}, "xpu": {"gpu_subslice_count": 64}}
        for name, count in counts.items():
            properties = SimpleNamespace(**count)
            monkeypatch.setattr(getattr(torch, name), "get_device_properties", lambda device, p=properties: p)

    # Found once per process; not here.
    monkeypatch.setattr(_backend, "_look_for_triton", _backend._look_for_triton.__wrapped__)
    return say


def tensor_on(kind, index):
    return SimpleNamespace(device=torch.device(kind, index))


# ---- which implementation --------------------------------------------------------------------------------------------

BELOW = "the GPU's compute capability is below 8.0"


@pytest.mark.parametrize(
    ("device", "said", "reason"),
    [
        ("cuda", {"kind": None}, "PyTorch sees no GPU"),
        ("cuda", {"kind": "xpu"}, "PyTorch sees no GPU"),
        ("cuda", {"kind": "cuda", "capability": (7, 5)}, BELOW),
        ("cuda", {"kind": "cuda", "capability": (8, 0)}, ""),
        ("cuda", {"kind": "cuda", "capability": (12, 0)}, ""),
        ("cuda", {"kind": "cuda", "capability": (7, 5), "hip": "6.4"}, ""),  # AMD's numbers are others
        ("xpu", {"kind": "cuda"}, "PyTorch sees no GPU"),
        ("xpu", {"kind": "xpu"}, ""),
    ],
    ids=str,
)
def test_which_gpus_the_triton_kernels_take(claim, device, said, reason):
    pytest.importorskip("triton")
    claim(**said)
    assert _backend.availability(device)["triton"] == reason


@pytest.mark.parametrize(("kind", "asked"), [("cuda", "cuda"), ("xpu", "xpu"), (None, "cpu")])
def test_forcing_triton_asks_for_the_machines_own_gpus(claim, monkeypatch, kind, asked):
    claim(kind)
    monkeypatch.setattr(_backend, "_why_no_triton", lambda device_type: f"not on {device_type}")
    with pytest.raises(_backend.Unavailable) as caught, alias_ops.backend("triton"):
        pytest.fail("entered")
    assert str(caught.value) == f"backend 'triton' cannot run here: not on {asked}"


# ---- where and how kernels start -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_kernels_go_to_the_tensors_device_and_not_to_the_current_one(claim, kind):
    launch = module("_launch")
    claim(kind, current=1)
    context = launch.on_device_of(tensor_on(kind, 0))
    assert isinstance(context, getattr(torch, kind).device)
    assert context.idx == 0
    assert isinstance(launch.on_device_of(tensor_on(kind, 1)), nullcontext)
    assert isinstance(launch.on_device_of(torch.empty(1)), nullcontext)


@pytest.mark.parametrize(
    ("device", "said", "expected"),
    [
        ("cuda:0", {"kind": "cuda", "capability": (8, 6)}, 86),
        ("cuda:0", {"kind": "cuda", "capability": (10, 0)}, 100),
        ("cuda:0", {"kind": "cuda", "capability": (8, 6), "hip": "6.4"}, 90),
        ("cpu", {"kind": None}, 90),
    ],
    ids=str,
)
def test_compute_capability_is_one_number(claim, device, said, expected):
    launch = module("_launch")
    claim(**said)
    assert launch.capability.__wrapped__(torch.device(device)) == expected


@pytest.mark.parametrize(("kind", "processors"), [("cuda", 132), ("xpu", 64)])
def test_configurations_are_measured_per_kind_of_gpu_and_by_its_size(claim, monkeypatch, tmp_path, kind, processors):
    """The first launch that gives every multiprocessor its programs is measured, the one below it is not."""
    launch = module("_launch")
    claim(kind)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(launch, "_choices", {})
    monkeypatch.setattr(launch, "tuning", lambda: "")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    times = iter([2.0, 1.0])
    monkeypatch.setattr(launch.triton.testing, "do_bench", lambda run, **how: next(times))
    candidates = [launch.Config((("BLOCK", size),), 4) for size in (16, 32)]
    arguments = "kernel", (64, "float32"), candidates, lambda config: None, tensor_on(kind, 0)
    enough = launch.FEWEST_PROGRAMS * processors
    assert launch.chosen(*arguments, enough - 1) is candidates[0]
    assert launch.chosen(*arguments, enough) is candidates[1]
    assert list(launch._choices) == [("kernel", (64, "float32"), f"{kind} 0")]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_recorded_cuda_graph_is_noticed(claim, monkeypatch, recorded):
    launch = module("_launch")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recorded)
    claim("cuda")
    assert launch.capturing() is recorded
    claim(None)
    assert not launch.capturing()


# ---- what alias-ops info says of them --------------------------------------------------------------------------------


def test_info_tells_of_the_accelerator(claim, monkeypatch):
    claim("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(_backend, "_why_no_triton", lambda device_type: "" if device_type == "cuda" else "no GPU")
    monkeypatch.setattr(_backend, "_forced", "auto")
    monkeypatch.setattr(info, "_triton", lambda device_type: {"asked": device_type})
    found = info.facts()
    assert found["Triton kernels"] == {"asked": "cuda"}
    assert found["backends for cuda tensors"]["in use"] == "reference"
    assert found["backends for cuda tensors"]["triton"] == "runs here"
    assert found["backends for cpu tensors"]["triton"] == "no: no GPU"


def test_info_measures_what_a_first_call_costs_on_a_gpu(triton_backend, monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    clock = iter([0.0, 1.25, 2.0, 2.5, 3.0, 3.00003])
    monkeypatch.setattr(info, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(info, "_first_call", lambda device_type, call=info._first_call: call(triton_backend))
    found = info._triton("cuda")
    assert found["first call of a size"] == "1.25 s, then 30 µs"
    assert len(waits) == 3
    assert re.fullmatch(r"\d+\.\d+.*", found["version"])
    assert "first call of a size" not in info._triton("cpu")
