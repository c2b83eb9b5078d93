"""What the command must not do: run code out of a file, reach for a network, write anywhere but where it was told."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import run_python

from alias_ops.cli import main

# Python reports what a process opens, connects and removes, from C libraries that go through Python's calls too.
WATCHED = """
import json, os, sys
seen = []

def watch(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        if isinstance(path, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            return
        seen.append(["write", os.path.abspath(os.fsdecode(path))])
    elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate"):
        names = arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]
        seen.extend(["write", os.path.abspath(os.fsdecode(name))] for name in names if not isinstance(name, int))
    elif event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request", "http.client.connect"):
        seen.append(["network", f"{{event}} {{arguments[1:]}}"])

sys.addaudithook(watch)
from alias_ops.cli import main
status = main({arguments!r})
{then}
found = json.dumps({{"status": status, "seen": seen}})  # before the file is opened, which is seen too
with open({report!r}, "w") as file:
    file.write(found)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A user's folder with models in nets.py."""
    folder = tmp_path / "here"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("data") / "cli_models.py", folder / "nets.py")
    monkeypatch.chdir(folder)
    return folder


def watched(folder, arguments, then=""):
    """Status, files written and networks reached for, by the command in a process of its own.

    Not counted: matplotlib's cache of fonts, and the empty folder that importing PyTorch's compiler makes among the
    temporary files.
    """
    report, elsewhere = folder.parent / "report.json", folder.parent / "caches"
    elsewhere.mkdir()
    # PyTorch's compiler leaves the last of these in the environment of a process that has imported it.
    places = {name: str(elsewhere) for name in ("MPLCONFIGDIR", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")}
    code = WATCHED.format(arguments=arguments, report=str(report), then=then)
    done = run_python(code, **places, PYTHONDONTWRITEBYTECODE="1", PYTHONWARNINGS="ignore")
    assert report.exists(), done.stderr
    found = json.loads(report.read_text())
    ignored = (str(elsewhere), "/dev/")
    written = {path for kind, path in found["seen"] if kind == "write" and not path.startswith(ignored)}
    return found["status"], written, [what for kind, what in found["seen"] if kind == "network"]


def test_measuring_writes_into_the_folder_named_and_nowhere_else(here):
    pytest.importorskip("matplotlib")
    pytest.importorskip("skimage")
    before = set(here.rglob("*"))
    arguments = ["measure", "nets:net", "--size", "32", "--samples", "2", "--output", "out"]
    then = "main(['measure', 'nets:net', '--size', '32', '--samples', '2'])"  # nothing named
    status, written, network = watched(here, arguments, then)
    assert (status, network) == (0, [])
    assert {path for path in written if not Path(path).is_relative_to(here / "out")} == set()
    assert {f"{here}/out/aliasing.{end}" for end in ("csv", "json", "png")} <= {*map(str, (here / "out").iterdir())}
    assert {path for path in set(here.rglob("*")) - before if not path.is_relative_to(here / "out")} == set()
    assert written


def test_info_writes_nothing_and_what_follows_is_seen(here):
    then = """
open("stray", "w").close()
os.mkdir("folder")
import socket
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError:
    pass
"""
    _, written, network = watched(here, ["info"], then)
    assert written == {f"{here}/stray", f"{here}/folder"}
    assert [what.partition(" ")[0] for what in network] == ["socket.getaddrinfo", "socket.connect"]


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return Path.mkdir, (Path(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_runs_no_code_unless_the_user_insists(here, capsys, zipped):
    ran = here / "ran"
    torch.save(Payload(ran), "model.pt", _use_new_zipfile_serialization=zipped)
    assert main(["measure", "model.pt"]) == 2
    assert "add --unsafe-load if you trust where the file comes from" in capsys.readouterr().err
    assert not ran.exists()
    assert main(["measure", "model.pt", "--unsafe-load"]) == 2
    assert ran.exists()
