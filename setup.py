"""Builds the extensions alias_ops._C and _C_cuda; everything else about the package is in pyproject.toml.

The kernels in csrc/cpu are compiled once per instruction set, the rest of csrc once, and all of it
is linked into one module. Only PyTorch's headers and libtorch_cpu are needed of PyTorch, so it is
looked up and never imported: that works inside pip's isolated builds too, as long as PyTorch is
installed in the environment that pip installs into. The CUDA kernels in csrc/cuda are compiled by
nvcc into a module of their own, where PyTorch is a build for CUDA.

Environment:
    ALIAS_OPS_BUILD_CPU  auto (default): go on without the extension if it cannot be built;
                         1: fail instead, with the compiler's message; 0: do not build it.
    ALIAS_OPS_BUILD_CUDA the same for _C_cuda; auto says nothing where nvcc or PyTorch's CUDA is missing.
    CUDA_HOME            where nvcc is, in bin; else the one on PATH, or /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST architectures, as "8.0;9.0"; else those that PyTorch was built for.
    CXX, CC              the compiler (GCC 12 or later, or Clang); CPPFLAGS, CXXFLAGS and LDFLAGS are appended.
    MAX_JOBS             compilers run at a time; all processors by default.
"""

import importlib.util
import os
import platform
import re
import runpy
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ARCHIVES = runpy.run_path(str(Path(__file__).resolve().parent / "csrc/archives.py"))
LIMITED_API = ARCHIVES["LIMITED_API"]
OLDEST_PYTHON = "0x030a0000"  # 3.10, for which ARCHIVES tags wheels

CPU, CUDA = "alias_ops._C", "alias_ops._C_cuda"
SWITCHES = {CPU: "ALIAS_OPS_BUILD_CPU", CUDA: "ALIAS_OPS_BUILD_CUDA"}
MODES = {name: (os.environ.get(switch) or "auto").lower() for name, switch in SWITCHES.items()}
WITHOUT = {
    CPU: "built without its C++ extension and will run on the slower pure-PyTorch path",
    CUDA: "built without its CUDA C++ kernels",
}

OLDEST_TORCH = (2, 10)
TARGET_TORCH = "0x020a000000000000"  # OLDEST_TORCH, as torch/headeronly/version.h writes it

COMMON_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-fno-math-errno"]
COMMON_FLAGS += ["-fno-trapping-math", "-ffp-contract=fast", "-fno-tree-slp-vectorize"]  # its paired loads stall

# Best first. The portable kernels get the compiler's baseline for the architecture.
ISA_FLAGS = {"portable": []}
if platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32:
    ISA_FLAGS = {
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c", "-mavx2"],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "portable": [],
    }

