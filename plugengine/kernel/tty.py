"""Pseudoterminals: make a pair inside a given devpts, size it, take it as controlling terminal; ioctl_tty(2)."""

from __future__ import annotations

import os
import struct

from plugengine.kernel.files import AT_FDCWD
from plugengine.kernel.libc import encode, ioctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# include/uapi/asm-generic/ioctls.h
TIOCSCTTY = 0x540E
TIOCNOTTY = 0x5422
TIOCGWINSZ = 0x5413
TIOCSWINSZ = 0x5414
TIOCGPTN = 0x80045430
TIOCSPTLCK = 0x40045431
TIOCGPTPEER = 0x5441

# struct winsize: rows, columns and two unused pixel counts
_WINSIZE = struct.Struct("HHHH")
_INT = struct.Struct("i")


def open_ptmx(devpts: int | str | bytes) -> int:
    """Open the multiplexer of a devpts instance: the engine's end of a new pseudoterminal, locked.

    Args:
        devpts: Root directory of the instance, as a path or a descriptor. The container's own, so that the other
            end has a name inside the container.
    """
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW
    if isinstance(devpts, int):
        return os.open(b"ptmx", flags, dir_fd=devpts)
    return os.open(encode(devpts) + b"/ptmx", flags, dir_fd=AT_FDCWD)


def unlock_pty(ptmx_fd: int) -> None:
    """TIOCSPTLCK: allow the other end to be opened."""
    ioctl(ptmx_fd, TIOCSPTLCK, bytearray(_INT.pack(0)), f"terminal descriptor {ptmx_fd}")


def pty_number(ptmx_fd: int) -> int:
    """TIOCGPTN: the name of the other end in its devpts."""
    buffer = bytearray(_INT.size)
    ioctl(ptmx_fd, TIOCGPTN, buffer, f"terminal descriptor {ptmx_fd}")
    return int(_INT.unpack(buffer)[0])


def open_pty_peer(ptmx_fd: int, flags: int = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC) -> int:
    """TIOCGPTPEER: open the other end, without any path a container could have replaced."""
    return ioctl(ptmx_fd, TIOCGPTPEER, flags, f"terminal descriptor {ptmx_fd}")


def get_window_size(fd: int) -> tuple[int, int]:
    """TIOCGWINSZ: return (rows, columns)."""
    buffer = bytearray(_WINSIZE.size)
    ioctl(fd, TIOCGWINSZ, buffer, f"terminal descriptor {fd}")
    rows, columns, _, _ = _WINSIZE.unpack(buffer)
    return rows, columns


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """TIOCSWINSZ: the foreground process group is sent SIGWINCH when the size changes."""
    ioctl(fd, TIOCSWINSZ, bytearray(_WINSIZE.pack(rows, columns, 0, 0)), f"terminal descriptor {fd}")


def make_controlling(fd: int) -> None:
    """TIOCSCTTY: make it the controlling terminal of a session leader that has none, see setsid(2)."""
    ioctl(fd, TIOCSCTTY, 0, f"terminal descriptor {fd}")


def set_raw(fd: int) -> list[Any]:
    """Pass every byte of a terminal through unchanged, as cfmakeraw of termios(3).

    Returns:
        The settings before, for `restore`.
    """
    import termios
    import tty

    before = termios.tcgetattr(fd)
    # Not TCSAFLUSH, the default: what was typed while the command was starting would be lost.
    tty.setraw(fd, termios.TCSADRAIN)
    return before


def restore(fd: int, settings: list[Any]) -> None:
    """Put the settings of a terminal back, once written output is through."""
    import termios

    termios.tcsetattr(fd, termios.TCSADRAIN, settings)
