"""Fresh environments to install the package into, for test_wheels.py and .ci/wheels.

    python tests/installs.py FOLDER WHEEL TORCH [TORCH ...]

installs the wheel beside one PyTorch after the other, each as pip is asked for it (torch==2.13.0), in environments in
FOLDER, and fails unless the package works there with its extension, and is gone without a trace once it is uninstalled.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

SMOKE = Path(__file__).resolve().with_name("installed_smoke.py")
OWN = ("alias_ops", "__editable__")


def run(*command: object, **environment: str) -> str:
    """What the command prints, on both channels; with it in the message if it fails.

    Nothing of this process's Python reaches it: an installed package must not be found in a checkout.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "ALIAS_OPS", "CXX", "CC"))}
    done = subprocess.run(
        [str(part) for part in command],
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        cwd=Path(sys.prefix),
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Environment:
    """A virtual environment in ``folder``, without pip: this process's pip works on it."""

    def __init__(self, folder: Path):
        venv.create(folder, with_pip=False, symlinks=True)
        self.folder = folder
        self.python = folder / "bin" / "python"
        self.packages = Path(run(self.python, "-c", "import sysconfig; print(sysconfig.get_path('platlib'))").strip())

    def link_packages(self) -> None:
        """All that is installed beside this process's Python, this package excepted, without a copy."""
        for place in {sysconfig.get_path("platlib"), sysconfig.get_path("purelib")}:
            for entry in Path(place).iterdir():
                if entry.suffix != ".pth" and entry.name != "__pycache__" and not entry.name.startswith(OWN):
                    (self.packages / entry.name).symlink_to(entry)

    def pip(self, *arguments: object, **environment: str) -> str:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "--disable-pip-version-check", "--no-cache-dir")
        return run(*pip, *arguments, **environment)

    def smoke(self, backend: str) -> str:
        """Run the smoke test; the package has to serve tensors with ``backend``."""
        return run(self.python, SMOKE, backend, OMP_NUM_THREADS="1")

    def files(self) -> set[Path]:
        """Every file and folder, but what Python caches of other packages as they are imported."""
        return {
            Path(folder, name).relative_to(self.folder)
            for folder, folders, files in os.walk(self.folder)
            for name in (*folders, *files)
            if "__pycache__" not in Path(folder, name).relative_to(self.folder).parts or OWN[0] in folder
        }


def offline_wheels(folder: Path, *names: str) -> None:
    """Wheels of installed distributions and of what these need, made from their files: for pip without an index."""
    for name in names:
        found = metadata.distribution(name)
        tag = next(line.split()[1] for line in (found.read_text("WHEEL") or "").splitlines() if line.startswith("Tag:"))
        wheel = folder / f"{found.metadata['Name'].replace('-', '_')}-{found.version}-{tag}.whl"
        if wheel.exists():
            continue
        record = next(f for f in found.files or () if f.name == "RECORD" and f.parent.suffix == ".dist-info")
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in found.files or ():
                if ".." not in file.parts and file.suffix != ".pyc" and file != record:
                    archive.write(str(file.locate()), file.as_posix())
            lines = [f"{f},{digest(archive.read(f))},{archive.getinfo(f).file_size}" for f in archive.namelist()]
            archive.writestr(record.as_posix(), "\n".join([*lines, f"{record.as_posix()},,"]))
        needs = (need for need in found.requires or () if ";" not in need)
        offline_wheels(folder, *(re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in needs))


def digest(content: bytes) -> str:
    """As a wheel's RECORD has it."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def try_wheel(folder: Path, wheel: Path, torch: str) -> None:
    environment = Environment(folder)
    # A build for GPUs brings CUDA libraries, and without them does not import: pip's own choice of what it needs.
    environment.pip("install", "--quiet", torch, "numpy")
    before = environment.files()
    environment.pip("install", "--quiet", "--no-deps", wheel)
    print(environment.smoke("cpu").strip(), flush=True)
    environment.pip("uninstall", "--quiet", "--yes", "alias-ops")
    if left := sorted(environment.files() - before):
        raise RuntimeError(f"uninstalling left {', '.join(map(str, left))}")


if __name__ == "__main__":
    for request in sys.argv[3:]:
        place = Path(sys.argv[1]).resolve() / "".join(c if c.isalnum() else "-" for c in request)
        shutil.rmtree(place, ignore_errors=True)
        try_wheel(place, Path(sys.argv[2]).resolve(), request)
        shutil.rmtree(place)
