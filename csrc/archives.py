"""Wheels and source archives of this package; setup.py runs this file."""

import gzip
import os
import sys
import sysconfig
import tarfile
from pathlib import Path

from setuptools.command.sdist import sdist

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:  # setuptools before 70.1
    from wheel.bdist_wheel import bdist_wheel

__all__ = ["LIMITED_API", "SourceArchive", "Wheel"]

# One module and one wheel for every CPython from 3.10 on (abi3). Free-threaded builds of CPython have no such API.
LIMITED_API = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


class Wheel(bdist_wheel):
    """A wheel for one platform and every Python from 3.10 on if the extension is in it, else one for all."""

    def finalize_options(self) -> None:
        super().finalize_options()
        if LIMITED_API:
            self.py_limited_api = "cp310"

    def run(self) -> None:
        self.run_command("build")
        self.root_is_pure = not self.distribution.has_ext_modules()
        super().run()


class SourceArchive(sdist):
    """With SOURCE_DATE_EPOCH, as wheels have it: the same files give the same archive, whoever packs them and when."""

    def make_archive(self, base_name, kind, root_dir=None, base_dir=None, owner=None, group=None):
        if kind != "gztar" or "SOURCE_DATE_EPOCH" not in os.environ:
            return super().make_archive(base_name, kind, root_dir, base_dir, owner, group)
        time = int(os.environ["SOURCE_DATE_EPOCH"])

        def nobodys(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime, member.uid, member.gid, member.uname, member.gname = time, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        archive = Path(f"{base_name}.tar.gz")
        archive.parent.mkdir(parents=True, exist_ok=True)
        with (
            gzip.GzipFile(archive, "wb", mtime=time) as packed,
            tarfile.open(fileobj=packed, mode="w") as members,
        ):
            members.add(base_dir, filter=nobodys)
        return str(archive)