NVCC_FLAGS = ["-std=c++17", "-O3", "-DNDEBUG", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall"]

LONGEST_REASON = 12  # lines of a compiler's message in the warning

CXX_OF = {"gcc": "g++", "clang": "clang++", "cc": "c++"}


class CannotBuild(CompileError):
    """The extension cannot be built here; the message is for the user."""


class CannotFind(CannotBuild):
    """Something is missing that most machines do without."""


class Torch(NamedTuple):
    version: str
    include: list[Path]
    library: Path


class Unit(NamedTuple):
    """One object file: its source and the flags that are its own; the compiler too, if it is not the usual one."""

    source: Path
    object: Path
    flags: list[str]
    compiler: list[str] | None = None


class Toolkit(NamedTuple):
    """CUDA's compiler and what it compiles for, as 80 for 8.0."""

    nvcc: Path
    architectures: list[int]


def find_torch() -> Torch:
    """The PyTorch to build against: importable, or installed where this package is about to be."""
    spec = importlib.util.find_spec("torch")
    places = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    places += [Path(sysconfig.get_path(name), "torch") for name in ("platlib", "purelib")]
    for place in places:
        if not (place / "version.py").is_file():
            continue
        version = re.search(r"__version__ = '(\d+)\.(\d+)[^']*'", (place / "version.py").read_text())
        if version is None:
            continue
        found = version.group(0).split("'")[1]
        if (int(version[1]), int(version[2])) < OLDEST_TORCH:
            raise CannotBuild(f"PyTorch {'.'.join(map(str, OLDEST_TORCH))} or later is needed, found {found}")
        if not (place / "include/torch/csrc/stable/library.h").is_file():
            raise CannotBuild(f"PyTorch {found} in {place} has no C++ headers")
        include = place / "include"
        return Torch(found, [include, include / "torch/csrc/api/include"], place / "lib")
    raise CannotBuild(
        "PyTorch was not found while building. Install it, then this package once more:\n"
        "    pip install torch\n"
        "    pip install --force-reinstall --no-deps --no-cache-dir PATH_OF_THIS_PACKAGE\n"
        "Where PyTorch is installed and a builder hides it, add --no-build-isolation (needs setuptools and wheel)."
    )


def find_toolkit(torch: Torch) -> Toolkit:
    """nvcc, of the same major version as PyTorch's CUDA, and the architectures that PyTorch names."""
    try:
        return Toolkit(*runpy.run_path("csrc/cuda/toolkit.py")["find"](torch.version, torch.library.parent))
    except LookupError as why:
        raise CannotFind(*why.args) from why


def find_compiler() -> list[str]:
    """CXX; else the C++ compiler that goes with CC; else the one Python was built with, or c++."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    if os.environ.get("CC"):
        *wrapper, cc = shlex.split(os.environ["CC"])
        return [*wrapper, re.sub(r"(?<![a-z])(gcc|clang|cc)(?=(-[\d.]+)?$)", lambda m: CXX_OF[m[1]], cc)]
    python_cxx = shlex.split(sysconfig.get_config_var("CXX") or "")[:1]
    return python_cxx if python_cxx and compiler_version(python_cxx) else ["c++"]


def compiler_version(compiler: list[str], line: int = 0) -> str:
    """First line of ``--version``, or another; empty if there is no such compiler."""
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip().split("\n")[line].strip() if done.returncode == 0 else ""


def user_flags(*names: str) -> list[str]:
    return [flag for name in names for flag in shlex.split(os.environ.get(name, ""))]


def macro(name: str, text: str) -> str:
    """-Dname="text", for a compiler started without a shell."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'-D{name}="{escaped}"'


def system(*folders: Path) -> list[str]:
    """Include folders whose warnings are not ours, and whose place on this machine stays out of the objects."""
    return [flag for f in folders for flag in ("-isystem", str(f), f"-ffile-prefix-map={f}=include")]


def python_flags() -> list[str]:
    limited = [f"-DPy_LIMITED_API={OLDEST_PYTHON}"] if LIMITED_API else []
    return [*limited, *system(Path(sysconfig.get_path("include")))]


def plan_cuda(compiler: list[str], torch: Torch, toolkit: Toolkit, objects: Path) -> list[Unit]:
    """Every object of the CUDA extension. What includes PyTorch's headers goes to the ordinary compiler."""
    folder = Path("csrc/cuda")
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in toolkit.architectures]
    newest = toolkit.architectures[-1]
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")  # for chips to come
    nvcc = [str(toolkit.nvcc), *(["-ccbin", shlex.join(compiler)] if os.environ.get("CXX") else []), *NVCC_FLAGS]
    units = [Unit(s, objects / "cuda" / f"{s.stem}_cu.o", codes, nvcc) for s in sorted(folder.glob("*.cu"))]
    stable = ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=" + TARGET_TORCH, *system(*torch.include)]
    facts = [
        macro("ALIAS_OPS_BUILD_COMPILER", compiler_version([str(toolkit.nvcc)], -1)),
        macro("ALIAS_OPS_BUILD_ARCHITECTURES", " ".join(map(str, toolkit.architectures))),
        macro("ALIAS_OPS_BUILD_TORCH", torch.version),
        *python_flags(),
    ]
    own, sources = {"facts": facts}, sorted(folder.glob("*.cpp"))
    return units + [Unit(s, objects / "cuda" / f"{s.stem}.o", own.get(s.stem, stable)) for s in sources]


def plan(compiler: list[str], torch: Torch, objects: Path) -> list[Unit]:
    """Every object of the CPU extension, in link order.

    Inline functions of the standard library that several objects instantiate are merged at link
    time, and the linker keeps the first: objects for lesser instruction sets must come first, or
    code of a greater one would run on a processor that does not have it.
    """
    stable = ["-DTORCH_TARGET_VERSION=" + TARGET_TORCH, *system(*torch.include)]
    own_flags = {
        "ops": stable,
        "conv2d_ops": stable,
        "isa": [f"-DALIAS_OPS_HAVE_{isa.upper()}" for isa in ISA_FLAGS],
        "facts": [
            macro("ALIAS_OPS_BUILD_COMPILER", compiler_version(compiler)),
            macro("ALIAS_OPS_BUILD_FLAGS", shlex.join([*COMMON_FLAGS, *user_flags("CPPFLAGS", "CXXFLAGS")])),
            macro("ALIAS_OPS_BUILD_TORCH", torch.version),
            *python_flags(),
        ],
    }
    units = [
        Unit(source, objects / f"{source.stem}.o", own_flags.get(source.stem, []))
        for source in sorted(Path("csrc").glob("*.cpp"))
    ]
    for isa in reversed(ISA_FLAGS):
        units += [
            Unit(source, objects / isa / f"{source.stem}.o", [f"-DALIAS_OPS_ISA={isa}", *ISA_FLAGS[isa]])
            for source in sorted(Path("csrc/cpu").glob("*.cpp"))
        ]
    return units


