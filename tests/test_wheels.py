"""The sdist and the wheel: built in isolation, installed into fresh environments, tried there, uninstalled.

Compiling takes minutes, so the compiler here is one that hands out this installation's extension; .ci/wheels compiles.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from installs import Environment, digest, offline_wheels

import alias_ops
from alias_ops import _backend

ROOT = Path(__file__).resolve().parents[1]
EPOCH = "1700000000"

needs_extension = pytest.mark.skipif(_backend.extension is None, reason="the extension was not built")
pytestmark = [
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not in a checkout"),
    pytest.mark.skipif(os.name == "nt", reason="the compiler that stands in is a shell script"),
]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """pip's options for a folder that stands in for the index, with what an isolated build needs."""
    for needed in ("setuptools", "wheel", "pip"):
        pytest.importorskip(needed)
    folder = tmp_path_factory.mktemp("offline")
    offline_wheels(folder, "setuptools", "wheel")
    return ("--no-index", "--find-links", folder)


def pack(folder: Path) -> Path:
    """The sdist of this checkout, in ``folder``."""
    command = (
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        folder,
        "sdist",
        "--dist-dir",
        folder / "dist",
    )
    folder.mkdir()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH}, check=True)
    (archive,) = (folder / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(offline, tmp_path_factory):
    return pack(tmp_path_factory.mktemp("sdist") / "first")


@pytest.fixture(scope="module")
def compiler(tmp_path_factory):
    """A compiler whose modules are copies of the one under test."""
    script = tmp_path_factory.mktemp("compiler") / "c++"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo stand-in 1.0; exit; fi\n'
        "for target; do :; done\n"
        f'case " $* " in *" -c "*) : >"$target" ;; *) cp "{_backend.extension.__file__}" "$target" ;; esac\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    made.link_packages()
    return made


@pytest.fixture(scope="module")
def wheel(environment, offline, sdist, compiler, tmp_path_factory):
    """Built by pip from the sdist, isolated, beside an installed PyTorch that the build must find and not import."""
    folder = tmp_path_factory.mktemp("wheel")
    build = {"CXX": compiler, "ALIAS_OPS_BUILD_CPU": "1", "SOURCE_DATE_EPOCH": EPOCH}
    environment.pip("wheel", *offline, "--no-deps", "--wheel-dir", folder, sdist, **build)
    (built,) = folder.iterdir()
    return built


def members(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        return set(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as opened:
        return {member.name.partition("/")[2] for member in opened if member.isfile()}


def test_the_sdist_has_all_that_is_in_the_repository_and_nothing_built(sdist):
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0 or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    ours = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    packed = {name for name in members(sdist) if ".egg-info/" not in name}
    assert packed - ours == {"PKG-INFO", "setup.cfg"}
    assert {name for name in ours - packed if not name.startswith(".")} == set()  # of use in a checkout alone


def test_packing_again_gives_the_same_sdist(sdist, tmp_path):
    with tarfile.open(sdist) as archive:
        owners = {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in archive}
    assert owners == {(0, 0, "", "", int(EPOCH))}
    assert pack(tmp_path / "again").read_bytes() == sdist.read_bytes()


@needs_extension
def test_the_wheel_is_for_one_platform_and_every_python(wheel):
    assert re.fullmatch(rf"alias_ops-{alias_ops.__version__}-cp310-abi3-\w+\.whl", wheel.name)
    assert "alias_ops/_C.abi3.so" in members(wheel)


@needs_extension
def test_the_wheel_has_the_package_alone(wheel):
    tops = {name.partition("/")[0] for name in members(wheel)}
    assert tops == {"alias_ops", f"alias_ops-{alias_ops.__version__}.dist-info"}
    inside = {name.partition("/")[2] for name in members(wheel)}
    assert {"py.typed", "benchmarks/ceilings.cpp", "functional.py", "models/__init__.py"} <= inside
    assert [name for name in inside if re.search(r"results/|\.pyc|csrc|^tests|\.md$", name)] == []


@needs_extension
def test_every_file_of_the_wheel_has_its_hash(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (record,) = (name for name in archive.namelist() if name.endswith("RECORD"))
        lines = [line.rsplit(",", 2) for line in archive.read(record).decode().splitlines()]
        hashes = {name: kept for name, kept, _ in lines if name != record}
        assert hashes == {name: digest(archive.read(name)) for name in archive.namelist() if name != record}


@needs_extension
def test_building_again_elsewhere_gives_the_same_wheel(environment, sdist, wheel, compiler, tmp_path):
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = tmp_path.iterdir()
    build = {"CXX": compiler, "ALIAS_OPS_BUILD_CPU": "1", "SOURCE_DATE_EPOCH": EPOCH}
    out = tmp_path / "out"
    environment.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", out, source, **build)
    assert (out / wheel.name).read_bytes() == wheel.read_bytes()


@needs_extension
def test_the_wheel_installs_works_and_leaves_nothing(environment, wheel):
    before = environment.files()
    environment.pip("install", "--no-index", "--no-deps", "--no-compile", wheel)
    assert (environment.folder / "bin" / "alias-ops").is_file()
    environment.smoke("cpu")
    environment.pip("uninstall", "--yes", "alias-ops")
    assert environment.files() - before == set()
    assert before - environment.files() == set()


def test_without_a_compiler_the_sdist_installs_works_and_leaves_nothing(environment, sdist):
    before = environment.files()
    environment.pip("install", "--no-index", "--no-build-isolation", "--no-compile", sdist, CXX="/bin/false")
    environment.smoke("reference")
    environment.pip("uninstall", "--yes", "alias-ops")
    assert environment.files() - before == set()


def test_without_pytorch_the_build_says_what_to_do(offline, sdist, tmp_path):
    empty = Environment(tmp_path / "venv")
    said = empty.pip("wheel", "-v", *offline, "--no-deps", "--wheel-dir", tmp_path / "out", sdist)
    assert "PyTorch was not found while building" in said
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"alias_ops-{alias_ops.__version__}-py3-none-any.whl"]


# CPython's limited API has all of these since 3.10 or before; a new one has to be looked up in its list.
LIMITED_API = {
    "PyDict_New", "PyDict_SetItemString", "PyErr_SetString", "PyExc_ImportError", "PyList_Append", "PyList_New",
    "PyModuleDef_Init", "PyUnicode_FromString", "_Py_Dealloc",
}  # fmt: skip
OLDEST_TORCH = (2, 10)
SHIMS = ("stable/c/shim.h", "inductor/aoti_torch/c/shim.h")  # in PyTorch's include folder


@pytest.fixture(scope="module")
def asked_for():
    """What the module wants of other libraries, by the names that the loader looks up."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    command = ["nm", "-D", "--undefined-only", _backend.extension.__file__]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}


@needs_extension
def test_the_module_asks_python_for_nothing_beyond_the_limited_api(asked_for):
    assert {name for name in asked_for if re.match("_?Py", name)} == LIMITED_API


def since(header: Path) -> dict[str, tuple[int, int]]:
    """The C functions that PyTorch's header declares for some version and later, with that version."""
    found, version = {}, None
    for line in header.read_text().splitlines():
        if begin := re.match(r"#if TORCH_FEATURE_VERSION >= TORCH_VERSION_(\d+)_(\d+)_0", line):
            version = int(begin[1]), int(begin[2])
        elif re.match(r"#endif // TORCH_FEATURE_VERSION", line):
            version = None
        elif version:
            found |= dict.fromkeys(re.findall(r"\b((?:aoti_)?torch_\w+)\(", line), version)
    return found


@needs_extension
def test_the_module_asks_pytorch_for_c_functions_of_the_oldest_version_alone(asked_for):
    """C++ names of PyTorch change from version to version, the C functions behind its stable interface do not."""
    assert [name for name in asked_for if re.match(r"_Z\w*(2at|3c10|5torch|6caffe2)", name)] == []
    used = {name for name in asked_for if re.match("(aoti_)?torch_", name)}
    assert {"torch_library_impl", "aoti_torch_get_sizes"} <= used
    headers = [Path(torch.__file__).parent / "include/torch/csrc" / name for name in SHIMS]
    versions = {name: version for header in headers for name, version in since(header).items()}
    assert versions["torch_library_impl"] == (2, 10)
    assert {name: versions[name] for name in used & set(versions) if versions[name] > OLDEST_TORCH} == {}


LOAD = """
import ctypes, sys
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_loader
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
loader = ExtensionFileLoader("alias_ops._C", sys.argv[2])
module = module_from_spec(spec_from_loader("alias_ops._C", loader))
loader.exec_module(module)
print(module.isa(), *module.isas(), *sorted(module.build_info()))
"""


def other_python(name: str) -> str | None:
    """The interpreter of this name, if it runs: version managers put scripts there for those that they have not."""
    found = shutil.which(name)
    if found is None or subprocess.run([found, "-V"], capture_output=True, check=False).returncode != 0:
        return None
    return found


@needs_extension
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_one_module_loads_in_every_python(version):
    """Without PyTorch's own Python half, which is built for one: its C++ half is all that the module links to."""
    python = other_python(f"python{version}")
    if python is None:
        pytest.skip(f"no python{version} here")
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    command = [python, "-I", "-c", LOAD, str(library), _backend.extension.__file__]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    extension = _backend.extension
    assert done.stdout.split() == [extension.isa(), *extension.isas(), *sorted(extension.build_info())]
