"""``alias-ops info``: the facts it prints are those of this installation, whatever it lacks."""

import json
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import alias_ops
from alias_ops import _backend
from alias_ops.cli import info, main

EXTENSION = SimpleNamespace(
    isa=lambda: "avx2", isas=lambda: ["avx512", "avx2"], build_info=lambda: {"compiler": "g++ 12", "flags": "-O3"}
)


def facts(capsys):
    assert main(["info", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_versions_and_processor(capsys):
    found = facts(capsys)
    assert found["versions"]["alias_ops"] == alias_ops.__version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["processor"]["threads"] == torch.get_num_threads()
    assert set(found["processor"]["features"]) <= set(info.FEATURES)


def test_backends_are_those_that_run_here(capsys):
    found = facts(capsys)["backends for cpu tensors"]
    assert found.pop("in use") == _backend.resolve("cpu")
    assert found == {name: f"no: {why}" if why else "runs here" for name, why in _backend.availability().items()}


def test_a_backend_that_cannot_be_forced_is_explained(capsys, monkeypatch):
    monkeypatch.setattr(_backend, "_forced", "abacus")
    assert facts(capsys)["backends for cpu tensors"]["in use"].startswith("none: ALIAS_OPS_BACKEND must be one of")
    monkeypatch.setattr(_backend, "_forced", "cuda")
    assert "backend 'cuda' cannot run here" in facts(capsys)["backends for cpu tensors"]["in use"]


def test_with_and_without_the_cuda_extension(capsys, monkeypatch):
    monkeypatch.setattr(_backend, "cuda_extension", lambda: (None, "no nvcc was found"))
    assert facts(capsys)["CUDA C++ extension"] == {"missing": "no nvcc was found"}
    built = SimpleNamespace(build_info=lambda: {"compiler": "nvcc 13", "architectures": "90"})
    monkeypatch.setattr(_backend, "cuda_extension", lambda: (built, ""))
    assert facts(capsys)["CUDA C++ extension"] == {"built with compiler": "nvcc 13", "built with architectures": "90"}


def test_with_and_without_the_extension(capsys, monkeypatch):
    monkeypatch.setattr(_backend, "extension", EXTENSION)
    assert facts(capsys)["extension"] == {
        "kernels in use": "avx2",
        "kernels built": ["avx512", "avx2"],
        "built with compiler": "g++ 12",
        "built with flags": "-O3",
    }
    monkeypatch.setattr(_backend, "extension", None)
    monkeypatch.setattr(_backend, "_why_no_extension", "no compiler was found")
    assert facts(capsys)["extension"] == {"missing": "no compiler was found"}


@pytest.mark.parametrize(
    ("cpuinfo", "name", "features"),
    [
        ("model name\t: Fast: 3 GHz\nflags\t: fpu avx2 fma avx512f\n", "Fast: 3 GHz", ["fma", "avx2", "avx512f"]),
        ("processor\t: 0\nFeatures\t: fp asimd sve\n", platform.machine(), ["asimd", "sve"]),
    ],
)
def test_processors_as_linux_describes_them(tmp_path, monkeypatch, cpuinfo, name, features):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(info, "CPUINFO", tmp_path / "cpuinfo")
    assert info._processor() == (name, features)


def test_elsewhere_than_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(info, "CPUINFO", tmp_path / "nowhere")
    name, features = info._processor()
    assert name
    assert features == []


def test_text_says_the_same(capsys, monkeypatch):
    monkeypatch.setattr(_backend, "extension", EXTENSION)
    assert main(["info"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["versions"]
    assert ["torch", torch.__version__] in lines
    assert ["kernels", "built", "avx512", "avx2"] in lines
    assert ["reference", "runs", "here"] in lines


def test_triton_kernels_say_how_they_are_configured(capsys, monkeypatch, tmp_path):
    pytest.importorskip("triton")
    if _backend.availability()["triton"] and not torch.cuda.is_available():
        pytest.skip("Triton cannot run here")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "alias_ops.kernel.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "key" / "alias_ops.broken.json").write_text("{")
    found = facts(capsys)["Triton kernels"]
    assert found["size classes measured"] == 2
    assert found["cache"] == str(tmp_path)
    assert found["configurations"].startswith(("by rule: kernels are interpreted", "measured at"))
    assert ("first call of a size" in found) == torch.cuda.is_available()


def test_without_triton_there_is_nothing_to_say_of_it(capsys, monkeypatch):
    monkeypatch.setattr(_backend, "_why_no_triton", lambda device_type: "it is not there")
    assert "Triton kernels" not in facts(capsys)


@pytest.mark.skipif(os.name == "nt", reason="pipes close otherwise there")
def test_a_reader_that_has_seen_enough():
    """As in ``alias-ops info | head -1``: no traceback, not even when Python ends."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "alias_ops", "info"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