def run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotBuild(f"{what}: {error}") from error
    output = (done.stdout + done.stderr).strip()
    if done.returncode != 0:
        raise CannotBuild(f"{what} failed:\n{shlex.join(command)}\n{output}")
    if output:
        print(output, file=sys.stderr)


def missing_symbols(module: Path) -> list[str]:
    """Functions of ours that no object defines: a shared library links without them and then does not load."""
    try:
        listed = subprocess.run(["nm", "-u", "-C", str(module)], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [line.split(maxsplit=1)[-1] for line in listed.stdout.splitlines() if "alias_ops::" in line]


def importable(module: Path) -> list[Path]:
    """The files that some Python would import under this module's name, whichever it was built for."""
    stem = module.name.partition(".")[0]
    return [*module.parent.glob(f"{stem}.*so"), *module.parent.glob(f"{stem}.*pyd")]


def up_to_date(target: Path, command: list[str]) -> bool:
    """True if ``target`` was made by this very command from inputs that have not changed since."""
    stamp, dependencies = target.with_suffix(".command"), target.with_suffix(".d")
    if not (target.is_file() and dependencies.is_file() and stamp.is_file()):
        return False
    if stamp.read_text() != shlex.join(command):
        return False
    # "target: input input \<newline> input", spaces in names escaped.
    listed = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1]
    inputs = [Path(name.replace("\\ ", " ")) for name in re.split(r"(?<!\\)\s+", listed) if name]
    return all(i.is_file() and i.stat().st_mtime_ns < stamp.stat().st_mtime_ns for i in inputs)


