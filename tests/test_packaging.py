"""What a user installs and reads: version, files, README, citation, and a build that cannot succeed."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

import alias_ops
from alias_ops import _backend

ROOT = Path(__file__).resolve().parents[1]
LONGEST_FILE = 400

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not in a checkout")


def sources(*folders: str) -> list[Path]:
    """Text files of the project in these folders."""
    suffixes = {".py", ".cpp", ".h", ".cu", ".cuh", ".md", ".toml", ".yml", ".yaml", ".cff"}
    return sorted(p for f in folders for p in (ROOT / f).rglob("*") if p.suffix in suffixes)


def test_the_version_is_the_same_everywhere():
    assert re.fullmatch(r"\d+\.\d+\.\d+", alias_ops.__version__)
    assert f"## [{alias_ops.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    installed = {d.version for d in metadata.distributions(name="alias-ops")}
    assert installed <= {alias_ops.__version__}


def test_type_checkers_find_the_types():
    assert Path(alias_ops.__file__).with_name("py.typed").is_file()


def test_everything_exported_exists():
    assert [name for name in alias_ops.__all__ if not hasattr(alias_ops, name)] == []


def test_the_citation_is_of_this_version():
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == alias_ops.__version__
    assert {reference["year"] for reference in citation["references"]} == {2020, 2022, 2023}
    assert all(reference["title"] and reference["authors"] for reference in citation["references"])


def test_files_are_short_enough_to_read():
    lengths = {p.relative_to(ROOT): p.read_text().count("\n") for p in sources("alias_ops", "csrc")}
    assert {p: n for p, n in lengths.items() if n > LONGEST_FILE} == {}


def test_nothing_is_left_undone_or_tied_to_one_machine():
    # Written so that the patterns do not match themselves.
    unwanted = re.compile(
        r"\b(TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b|(?<![\w.])/(home|root|work|Users)/\w|p[y]pi\.|p[y]thonhosted"
    )
    files = sources("alias_ops", "csrc", "tests", "benchmarks", "examples", "docs", ".github")
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in (".md", ".py", ".toml", ".cff", ".yaml")]
    found = [f"{p.relative_to(ROOT)}: {m[0]}" for p in files for m in unwanted.finditer(p.read_text())]
    assert found == []


def test_actions_of_the_workflow_are_pinned_to_a_commit():
    workflows = list((ROOT / ".github" / "workflows").glob("*.yml"))
    used = [m for p in workflows for m in re.findall(r"uses: (\S+)", p.read_text())]
    assert len(used) > 5
    assert [u for u in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", u)] == []


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess:
    """setup.py build_ext into ``tmp_path``, with a compiler that fails."""
    pytest.importorskip("setuptools")
    kept = {
        k: v for k, v in os.environ.items() if k not in ("CC", "CXX", "ALIAS_OPS_BUILD_CPU", "ALIAS_OPS_BUILD_CUDA")
    }
    folders = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    return subprocess.run(
        [sys.executable, str(ROOT / "setup.py"), "build_ext", *folders],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_without_a_compiler_the_package_installs_and_says_so_once(tmp_path):
    done = build(tmp_path, CC="/bin/false")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("WARNING: alias_ops is built without its C++ extension") == 1
    assert "no C++ compiler: `/bin/false --version` does not run" in done.stderr
    assert not list(tmp_path.rglob("_C*"))


def test_a_compiler_that_fails_is_quoted(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo mine 1.0 && exit\necho no such flag >&2; exit 1\n')
    compiler.chmod(0o755)
    done = build(tmp_path, CXX=str(compiler))
    assert done.returncode == 0, done.stderr
    assert "pure-PyTorch path" in done.stderr
    assert "no such flag" in done.stderr


def test_an_extension_that_is_asked_for_must_build(tmp_path):
    done = build(tmp_path, CXX="/bin/false", ALIAS_OPS_BUILD_CPU="1")
    assert done.returncode != 0
    assert "error: no C++ compiler" in done.stderr


def test_an_extension_that_is_not_wanted_is_left_out_silently(tmp_path):
    done = build(tmp_path, ALIAS_OPS_BUILD_CPU="0")
    assert done.returncode == 0, done.stderr
    assert "WARNING: alias_ops" not in done.stderr
    assert not list(tmp_path.rglob("_C*"))


def test_a_wrong_build_mode_is_named(tmp_path):
    done = build(tmp_path, ALIAS_OPS_BUILD_CPU="yes")
    assert done.returncode != 0
    assert "ALIAS_OPS_BUILD_CPU must be auto, 0 or 1, got 'yes'" in done.stderr


def test_cuda_kernels_that_are_asked_for_must_build(tmp_path):
    if torch.version.cuda is not None:
        pytest.skip("this PyTorch is for CUDA")
    wanted = build(tmp_path, ALIAS_OPS_BUILD_CPU="0", ALIAS_OPS_BUILD_CUDA="1")
    assert wanted.returncode != 0
    assert f"error: PyTorch {torch.__version__} is a build without CUDA" in wanted.stderr
    for mode in ("auto", "0"):
        silent = build(tmp_path, ALIAS_OPS_BUILD_CPU="0", ALIAS_OPS_BUILD_CUDA=mode)
        assert silent.returncode == 0, silent.stderr
        assert "WARNING: alias_ops" not in silent.stderr
    wrong = build(tmp_path, ALIAS_OPS_BUILD_CUDA="maybe")
    assert "ALIAS_OPS_BUILD_CUDA must be auto, 0 or 1, got 'maybe'" in wrong.stderr


def test_the_objects_of_the_cuda_extension(monkeypatch, tmp_path):
    """What would be compiled for a PyTorch of CUDA 13, by a compiler that only says its version."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    nvcc.chmod(0o755)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '13.2'\n")
    code = """
import setuptools, sys
from pathlib import Path
setuptools.setup = lambda **kwargs: None
setup = {"__name__": "setup", "__file__": sys.argv[1]}
exec(compile(Path(sys.argv[1]).read_text(), "setup.py", "exec"), setup)
place = Path(sys.argv[2])
torch = setup["Torch"]("2.13.0", [place / "include"], place / "torch" / "lib")
for unit in setup["plan_cuda"](["g++"], torch, setup["find_toolkit"](torch), place):
    told = [flag for flag in unit.flags if "gencode" in flag or "USE" in flag]
    print(unit.source, (unit.compiler or ["g++"])[0].rpartition("/")[2], *told)
"""
    environment = {**os.environ, "CUDA_HOME": str(tmp_path), "TORCH_CUDA_ARCH_LIST": "7.5;8.0;8.6;9.0+PTX"}
    command = [sys.executable, "-c", code, str(ROOT / "setup.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pairs = ("80", "sm_80"), ("90", "sm_90"), ("90", "compute_90")
    codes = " ".join(f"-gencode=arch=compute_{virtual},code={code}" for virtual, code in pairs)
    lines = done.stdout.splitlines()
    assert f"csrc/cuda/separable2d.cu nvcc {codes}" in lines
    assert "csrc/cuda/ops.cpp g++ -DUSE_CUDA" in lines
    assert len(lines) == len(list((ROOT / "csrc" / "cuda").glob("*.c*")))
    (tmp_path / "torch" / "version.py").write_text("cuda: Optional[str] = '12.8'\n")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "PyTorch 2.13.0 is of CUDA 12" in done.stderr


@pytest.mark.skipif(_backend.extension is None, reason="the extension was not built")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_code_for_one_instruction_set_stays_in_its_namespace():
    """A function shared with the portable kernels must not be the copy compiled for AVX-512.

    That copy would be an illegal instruction on a lesser processor; see ``plan`` in setup.py.
    """
    if "avx2" not in _backend.extension.isas():
        pytest.skip("one instruction set alone")
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", _backend.extension.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    leaks = set()
    for function in re.split(r"\n(?=[0-9a-f]+ <)", listing):
        name = function.partition("\n")[0]
        at_load = "_GLOBAL__" in name or "global constructors" in name
        # Clones are private to the object they come from; nothing else calls them.
        if "[clone" in name or ("avx512::" in name and not at_load):
            continue
        beyond = "%zmm|%k[1-7]\\b" if "avx2::" in name and not at_load else "%zmm|%ymm|\tv[a-z]+[0-9a-z]* "
        if re.search(beyond, function):
            leaks.add(name)
    assert leaks == set()
