"""Find the program in the container and run the very file that was checked; execve(2), exec(3)."""

from __future__ import annotations

import errno
import os
import re
import stat
from typing import Final, NoReturn

from plugengine.kernel.attributes import statx
from plugengine.kernel.files import AT_FDCWD, RESOLVE_NO_MAGICLINKS, openat2
from plugengine.kernel.libc import os_error

from plugengine_runtime_native.child.start import FileId
from plugengine_runtime_native.prepared import Prepared

# include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE; and the depth of exec_binprm in fs/exec.c
_HEAD_BYTES: Final = 256
_MAX_INTERPRETERS: Final = 4
_BLANKS: Final = b" \t"
_TERMINATOR: Final = re.compile(rb"[ \t\0]")


class Program:
    """What will run: the path that was found, and the file behind it that the kernel has to load in the end."""

    __slots__ = ("argv", "fd", "interpreted", "path")

    def __init__(self, path: bytes, fd: int, argv: list[bytes], *, interpreted: bool) -> None:
        self.path: bytes = path
        self.fd: int = fd  # of the interpreter, where the path is a script's
        self.argv: list[bytes] = argv  # for `fd`
        self.interpreted: bool = interpreted


def find(process: Prepared, ours: FileId) -> Program:
    """Find the program as execvp(3) would, and the interpreter of a script as execve(2) would.

    The interpreter is looked for here, as the kernel would follow `#!/proc/self/exe` to the engine's own program and
    run that inside the container: CVE-2019-5736.

    Args:
        process: The plan.
        ours: The engine's own program, which is refused.

    Raises:
        OSError: ENOENT: there is none; EACCES and others: it can't be executed.
    """
    found, fd = _search(process.argv[0], process.search, ours)
    path, argv = found, list(process.argv)
    for level in range(_MAX_INTERPRETERS + 1):
        interpreter = _interpreter(path, fd)
        if interpreter is None:
            return Program(found, fd, argv, interpreted=level > 0)
        os.close(fd)
        argv = [*interpreter, path, *argv[1:]]
        path = interpreter[0]
        try:
            fd = _open(path, ours)
        except FileNotFoundError:
            # As the file itself is there, this is not "command not found".
            raise os_error(errno.EACCES, "execve", argv[0], "the interpreter of the script is missing") from None
    raise os_error(errno.ELOOP, "execve", process.argv[0], "too many interpreters")


def run(program: Program, process: Prepared) -> NoReturn:
    """execve(2); returns only as an exception.

    By descriptor it is the very file we looked at that runs, whatever its path means by now. By path the kernel gives
    the process its usual name in ps(1). A running container may swap files at any moment, so there the descriptor
    comes first; before that only who shares a volume with it could.
    """
    try:
        if process.hostile or (process.names_descriptors and not program.interpreted and _names_itself(program)):
            os.execve(program.fd, program.argv, process.environ)  # noqa: S606
        os.execve(program.path, process.argv, process.environ)  # noqa: S606
    except OSError as exc:
        raise os_error(exc.errno or 0, "execve", program.path) from None


def _names_itself(program: Program) -> bool:
    """Tell whether the last word of the path is the file's own name, not that of a symbolic link to it."""
    return os.path.samestat(os.lstat(program.path), os.fstat(program.fd))


def _search(name: bytes, directories: tuple[bytes, ...], ours: FileId) -> tuple[bytes, int]:
    if b"/" in name:
        return name, _open(name, ours)
    refused: OSError | None = None
    for directory in directories:
        path = (directory or b".") + b"/" + name
        try:
            return path, _open(path, ours)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            refused = refused or exc
    if refused is None:
        raise os_error(errno.ENOENT, "execvp", name)
    raise refused


def _open(path: bytes, ours: FileId) -> int:
    fd = openat2(AT_FDCWD, path, os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise os_error(errno.EACCES, "execve", path, "a directory")
    if not stat.S_ISREG(status.st_mode):
        raise os_error(errno.EACCES, "execve", path, "not a plain file")
    # The same file on the mount we came from; a bind mount of the caller's that shows it is the caller's business.
    if (status.st_dev, status.st_ino, statx(fd)[1]) == ours:
        raise os_error(errno.EPERM, "execve", path, "the engine's own program")
    if not os.access(path, os.X_OK, effective_ids=True):
        raise os_error(errno.EACCES, "execve", path)
    return fd


def _interpreter(path: bytes, fd: int) -> list[bytes] | None:
    """Return interpreter and argument of a `#!` line, None when there is none; load_script in fs/binfmt_script.c."""
    try:
        reader = openat2(AT_FDCWD, path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
    except PermissionError:
        return None  # executable, but not readable: a script can't be that
    if not os.path.samestat(os.fstat(reader), os.fstat(fd)):
        raise os_error(errno.ESTALE, "execve", path, "replaced while we looked at it")
    head = os.read(reader, _HEAD_BYTES)
    os.close(reader)
    if not head.startswith(b"#!"):
        return None
    words = script_line(head)
    if words is None:
        raise os_error(errno.ENOEXEC, "execve", path)
    return words


def script_line(head: bytes) -> list[bytes] | None:
    """Return the interpreter a `#!` line names, and its argument if there is one; None where the kernel says ENOEXEC.

    Args:
        head: The first BINPRM_BUF_SIZE bytes of the file; the kernel fills what is missing with zeros, and reads the
            line as a string of C, which ends at a zero.
    """
    buffer = head.ljust(_HEAD_BYTES, b"\0")
    line, newline, _rest = buffer.partition(b"\n")
    if not newline or b"\0" in line:
        line = buffer[: _HEAD_BYTES - 1]
        if not _TERMINATOR.search(line[2:].lstrip(_BLANKS)):
            return None  # the name of the interpreter may go on
    words = line[2:].strip(_BLANKS)
    end = _TERMINATOR.search(words)
    name = words[: end.start()] if end else words
    if not name:
        return None
    if end is None or end[0] == b"\0":
        return [name]
    return [name, words[end.end() :].lstrip(_BLANKS).partition(b"\0")[0]]