def jobs() -> int:
    if os.environ.get("MAX_JOBS"):
        return max(1, int(os.environ["MAX_JOBS"]))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class BuildExtension(build_ext):
    """Compiles what changed, links, and knows how to do without."""

    def finalize_options(self) -> None:
        # One folder for pip, editable installs and build_ext --inplace alike, so that objects are reused.
        if self.build_temp is None:
            self.build_temp = f"build/objects-{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        super().finalize_options()

    def run(self) -> None:
        for name, mode in MODES.items():
            if mode not in ("auto", "0", "1"):
                raise CompileError(f"{SWITCHES[name]} must be auto, 0 or 1, got {mode!r}")
        self.places = {False, bool(self.inplace)}
        for extension in list(self.extensions):
            if MODES[extension.name] == "0":
                self.leave_out(extension)
        super().run()
        if LIMITED_API:  # a module for one Python alone, as this package had them once, would be preferred to it
            for extension in self.extensions:
                self.remove_modules(extension, keep_own=True)

    def leave_out(self, extension: Extension) -> None:
        """The extension is not in this build, and is not left over from an earlier one."""
        self.remove_modules(extension, keep_own=False)
        self.extensions = [e for e in self.extensions if e is not extension]
        self.distribution.ext_modules = self.extensions

    def remove_modules(self, extension: Extension, keep_own: bool) -> None:
        """Remove what earlier builds left in the folders of this one."""
        inplace = self.inplace
        for folder in self.places:
            self.inplace = folder
            own = Path(self.get_ext_fullpath(extension.name))
            for module in importable(own):
                if module != own or not keep_own:
                    module.unlink()
        self.inplace = inplace

    def build_extension(self, extension: Extension) -> None:
        mode = MODES[extension.name]
        try:
            self.build_or_raise(extension)
        except CannotBuild as why:
            if mode == "1":
                raise
            self.leave_out(extension)
            if isinstance(why, CannotFind):
                return
            reason = "\n".join(str(why).splitlines()[:LONGEST_REASON])
            switch = SWITCHES[extension.name]
            print(
                f"\nWARNING: alias_ops is {WITHOUT[extension.name]}.\nReason: {reason}\n{switch}=1 makes this an error "
                f"and shows all of it, {switch}=0 makes it the intended result.\n",
                file=sys.stderr,
            )

    def build_or_raise(self, extension: Extension) -> None:
        if os.name == "nt":
            raise CannotBuild("the kernels are written for GCC and Clang and do not build on Windows")
        torch, compiler = find_torch(), find_compiler()
        if not compiler_version(compiler):
            raise CannotBuild(
                f"no C++ compiler: `{shlex.join(compiler)} --version` does not run. "
                "Install GCC 12 or later, or name a compiler in CXX"
            )
        objects = Path(self.build_temp)
        libraries = ["-ltorch_cpu"]
        if extension.name == CUDA:
            toolkit = find_toolkit(torch)
            units = plan_cuda(compiler, torch, toolkit, objects)
            folder = toolkit.nvcc.resolve().parents[1] / "lib64"
            libraries = ["-ltorch_cuda", *libraries, f"-L{folder}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
        else:
            units = plan(compiler, torch, objects)
        with ThreadPoolExecutor(self.parallel or jobs()) as pool:
            running = [pool.submit(self.compile, compiler, unit) for unit in units]
            try:
                for done in running:
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        self.link(compiler, torch, units, libraries, Path(self.get_ext_fullpath(extension.name)))

    def compile(self, compiler: list[str], unit: Unit) -> None:
        command = [*(unit.compiler or [*compiler, *COMMON_FLAGS]), *unit.flags]
        command += [] if unit.compiler else user_flags("CPPFLAGS", "CXXFLAGS")
        command += ["-MMD", "-MF", str(unit.object.with_suffix(".d")), "-c", str(unit.source), "-o", str(unit.object)]
        if not self.force and up_to_date(unit.object, command):
            return
        label = f"{unit.source} ({unit.object.parent.name})" if unit.source.parent.name == "cpu" else str(unit.source)
        print(shlex.join(command) if self.verbose > 1 else f"compiling {label}", flush=True)
        unit.object.parent.mkdir(parents=True, exist_ok=True)
        # Written before compiling and named after: an input edited meanwhile is newer than the stamp.
        stamp, started = unit.object.with_suffix(".command"), unit.object.with_suffix(".started")
        stamp.unlink(missing_ok=True)
        started.write_text(shlex.join(command))
        run(command, f"compiling {label}")
        started.replace(stamp)

    def link(self, compiler: list[str], torch: Torch, units: list[Unit], libraries: list[str], module: Path) -> None:
        # Python's own flags for a loadable module (-shared, or -bundle -undefined dynamic_lookup), less its compiler.
        shared = [f for f in shlex.split(sysconfig.get_config_var("LDCXXSHARED") or "") if f.startswith("-")]
        # No rpath: alias_ops imports torch first, and the loader finds libtorch_cpu already in the process.
        command = [*compiler, *(shared or ["-shared"]), *(str(u.object) for u in units)]
        command += [f"-L{torch.library}", *libraries, *user_flags("LDFLAGS"), "-o", str(module)]
        module.parent.mkdir(parents=True, exist_ok=True)
        print(shlex.join(command) if self.verbose > 1 else f"linking {module.name}", flush=True)
        run(command, f"linking {module.name}")
        if missing := missing_symbols(module):
            module.unlink()
            raise CannotBuild(f"linking {module.name} failed: nothing defines {', '.join(missing)}")


os.chdir(Path(__file__).resolve().parent)  # every path above and below is relative to it
setup(
    license="MIT",
    # The benchmark lies beside the package in a checkout and inside it where it is installed.
    packages=[*find_packages(include=["alias_ops", "alias_ops.*"]), "alias_ops.benchmarks"],
    package_dir={"alias_ops.benchmarks": "benchmarks"},
    package_data={"alias_ops": ["py.typed", "cli/*.jinja", "ops/*.json"], "alias_ops.benchmarks": ["*.cpp"]},
    ext_modules=[
        Extension(name, sorted(map(str, sources)), py_limited_api=LIMITED_API)
        for name, sources in (
            (CPU, [*Path("csrc").glob("*.cpp"), *Path("csrc/cpu").glob("*.cpp")]),
            (CUDA, Path("csrc/cuda").glob("*.c*")),
        )
    ],
    cmdclass={"build_ext": BuildExtension, "bdist_wheel": ARCHIVES["Wheel"], "sdist": ARCHIVES["SourceArchive"]},
)
