"""Workloads that users know from their own work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tarfile
from collections.abc import Mapping
from compileall import compile_dir
from py_compile import PycInvalidationMode
from typing import ClassVar, Final

from plugengine.bench.workload import GUEST, Inside
from plugengine.bench.workloads.content import write_sources, write_tree
from plugengine.bench.workloads.packages import plain, write_package
from plugengine.errors import NotSupportedError
from plugengine.model import HostPath

_GROUP: Final = "real work"
_LEFT_OUT: Final = (
    *("__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages"),
    *("lib2to3", "config-*", "ensurepip", "lib-dynload", "pydoc_data"),
)
_GIT: Final = ("-c", "user.name=bench", "-c", "user.email=bench@example.org", "-c", "gc.auto=0")
_DAY: Final = "2001-09-09T01:46:40+0000"


class _RealWork(Inside):
    """A function of the script for what people do."""

    script = f"{GUEST}/real_work.py"
    group = _GROUP


class _Sources(_RealWork):
    """Uses sources, packed and not."""

    area = "sources"
    full: ClassVar[Mapping[str, int]] = {"files": 600}
    quick: ClassVar[Mapping[str, int]] = {"files": 150}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Write the sources, a tar of them and a Debian package of them."""
        sources = HostPath(f"{directory}/sources")
        write_sources(sources, sizes["files"])
        with tarfile.open(f"{directory}/sources.tar", "w") as archive:
            archive.add(sources, "sources", filter=plain)
        write_package(f"{directory}/sources.deb", sources)


class UnpackSources(_Sources):
    """The beginning of every build."""

    name = "unpack-sources"
    title = "unpack a source tree"
    sentence = "unpack a tar of {files:,} sources of about 3 kB with Python's tarfile"
    function = "unpack_sources"


class CompileAll(_Sources):
    """Byte code for a package of the image."""

    name = "compileall"
    title = "python -m compileall"
    sentence = "compile {files:,} Python sources of the image, which writes as many files beside them"
    changes = True
    function = "compile_all"


class InstallPackage(_Sources):
    """A package manager that waits for the disk."""

    name = "install-package"
    title = "install a package"
    sentence = "dpkg --install of a package of {files:,} files into a root of its own"
    function = "install_package"


class GitCheckout(_RealWork):
    """A work tree out of a repository."""

    name = "git-checkout"
    title = "git checkout"
    sentence = "check {files:,} files of 4 KiB out of a packed repository"
    area = "git"
    function = "git_checkout"
    full: ClassVar[Mapping[str, int]] = {"files": 1_000}
    quick: ClassVar[Mapping[str, int]] = {"files": 300}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Make the repository with this machine's git."""
        if shutil.which("git") is None:
            return  # nothing to check out; the function says that git is missing
        tree = HostPath(f"{directory}/tree")
        write_tree(tree, sizes["files"])
        day = {"GIT_AUTHOR_DATE": _DAY, "GIT_COMMITTER_DATE": _DAY}
        nothing = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(directory)}
        environ = {"PATH": os.environ.get("PATH", os.defpath), **nothing, **day}
        for words in (
            ("init", "--quiet", "--template="),
            ("add", "--all"),
            ("commit", "--quiet", "--message=all"),
            ("repack", "-a", "-d", "--quiet"),
        ):
            command = ["git", *_GIT, *words]
            done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise NotSupportedError(f"make a repository: git {words[0]}: {done.stderr.strip()}")
        os.rename(f"{tree}/.git", f"{directory}/repository")
        os.unlink(f"{directory}/repository/index")
        shutil.rmtree(tree)


class _Import(_RealWork):
    """Imports from a copy of the standard library with its byte code, behind directories without it."""

    area = "import"
    full: ClassVar[Mapping[str, int]] = {"directories": 20, "passes": 5}
    quick: ClassVar[Mapping[str, int]] = {"directories": 20, "passes": 2}

    def build(self, directory: HostPath, sizes: Mapping[str, int]) -> None:
        """Copy the library of the Python that runs this, and make the directories."""
        ignore = shutil.ignore_patterns(*_LEFT_OUT)
        shutil.copytree(sysconfig.get_path("stdlib"), f"{directory}/library", ignore=ignore, symlinks=True)
        # Without times in it, so that the byte code is the same each time, and good for the Python that runs this.
        compile_dir(directory, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH, stripdir=directory)
        for number in range(sizes["directories"]):
            os.makedirs(f"{directory}/path/entry{number}")


class ImportCold(_Import):
    """The start of a service after that of the machine."""

    name = "import-cold"
    title = "import a package, cold"
    sentence = "start Python, import asyncio, http.server and five more that lie after {directories} path entries"
    cold = True
    function = "import_once"


class ImportWarm(_Import):
    """The start of a service."""

    name = "import-warm"
    title = "import a package, warm"
    sentence = ImportCold.sentence + "; mean of {passes} starts"
    function = "import_again"


class Sqlite(_RealWork):
    """A database that keeps its promises."""

    name = "sqlite"
    title = "SQLite transactions"
    sentence = "{transactions} transactions of one insert each, write-ahead log, synchronous=FULL"
    function = "database"
    full: ClassVar[Mapping[str, int]] = {"transactions": 300}
    quick: ClassVar[Mapping[str, int]] = {"transactions": 50}
